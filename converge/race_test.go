//go:build race

package converge_test

func init() { slowed = true }

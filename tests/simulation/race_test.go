//go:build race

package simulation

// Under the race detector a schedule takes ten times as long.
func init() { byDefault = 1000 }

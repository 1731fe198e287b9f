//go:build race

package main

func init() { existingOrders = 3_000 } // the race detector makes all of it several times slower

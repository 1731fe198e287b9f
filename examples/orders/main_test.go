package main

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is also the program, as far as a relay in a process of its own goes: it is what a demo starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "relay" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

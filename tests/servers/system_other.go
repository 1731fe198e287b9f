//go:build !unix

package servers

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// Freeze and Thaw are signals that no process here takes: sending them is an error.
var (
	Freeze os.Signal = missing("SIGSTOP")
	Thaw   os.Signal = missing("SIGCONT")
)

type missing string

func (missing) Signal()          {}
func (m missing) String() string { return string(m) }

func runAs(*exec.Cmd, *account) {}

func leadGroup(*exec.Cmd) {}

func signalGroup(int, syscall.Signal) error {
	return errors.New("only on Unix are servers started for tests")
}

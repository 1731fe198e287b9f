//go:build unix

package servers

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// Freeze stops a process, and Thaw lets it go on.
var (
	Freeze os.Signal = syscall.SIGSTOP
	Thaw   os.Signal = syscall.SIGCONT
)

func attributes(command *exec.Cmd) *syscall.SysProcAttr {
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	return command.SysProcAttr
}

func runAs(command *exec.Cmd, as *account) {
	if as != nil {
		attributes(command).Credential = &syscall.Credential{Uid: as.uid, Gid: as.gid}
	}
}

// leadGroup makes a process the first of a group, which all that it starts belong to.
func leadGroup(command *exec.Cmd) { attributes(command).Setpgid = true }

// signalGroup sends a signal to a group; that it has ended is no error.
func signalGroup(leader int, signal syscall.Signal) error {
	if err := syscall.Kill(-leader, signal); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps the interrupt that a terminal sends to all in front of it away
// from cmd, and lets a kill reach what cmd has started.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

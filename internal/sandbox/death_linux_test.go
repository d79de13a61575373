package sandbox_test

import (
	"os/exec"
	"syscall"
)

func withDeathSignal(cmd *exec.Cmd) { cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL }

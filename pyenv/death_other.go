//go:build !linux

package pyenv

import "syscall"

// Elsewhere no such signal exists; what is left over is cleaned at the next start.
func dieWithParent(*syscall.SysProcAttr) {}

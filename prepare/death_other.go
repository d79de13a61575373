//go:build !linux

package prepare

import "syscall"

// Elsewhere no such signal exists.
func dieWithParent(*syscall.SysProcAttr) {}

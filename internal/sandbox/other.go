//go:build !linux

package sandbox

import (
	"os"
	"runtime"
)

func executable() (string, error) { return os.Executable() }

func newGroup(Policy) (group, error) { return group{}, nil }

// Clean removes what a process named name left behind.
func Clean(name string) error { return nil }

// Starved says whether the kernel killed a process of name for want of memory.
func Starved(name string) bool { return false }

func confine(o order) error { return setLimits(o.Policy) }

// Probe reports what this machine can hold a process to.
func Probe() Holds {
	no := Hold{Why: "not on " + runtime.GOOS + "; only Linux has Landlock"}
	return Holds{Network: no, Files: no, Processes: no, Memory: no}
}

//go:build unix

package sandbox

import (
	"fmt"
	"syscall"
)

// setLimits sets the resource limits that hold on every system.
func setLimits(p Policy) error {
	limits := []struct {
		what  int
		name  string
		value int64
	}{
		{syscall.RLIMIT_FSIZE, "file size", p.FileSize},
		{syscall.RLIMIT_NOFILE, "open files", p.OpenFiles},
	}
	for _, l := range limits {
		if l.value <= 0 {
			continue
		}
		if err := lower(l.what, uint64(l.value)); err != nil {
			return fmt.Errorf("limit %s: %w", l.name, err)
		}
	}
	// A core file would hold the model and whatever it was asked.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("limit core files: %w", err)
	}
	return nil
}

// lower sets a limit that the process cannot raise again. What is lower
// already stays.
func lower(what int, value uint64) error {
	var now syscall.Rlimit
	if err := syscall.Getrlimit(what, &now); err != nil {
		return err
	}
	value = min(value, now.Max)
	return syscall.Setrlimit(what, &syscall.Rlimit{Cur: value, Max: value})
}

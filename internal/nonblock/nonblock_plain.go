//go:build unix && (!linux || race)

package nonblock

import (
	"errors"
	"syscall"
)

// Where there is no better way, and for the race detector, which learns from
// ordinary calls what happened before what.

// Read is read(2), again where a signal interrupted it. At the end it returns
// zero and nil.
func Read(fd int, p []byte) (int, error) { return call(syscall.Read, fd, p) }

// Write is write(2), again where a signal interrupted it.
func Write(fd int, p []byte) (int, error) { return call(syscall.Write, fd, p) }

func call(f func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := f(fd, p)
		if !errors.Is(err, syscall.EINTR) {
			return max(0, n), err
		}
	}
}

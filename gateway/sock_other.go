//go:build !linux

package gateway

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

func limitUnsent(syscall.RawConn) {}

func waitingToBeSent(syscall.RawConn) int { return 0 } // not told here

// hasLeft reports whether the other end has closed, without reading anything.
// Behind bytes that are still unread, it is seen only once they were read.
func hasLeft(raw syscall.RawConn) bool {
	if raw == nil {
		return false
	}
	gone := false
	raw.Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = err == nil && n == 0 || errors.Is(err, unix.ECONNRESET)
	})
	return gone
}

func isExhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ENOBUFS)
}

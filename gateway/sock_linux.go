package gateway

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent bounds what the kernel takes of an answer before the client has: a
// client that does not read holds little memory and is soon not executed any further.
const unsent = 128 << 10

func limitUnsent(raw syscall.RawConn) {
	if raw == nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
}

// waitingToBeSent is how many bytes of what was written the other end has no
// room for yet.
func waitingToBeSent(raw syscall.RawConn) (n int) {
	if raw == nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) })
	return n
}

// hasLeft reports whether the other end has closed, without reading anything.
func hasLeft(raw syscall.RawConn) bool {
	if raw == nil {
		return false
	}
	gone := false
	_ = raw.Control(func(fd uintptr) {
		look := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(look, 0)
		gone = err == nil && n > 0 && look[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone
}

func isExhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ENOBUFS)
}

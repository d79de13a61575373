package upstream

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A hasty connection acknowledges at once what it reads. Simple engines write
// an answer's head and its body apart, and their kernel holds the second back
// until the first is acknowledged: 40 ms later, by habit.
type hasty struct {
	net.Conn
	raw syscall.RawConn
}

func hasten(nc net.Conn) net.Conn {
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return &hasty{nc, raw}
		}
	}
	return nc
}

// SyscallConn implements [syscall.Conn].
func (h *hasty) SyscallConn() (syscall.RawConn, error) { return h.raw, nil }

// Read asks each time: the kernel falls back into its habit with every write.
func (h *hasty) Read(p []byte) (int, error) {
	_ = h.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) // without it, only slower
	})
	return h.Conn.Read(p)
}

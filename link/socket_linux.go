package link

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"loadline.dev/loadline/internal/nonblock"
)

// A socket is a Unix socket that the runtime's poller does not see. That one
// asks to be told of room to write as well, and a Unix socket has room again
// whenever the other side has read: each side would be woken by each frame it
// sent. Here only an epoll of its own, asked for what can be read, is what the
// runtime waits for.
type socket struct {
	net.Conn // closed; it still knows its addresses

	fd    int
	epoll *os.File

	// hup is an epoll that is told of the end only. Together with the last bytes
	// it would be one event of the other, and a reader that does not read twice
	// to be sure takes the bytes and sleeps over the end.
	hup  *os.File
	hung atomic.Bool // the end was seen: read until it comes

	mu     sync.RWMutex // held for writing by Close
	closed bool
}

// own takes nc out of the runtime's hands if it is a Unix socket. Then nc is
// of no more use itself.
func own(nc net.Conn) net.Conn {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return nc
	}
	s, err := newSocket(u)
	if err != nil {
		return nc // out of descriptors, say: it works as it is
	}
	u.Close()
	return s
}

func newSocket(u *net.UnixConn) (*socket, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var failed error
	if err := raw.Control(func(its uintptr) { fd, failed = unix.FcntlInt(its, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || failed != nil {
		return nil, errors.Join(err, failed)
	}
	s := &socket{Conn: u, fd: fd}
	if s.epoll, err = watcher(fd, unix.EPOLLIN|unix.EPOLLRDHUP); err == nil {
		s.hup, err = watcher(fd, unix.EPOLLRDHUP)
	}
	if err != nil {
		if s.epoll != nil {
			s.epoll.Close()
		}
		unix.Close(fd)
		return nil, err
	}
	go s.awaitEnd()
	return s, nil
}

// watcher is an epoll of those events of fd, as a file that can be waited for.
func watcher(fd int, events uint32) (*os.File, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)})
	if err == nil {
		err = unix.SetNonblock(epoll, true) // else it is no file to wait for
	}
	if err != nil {
		unix.Close(epoll)
		return nil, err
	}
	return os.NewFile(uintptr(epoll), "epoll"), nil
}

// awaitEnd wakes the reader when either side has hung up. It ends then, or with Close.
func (s *socket) awaitEnd() {
	raw, err := s.hup.SyscallConn()
	if err != nil {
		return // closed already
	}
	_ = raw.Read(func(fd uintptr) bool {
		n, err := unix.EpollWait(int(fd), make([]unix.EpollEvent, 1), 0)
		return n > 0 || err != nil && !errors.Is(err, syscall.EINTR)
	})
	s.hung.Store(true)
	_ = s.epoll.SetReadDeadline(time.Unix(1, 0)) // long past: wakes whoever waits
}

// SyscallConn is what [reader.poll] waits on.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return s.epoll.SyscallConn() }

func (s *socket) Write(p []byte) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	done := 0
	for done < len(p) {
		n, err := nonblock.Write(s.fd, p[done:])
		switch {
		case err == nil:
			done += n
		case errors.Is(err, syscall.EAGAIN):
			// The other side is slow to read: rare, and worth a thread meanwhile.
			look := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(look, int(time.Second/time.Millisecond))
		default:
			return done, os.NewSyscallError("write", err)
		}
	}
	return done, nil
}

func (s *socket) Read([]byte) (int, error) { return 0, io.ErrNoProgress } // only poll reads

func (s *socket) shut(how int) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return net.ErrClosed
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(s.fd, how))
}

func (s *socket) CloseRead() error  { return s.shut(unix.SHUT_RD) }
func (s *socket) CloseWrite() error { return s.shut(unix.SHUT_WR) }

// Close must not be called from within poll, nor while it runs.
func (s *socket) Close() error {
	_ = s.shut(unix.SHUT_RDWR) // whoever writes ends
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.epoll.Close()
	s.hup.Close()
	return unix.Close(s.fd)
}

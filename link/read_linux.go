package link

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"loadline.dev/loadline/internal/nonblock"
)

// poll is each on a socket. An ordinary Read tries before it waits, and mostly
// in vain: what came was read a moment ago. Here the wait comes first. That no
// event is lost in between rests on two things: the whole loop is one read as
// the runtime sees it, so what arrives meanwhile is remembered, and a read that
// does not fill the buffer has emptied the socket (epoll(7)). That holds for
// bytes and not for the end behind them, which a socket of ours hears of by
// itself; of any other it is asked.
func (r *reader) poll(raw syscall.RawConn, f func(header, []byte) error) error {
	var over error
	own, owned := r.src.(*socket)
	once := func(fd uintptr) bool {
		if owned {
			fd = uintptr(own.fd)
		}
		for {
			need, err := r.handle(f)
			if over = err; err != nil {
				return true
			}
			r.makeRoom(need)
			room := r.buf[r.end:]
			n, err := nonblock.Read(int(fd), room)
			switch {
			case errors.Is(err, syscall.EAGAIN):
				return false
			case err != nil:
				over = os.NewSyscallError("read", err)
				return true
			case n == 0:
				over = r.ended(io.EOF)
				return true
			}
			r.end += n
			if n == len(room) || !owned || own.hung.Load() {
				continue
			}
			_, over = r.handle(f)
			return over != nil
		}
	}
	err := raw.Read(once)
	if owned && over == nil && own.hung.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		if err = own.epoll.SetReadDeadline(time.Time{}); err == nil {
			err = raw.Read(once)
		}
	}
	if over != nil {
		return over
	}
	return err
}

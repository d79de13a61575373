package link

import (
	"errors"
	"io"
	"os"
	"syscall"

	"loadline.dev/loadline/internal/nonblock"
)

// poll is each on a socket. An ordinary Read tries before it waits, and mostly
// in vain: what came was read a moment ago. Here the wait comes first. That no
// event is lost in between rests on two things: the whole loop is one read as
// the runtime sees it, so what arrives meanwhile is remembered, and a read that
// does not fill the buffer has emptied the socket (epoll(7)).
func (r *reader) poll(raw syscall.RawConn, f func(header, []byte) error) error {
	var over error
	own, owned := r.src.(*socket)
	err := raw.Read(func(fd uintptr) bool {
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
			if n == len(room) {
				continue
			}
			_, over = r.handle(f)
			return over != nil
		}
	})
	if over != nil {
		return over
	}
	return err
}

package gateway

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"loadline.dev/loadline/internal/nonblock"
)

// poll executes requests for as long as each arrives whole, head and body, as
// nearly all do. True leaves it to the ordinary way to go on with what is there.
//
// An ordinary Read tries before it waits, and between two requests always in
// vain. Here the wait comes first. That no event is lost in between rests on
// two things: the whole loop is one read as the runtime sees it, so what
// arrives meanwhile is remembered, and a read that does not fill the buffer
// has emptied the socket (epoll(7)). Nothing in the loop may read in any other way.
func (c *conn) poll() (ordinary bool) {
	if c.raw == nil || c.secure {
		return true
	}
	for c.r == c.w {
		ordinary = true
		err := c.raw.Read(func(fd uintptr) (stop bool) {
			c.fd = int(fd)
			stop, ordinary = c.ready(int(fd))
			c.fd = -1
			return stop
		})
		switch {
		case err == nil:
			return ordinary
		case !c.early(err, &c.readUntil, c.sock.SetReadDeadline):
			return false
		}
	}
	return true
}

// ready reads what has come and executes it. It stops when the connection is
// over, or to leave it to the ordinary way.
func (c *conn) ready(fd int) (stop, ordinary bool) {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	c.borrow()
	room := c.in[c.w:]
	n, err := nonblock.Read(fd, room)
	switch {
	case errors.Is(err, syscall.EAGAIN):
		c.await(false)
		c.giveBack()
		return false, false
	case err != nil || n == 0:
		return true, false
	}
	c.w += n
	for c.r < c.w && c.whole() {
		if !c.execute() {
			c.spent = true
			return true, false
		}
	}
	if c.r < c.w || n == len(room) {
		return true, true
	}
	c.await(false)
	c.giveBack()
	return false, false
}

// whole begins the next request if all of it is there.
func (c *conn) whole() bool {
	c.head.Reset()
	c.floor = 0
	have := c.in[c.r:c.w]
	n, refusal := c.head.Read(have)
	if n == 0 || refusal != nil || c.head.Chunked || c.head.Length > int64(len(have)-n) {
		return false // the ordinary way reads the head again
	}
	c.r += n
	c.floor = c.r
	c.readUntil.Store(0)
	return true
}

// hangUp ends the connection for both sides without waiting; serve, which then
// ends, closes it. Close itself would wait for what poll executes.
func (c *conn) hangUp() {
	if c.raw == nil {
		c.sock.Close()
		return
	}
	_ = c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
}

// write writes at once what the socket takes at once, from within poll.
func (c *conn) write(p []byte) (int, error) {
	if c.fd >= 0 {
		if n, err := nonblock.Write(c.fd, p); err == nil {
			return n, nil
		}
	}
	return c.nc.Write(p) // it waits, and knows what errors mean
}

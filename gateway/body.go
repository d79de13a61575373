package gateway

import (
	"errors"
	"io"
	"os"

	"loadline.dev/loadline/gateway/http1"
)

// A body is how far the body of the request was read.
type body struct {
	left    int64 // bytes to come, when the length is known
	chunked bool
	chunks  http1.Chunks
	taken   int64 // bytes read
	started int64 // when its first byte was waited for; the gateway's time
	awaited bool  // the client was told to go on, or never asked
}

func (b *body) begin(h *http1.Head) {
	*b = body{left: max(0, h.Length), chunked: h.Chunked, awaited: !h.Continue}
}

// unread reports whether some of the body is still to come.
func (b *body) unread() bool {
	if b.chunked {
		return !b.chunks.Done()
	}
	return b.left > 0
}

var (
	errTooLarge = errors.New("body too large")
	errCrowded  = errors.New("too many request bodies at once")
	errGone     = errors.New("the client has left")
)

// skipLimit is how much of a body that nobody wanted is read and thrown away
// rather than closing the connection.
const skipLimit = 64 << 10

// skippable reports whether the rest of the body is about to come and small.
func (b *body) skippable() bool { return b.awaited && !b.chunked && b.left <= skipLimit }

// skip throws away the rest of the body if that is soon done. It reports
// whether the next request follows.
func (c *conn) skip() bool {
	for c.body.skippable() {
		if _, err := c.next(); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
	return !c.body.unread()
}

// skipArrived throws away what is there of the body.
func (c *conn) skipArrived() {
	for {
		if piece, err := c.take(); err != nil || len(piece) == 0 {
			return
		}
	}
}

// next returns the next piece of the body, valid until the next call, and
// [io.EOF] after the last.
func (c *conn) next() ([]byte, error) {
	for {
		piece, err := c.take()
		if len(piece) > 0 || err != nil {
			return piece, err
		}
		if err := c.fillBody(); err != nil {
			return nil, err
		}
	}
}

// take returns what is there of the body, if anything.
func (c *conn) take() ([]byte, error) {
	b := &c.body
	if !b.unread() {
		return nil, io.EOF
	}
	have := c.in[c.r:c.w]
	if !b.chunked {
		piece := have[:min(int64(len(have)), b.left)]
		c.r += len(piece)
		b.left -= int64(len(piece))
		b.taken += int64(len(piece))
		return piece, nil
	}
	piece, n, refusal := b.chunks.Next(have)
	c.r += n
	b.taken += int64(len(piece))
	if refusal != nil {
		return nil, refusal
	}
	if len(piece) == 0 && b.chunks.Done() {
		return nil, io.EOF
	}
	return piece, nil
}

// fillBody reads more, within the time a body may take.
func (c *conn) fillBody() error {
	if err := c.sayContinue(); err != nil {
		return err
	}
	c.allow()
	err := c.fill()
	c.readUntil.Store(0)
	return bodyError(err)
}

// allow sets until when the next bytes of the body must have come: the patience,
// and a second for each 16 KiB that came.
func (c *conn) allow() {
	b := &c.body
	if b.started == 0 {
		b.started = c.g.now()
	}
	until := b.started + int64(c.g.Patience.Body) + b.taken>>14*1e9
	if d := c.deadline.Load(); d != 0 {
		until = min(until, d)
	}
	c.readUntil.Store(until)
}

func bodyError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &http1.Refusal{Status: 408, Why: "the body did not arrive in time"}
	}
	return errGone
}

// sayContinue tells a client that waits for it to send the body.
func (c *conn) sayContinue() error {
	if c.body.awaited {
		return nil
	}
	c.body.awaited = true
	c.out = append(c.out, "HTTP/1.1 100 Continue\r\n\r\n"...)
	if c.flush() != nil {
		return errGone
	}
	return nil
}

// readBody reads the whole body, at most limit bytes of it. What it returns
// points into the connection's buffer where it is there already; held is what
// was taken from the gateway's memory for it and must be given back.
func (c *conn) readBody(limit int64) (whole []byte, held int64, err error) {
	b := &c.body
	if !b.chunked && b.left <= int64(len(c.in)-c.r) {
		for b.left > int64(c.w-c.r) {
			if err := c.fillBody(); err != nil {
				return nil, 0, err
			}
		}
		whole, err = c.take()
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return whole, 0, err
	}
	for {
		if b.chunked && b.chunks.Data > limit {
			return nil, held, errTooLarge
		}
		piece, err := c.take()
		if errors.Is(err, io.EOF) {
			return whole, held, nil
		}
		if err != nil {
			return nil, held, err
		}
		if len(piece) > 0 {
			if whole, held, err = c.keep(whole, held, len(piece), limit); err != nil {
				return nil, held, err
			}
			whole = append(whole, piece...)
			continue
		}
		if b.chunked || b.left < firstBuffer {
			err = c.fillBody()
		} else {
			whole, held, err = c.readInto(whole, held, limit)
		}
		if err != nil {
			return nil, held, err
		}
	}
}

// readInto reads body bytes of known number behind whole, without a copy.
func (c *conn) readInto(whole []byte, held, limit int64) ([]byte, int64, error) {
	if err := c.sayContinue(); err != nil {
		return whole, held, err
	}
	b := &c.body
	whole, held, err := c.keep(whole, held, int(min(b.left, 64<<10)), limit)
	if err != nil {
		return whole, held, err
	}
	room := whole[len(whole):min(int64(cap(whole)), int64(len(whole))+b.left)]
	for {
		c.allow()
		n, err := c.nc.Read(room)
		if n > 0 {
			c.readUntil.Store(0)
			b.left -= int64(n)
			b.taken += int64(n)
			return whole[:len(whole)+n], held, nil
		}
		if err != nil && !c.early(err, &c.readUntil, c.sock.SetReadDeadline) {
			c.readUntil.Store(0)
			return whole, held, bodyError(err)
		}
	}
}

// keep makes room for n more bytes behind whole. The room grows with what has
// come, never with what was promised, and is taken from the gateway's memory.
func (c *conn) keep(whole []byte, held int64, n int, limit int64) ([]byte, int64, error) {
	if len(whole)+n <= cap(whole) {
		return whole, held, nil
	}
	size := int64(max(len(whole)+n, min(4*cap(whole), int(limit)), 16<<10))
	if !c.body.chunked {
		size = min(size, c.head.Length)
	}
	if !c.reserve(size - held) {
		return whole, held, errCrowded
	}
	bigger := make([]byte, len(whole), size)
	copy(bigger, whole)
	return bigger, size, nil
}

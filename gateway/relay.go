package gateway

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/link"
)

// relayBuffers are for answers that do not fit into what is sent at once.
var relayBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// relay passes an answer on. A small one of known length is sent in one write,
// so that what breaks within it can still be said properly; every piece of one
// of unknown length is sent as it comes.
func (r *request) relay(s *link.Stream, a *link.Answer, up *upload) *fault {
	c := r.c
	if why := r.unsound(a); why != "" {
		return badGateway("the replica of " + r.e.name + " gave an answer that is none: " + why)
	}
	if up != nil && !up.ended() {
		c.answer.closing = true // the engine answers before it has read the request
	}
	c.startHead(a.Status)
	for i := range a.Header {
		if f := &a.Header[i]; returned(f.Name, r.re.Raw) {
			c.addField(f.Name, f.Value)
		}
	}
	c.endHead(a.Size)
	if c.answer.bare {
		_ = c.finish()
		return nil
	}
	buf := relayBuffers.Get().(*[]byte)
	defer relayBuffers.Put(buf)
	for {
		n, err := s.Read(*buf)
		if c.answer.left >= 0 && int64(n) > c.answer.left {
			return r.torn(errors.New("more body than its length says"))
		}
		if n > 0 && c.writeBody((*buf)[:n]) != nil {
			return nil
		}
		switch {
		case errors.Is(err, io.EOF) && c.answer.left <= 0:
			_ = c.finish()
			return nil
		case errors.Is(err, io.EOF):
			return r.torn(errors.New("less body than its length says"))
		case err != nil:
			return r.torn(err)
		case c.answer.left < 0 && c.flush() != nil:
			return nil
		}
	}
}

// torn ends an answer that broke within its body: unsent, it is replaced by
// what happened; sent in part, the connection is closed under it, so that the
// client knows.
func (r *request) torn(err error) *fault {
	c := r.c
	if c.answer.sent {
		if c.interrupted() != left {
			c.flush()
			c.g.logAnswer(c, badGateway("the answer broke: "+err.Error()))
		}
		c.answer.closing = true
		r.times.torn = true
		return nil
	}
	c.out = c.out[:0]
	c.answer = answer{entity: c.answer.entity, limits: c.answer.limits}
	return r.broken(err, nil)
}

// unsound says what is wrong with the head of an engine's answer.
func (r *request) unsound(a *link.Answer) string {
	if a.Status < 200 || a.Status > 599 {
		return "status out of range"
	}
	for _, f := range a.Header {
		if !soundField(f) {
			return "a header field that is none"
		}
	}
	return ""
}

// An upload sends the rest of a body while its answer may already come.
type upload struct {
	c     *conn
	s     *link.Stream
	limit int64

	sent atomic.Bool // something beyond the first piece was sent
	last atomic.Bool // the end of the body was read
	over chan struct{}
	err  error // valid once over is closed
}

func (c *conn) upload(s *link.Stream, limit int64) *upload {
	u := &upload{c: c, s: s, limit: limit, over: make(chan struct{})}
	go func() {
		defer close(u.over)
		u.err = u.run()
	}()
	return u
}

func (u *upload) run() error {
	for {
		piece, err := u.c.next()
		if errors.Is(err, io.EOF) {
			u.last.Store(true)
			return u.s.Write(nil, true)
		}
		if u.c.halted.Load() {
			return nil
		}
		if err == nil && u.c.body.taken > u.limit {
			err = errTooLarge
		}
		if err != nil {
			if errors.Is(err, errGone) {
				u.c.interrupt(left, 0)
			}
			u.s.Cancel() // whoever awaits the answer learns why from stop
			return err
		}
		u.sent.Store(true)
		if err := u.s.Write(piece, false); err != nil {
			return nil //nolint:nilerr // the answer's side knows better what happened
		}
	}
}

// untouched reports whether the request can be sent again as it was.
func (u *upload) untouched() bool {
	_ = u.stop()
	return !u.sent.Load() && u.c.body.unread()
}

// ended reports whether the whole body was sent.
func (u *upload) ended() bool {
	if u.last.Load() {
		<-u.over // at once: an end needs no window
	}
	return u.done()
}

func (u *upload) done() bool {
	select {
	case <-u.over:
		return true
	default:
		return false
	}
}

// stop ends the upload and says why it ended, if not by itself.
func (u *upload) stop() error {
	if !u.done() {
		u.s.Cancel() // does nothing to an answer that is complete
		u.c.halted.Store(true)
		u.c.sock.SetReadDeadline(time.Unix(1, 0))
		<-u.over
		u.c.halted.Store(false)
		u.c.sock.SetReadDeadline(time.Time{})
	}
	if errors.Is(u.err, link.ErrAnswered) || errors.Is(u.err, link.ErrCancelled) {
		return nil
	}
	return u.err
}

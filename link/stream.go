package link

import (
	"context"
	"io"
	"sync/atomic"
)

// A Stream is one request and its answer, on the gateway's side. One goroutine
// may write while another reads; Cancel may be called from anywhere.
type Stream struct {
	pipe
	conn *Conn

	opened   atomic.Uint64 // where its first frame begins; see sender.mark
	answer   Answer
	texts    []byte // what the texts of answer point into
	answered bool   // the head is there
	given    bool   // a relay has sent the request on; guarded by pipe.mu
}

func (s *Stream) begin(id uint32) {
	s.reset(id)
	s.answered, s.given = false, false
	s.answer.Header = s.answer.Header[:0]
	if cap(s.texts) > 8<<10 {
		s.texts = nil
	}
}

// Write sends more of the body; end says that it was the last. It waits while
// the agent's window is full.
func (s *Stream) Write(p []byte, end bool) error { return s.write(p, end, true) }

// Answer waits for the head of the answer. It is valid until Close. A context
// that ends does not cancel the request; that is Cancel's.
func (s *Stream) Answer(ctx context.Context) (*Answer, error) {
	for {
		s.mu.Lock()
		answered, err := s.answered, s.err
		s.mu.Unlock()
		if answered {
			return &s.answer, nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Read reads the body of the answer, which Answer has returned. At its end it
// returns [io.EOF].
func (s *Stream) Read(p []byte) (int, error) { return s.read(p) }

// Cancel says that nobody waits for the answer any more. Whoever reads or
// writes gets [ErrCancelled]. After the end of the answer it does nothing.
func (s *Stream) Cancel() {
	s.mu.Lock()
	id, over := s.id, s.ended
	s.mu.Unlock()
	if over || !s.end(id, ErrCancelled) {
		return
	}
	s.conn.forget(id)
	s.out.commit(appendNumbers(s.out.begin(), kindCancel, id), true)
}

// Close cancels what is not over and gives the stream back. It must not be
// used afterwards, by nobody. Without Close a stream is merely not used again.
func (s *Stream) Close() {
	s.Cancel()
	s.conn.forget(s.id)
	s.mu.Lock()
	s.id = 0
	s.mu.Unlock()
	s.conn.recycle(s)
}

func (s *Stream) handle(h header, payload []byte) error {
	switch h.kind {
	case kindAnswer:
		return s.head(h, payload)
	case kindData:
		end := h.flags&flagEnd != 0
		if current, answered := s.state(h.stream); current && !answered || !s.deliver(h.stream, payload, end) {
			return malformed("body beyond its window, its end, or before its head")
		}
		if end { // what is still being sent of the request is not wanted
			s.conn.forget(h.stream)
			s.end(h.stream, ErrAnswered)
		}
	case kindWindow:
		var n int
		if err := parseNumbers(payload, &n); err != nil {
			return err
		}
		if !s.widen(h.stream, n) {
			return malformed("a window wider than %d", Window)
		}
	case kindRefuse:
		if current, answered := s.state(h.stream); current && answered {
			return malformed("not taken after an answer")
		}
		s.conn.forget(h.stream)
		s.end(h.stream, &BrokenError{Why: "not taken: " + why(payload)})
	case kindBroken:
		s.conn.forget(h.stream)
		s.end(h.stream, &BrokenError{Taken: s.goneOn(), Why: why(payload)})
	case kindGiven:
		s.mu.Lock()
		s.given = s.given || s.id == h.stream
		s.mu.Unlock()
	}
	return nil
}

// goneOn says whether an engine may have seen the request, which has left here.
func (s *Stream) goneOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.conn.hooks.Relay || s.given
}

func why(payload []byte) string { return string(payload[:min(len(payload), maxWhy)]) }

// state says whether the stream is still the one of that id, with somebody who
// waits, and has its head. Of a cancelled one the head is not looked at.
func (s *Stream) state(id uint32) (current, answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id == id && s.err == nil, s.answered
}

func (s *Stream) head(h header, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != h.stream || s.err != nil {
		return nil
	}
	if s.answered {
		return malformed("two heads of one answer")
	}
	if err := parseAnswer(payload, &s.answer, &s.texts); err != nil {
		return err
	}
	s.answered = true
	nudge(s.wake)
	return nil
}

var _ io.Reader = (*Stream)(nil)

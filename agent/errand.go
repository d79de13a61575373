package agent

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"loadline.dev/loadline/link"
)

// An errand is one request on its way through the agent, and the [Answerer] of
// it. The engine writes to it; the deadline may end it from outside. When it is
// over it is kept for another request: none may cost an allocation.
type errand struct {
	agent    *agent
	run      *run
	in       *link.Incoming
	request  Request
	limit    time.Duration // until its caller is answered without the engine
	patience time.Duration // until the engine counts as hung, besides hangGrace
	late     *time.Timer   // rings at the limit

	mu      sync.Mutex
	began   bool
	expired bool
	over    bool        // nobody waits for more of the answer
	settled bool        // the engine is done with it
	hung    *time.Timer // set once it is late
	size    int64       // as the head says; -1 when unknown
	wrote   int64
}

// errand begins the errand of in, whose clock runs from now on.
func (a *agent) errand(r *run, in *link.Incoming) *errand {
	e := a.spare.take()
	if e == nil {
		e = &errand{agent: a}
	}
	e.run, e.in = r, in
	e.began, e.expired, e.over, e.settled, e.hung, e.size, e.wrote = false, false, false, false, nil, 0, 0
	e.fill()
	e.limit = a.request
	if in.Timeout > 0 {
		e.limit = min(e.limit, in.Timeout)
	}
	// Whoever still works on a request past its deadline hangs, whether or not
	// anybody waits for the answer.
	e.patience = max(e.limit, a.patience())
	if e.late == nil {
		e.late = time.AfterFunc(e.limit, e.ring)
	} else {
		e.late.Reset(e.limit)
	}
	return e
}

// spare keeps errands that are over, at most maxSpare.
type spare struct {
	mu   sync.Mutex
	list []*errand
}

const maxSpare = 256

func (s *spare) take() *errand {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.list) - 1
	if last < 0 {
		return nil
	}
	e := s.list[last]
	s.list[last] = nil
	s.list = s.list[:last]
	return e
}

func (s *spare) keep(e *errand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) < maxSpare {
		s.list = append(s.list, e)
	}
}

// fill makes the request what engines are to see of it.
func (e *errand) fill() {
	in, r := e.in, &e.request
	*r = Request{Method: in.Method, Path: in.Path, Header: r.Header[:0], Body: in, Size: in.Size}
	for _, f := range in.Header {
		// Who the caller is, is not told to outsiders' code.
		if hopByHop(f.Name) || named(f.Name, "authorization") {
			continue
		}
		r.Header = append(r.Header, f)
	}
	r.ContentType = r.Field("Content-Type")
	r.ContentEncoding = r.Field("Content-Encoding")
}

// named says whether a field has that name, which is in lower case.
func named(field, name string) bool { return len(field) == len(name) && equalFold(field, name) }

// hopByHop says whether a field concerns one connection only. The gateway has
// dropped those already, and those that Connection names; this is the second lock.
func hopByHop(name string) bool {
	switch len(name) {
	case 2:
		return named(name, "te")
	case 7:
		return named(name, "trailer") || named(name, "upgrade")
	case 10:
		return named(name, "connection") || named(name, "keep-alive")
	case 14:
		return named(name, "http2-settings")
	case 16:
		return named(name, "proxy-connection")
	case 17:
		return named(name, "transfer-encoding")
	case 18:
		return named(name, "proxy-authenticate")
	case 19:
		return named(name, "proxy-authorization")
	}
	return false
}

// release keeps e for another request, unless its timer rang: then somebody may
// still be at it.
func (e *errand) release() {
	if !e.late.Stop() {
		return
	}
	clear(e.request.Header) // what it points to belongs to others now
	e.request = Request{Header: e.request.Header[:0]}
	e.run, e.in = nil, nil
	e.agent.spare.keep(e)
}

// ring is the end of the time that the request had.
func (e *errand) ring() {
	e.mu.Lock()
	settled := e.settled
	e.mu.Unlock()
	if settled {
		return
	}
	e.overdue()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settled {
		return
	}
	r, limit, patience := e.run, e.limit, e.patience
	e.hung = time.AfterFunc(patience+hangGrace-limit, func() {
		r.condemn(fmt.Sprintf("killed: a request with a deadline of %v was still running after %v", limit, patience+hangGrace))
	})
}

// overdue answers for the engine, which is doubted if it had all the time there is.
func (e *errand) overdue() {
	if e.limit >= e.patience {
		e.agent.doubt(e.run) // before the answer: who asks next must not be let in here
	}
	e.expire()
}

// settle ends the request as its engine and its caller left it, and counts it.
func (a *agent) settle(e *errand, cause, err error, took time.Duration, beside int64) {
	e.mu.Lock()
	began, expired, short := e.began, e.expired, e.size >= 0 && e.wrote != e.size
	e.over, e.settled = true, true
	if e.hung != nil {
		e.hung.Stop()
	}
	e.mu.Unlock()
	switch {
	case expired:
		a.count.timedOut.Add(1)
	case errors.Is(cause, link.ErrCancelled):
		a.count.cancelled.Add(1)
	case errors.Is(err, link.ErrNotTaken) && !began:
		a.count.notTaken.Add(1)
		e.in.Refuse(err.Error())
	case err != nil:
		a.count.broken.Add(1)
		e.in.Fail(clip(err.Error(), 500))
	case !began:
		a.count.broken.Add(1)
		e.in.Fail("the engine gave no answer")
	case short:
		a.count.broken.Add(1)
		e.in.Fail("the engine's answer is shorter than it said")
	default:
		a.count.answered.Add(1)
		a.count.serve(took)
		a.count.beside.Add(uint64(beside))
		a.count.took.Add(uint64(took))
	}
}

var (
	errOver = errors.New("nobody waits for this answer any more")
	errLong = errors.New("the engine's answer is longer than it said")
)

func (e *errand) Head(status int, header []link.Field, size int64) error {
	e.mu.Lock()
	switch {
	case e.over:
		e.mu.Unlock()
		return errOver
	case e.began:
		e.mu.Unlock()
		return errors.New("two heads of one answer")
	}
	e.began, e.size = true, size
	e.mu.Unlock()
	return e.in.Reply(&link.Answer{Status: status, Header: header, Size: size})
}

func (e *errand) Write(p []byte) (int, error) {
	e.mu.Lock()
	e.wrote += int64(len(p))
	began, over, long := e.began, e.over, e.size >= 0 && e.wrote > e.size
	e.mu.Unlock()
	switch {
	case over:
		return 0, errOver
	case !began:
		return 0, errors.New("a body before its head")
	case long:
		return 0, errLong
	}
	return e.in.Write(p)
}

func (e *errand) Flush() error { return e.in.Flush() }

// timeoutText is what MLflow's own server says at its deadline.
const timeoutText = "Request processing time exceeded limit"

// expire answers for an engine that has not, at the deadline. It keeps the lock
// while it does: the request is not over before it has.
func (e *errand) expire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return
	}
	e.over, e.expired = true, true
	if e.began {
		e.in.Fail(timeoutText)
		return
	}
	_ = e.in.Reply(&link.Answer{Status: 504, Size: int64(len(timeoutText)),
		Header: []link.Field{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}})
	_, _ = e.in.Write([]byte(timeoutText))
	e.in.Close()
}

var _ Answerer = (*errand)(nil)

package link

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A life is the context of one request, and of the next one that the same
// [Incoming] carries: contexts of package context would each be made anew, with
// a channel and a timer of their own. Nobody may hold on to it when the handler
// has returned.
type life struct {
	mu       sync.Mutex
	deadline time.Time // zero is none
	over     bool
	cause    error         // of the end; nil once the handler has returned
	done     chan struct{} // nil until somebody asks; used again unless it was closed
	closed   bool          // done is
	alarm    *alarm        // for the deadline; nil until somebody waits for it
	armed    bool
	calls    []*func() // of AfterFunc, in no order

	// calling counts those that were called and have not come back. They ask l
	// why it ended, so it must not begin again before.
	calling sync.WaitGroup
}

var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// begin readies l for a request that may take that long; zero is for ever.
func (l *life) begin(timeout time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.done, l.closed = nil, false
	}
	l.over, l.cause, l.deadline = false, nil, time.Time{}
	if timeout > 0 {
		l.deadline = time.Now().Add(timeout)
	}
}

// end ends the request's context, once. With a nil cause, which is the
// handler's return, nobody waits for that any more.
func (l *life) end(cause error) {
	l.mu.Lock()
	if !l.over {
		l.endLocked(cause)
	}
	l.mu.Unlock()
	if cause == nil {
		l.calling.Wait()
	}
}

func (l *life) endLocked(cause error) {
	l.over, l.cause = true, cause
	if l.armed && !l.alarm.timer.Stop() {
		l.alarm = nil // it rings, or is about to, for nobody
	}
	l.armed = false
	if cause != nil && l.done != nil {
		close(l.done)
		l.closed = true
	}
	for _, f := range l.calls {
		l.calling.Go(*f)
	}
	clear(l.calls)
	l.calls = l.calls[:0]
}

// armLocked sees to it that the deadline is noticed by itself.
func (l *life) armLocked() {
	if l.armed || l.deadline.IsZero() {
		return
	}
	l.armed = true
	left := time.Until(l.deadline)
	if l.alarm == nil {
		l.alarm = &alarm{life: l}
		l.alarm.timer = time.AfterFunc(left, l.alarm.ring)
	} else {
		l.alarm.timer.Reset(left)
	}
}

// An alarm is the timer of a life.
type alarm struct {
	life  *life
	timer *time.Timer
}

func (a *alarm) ring() {
	l := a.life
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alarm != a || !l.armed {
		return // it was for a request that is over
	}
	l.armed = false
	l.endLocked(context.DeadlineExceeded)
}

func (l *life) Deadline() (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline, !l.deadline.IsZero()
}

func (l *life) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return closedChan
	}
	if l.done == nil {
		l.done = make(chan struct{})
	}
	l.armLocked()
	return l.done
}

func (l *life) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over && l.cause == context.DeadlineExceeded: //nolint:errorlint // ring's own
		return l.cause
	case l.over:
		return context.Canceled
	case !l.deadline.IsZero() && !time.Now().Before(l.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value has none; it lets [context.Cause] find the cause of the end.
func (l *life) Value(key any) any {
	l.mu.Lock()
	over, cause := l.over, l.cause
	l.mu.Unlock()
	if !over {
		return nil
	}
	ended, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	return ended.Value(key)
}

// AfterFunc is what package context asks for when somebody derives from l, or
// waits with a function: without it, that would take a goroutine.
func (l *life) AfterFunc(f func()) (stop func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		l.calling.Go(f)
		return func() bool { return false }
	}
	call := &f
	l.calls = append(l.calls, call)
	l.armLocked()
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		i := slices.Index(l.calls, call)
		if i < 0 {
			return false
		}
		last := len(l.calls) - 1
		l.calls[i], l.calls[last] = l.calls[last], nil
		l.calls = l.calls[:last]
		return true
	}
}

var _ context.Context = (*life)(nil)

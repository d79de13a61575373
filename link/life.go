package link

import (
	"context"
	"sync"
	"time"
)

// A life is the context of one request. It becomes an ordinary one when
// somebody waits for its end or derives another from it; until then it costs
// nothing and can be used again.
type life struct {
	base     context.Context // of all requests
	deadline time.Time       // zero is none

	mu     sync.Mutex
	real   context.Context // nil until somebody needed one
	cancel func(cause error)
	over   bool
	cause  error // of the end, when it came before real did
}

// begin readies l for a request that may take that long; zero is for ever. It
// returns the one to be used: another where l became an ordinary context, to
// which somebody may still hold on.
func (l *life) begin(base context.Context, timeout time.Duration) *life {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l
	if l.real != nil || l.base == nil {
		next = &life{base: base}
	}
	next.deadline, next.over, next.cause = time.Time{}, false, nil
	if timeout > 0 {
		next.deadline = time.Now().Add(timeout)
	}
	return next
}

// end ends the request's context, once.
func (l *life) end(cause error) {
	l.mu.Lock()
	cancel := l.cancel
	if cancel == nil && !l.over {
		l.over, l.cause = true, cause
	}
	l.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

func (l *life) become() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.real != nil {
		return l.real
	}
	ctx, cancel := context.WithCancelCause(l.base)
	l.real, l.cancel = ctx, cancel
	if l.over {
		cancel(l.cause)
	} else if !l.deadline.IsZero() {
		timed, stop := context.WithDeadline(ctx, l.deadline)
		l.real, l.cancel = timed, func(cause error) { cancel(cause); stop() }
	}
	return l.real
}

func (l *life) Deadline() (time.Time, bool) { return l.deadline, !l.deadline.IsZero() }
func (l *life) Done() <-chan struct{}       { return l.become().Done() }
func (l *life) Value(key any) any           { return l.become().Value(key) }

func (l *life) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.real != nil:
		return l.real.Err()
	case l.over:
		return context.Canceled
	case !l.deadline.IsZero() && !time.Now().Before(l.deadline):
		return context.DeadlineExceeded
	}
	return l.base.Err()
}

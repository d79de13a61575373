package link

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestLifeEndsWithItsCause(t *testing.T) {
	left := errors.New("left")
	for sentence, c := range map[string]struct {
		timeout    time.Duration
		end        func(*life)
		err, cause error
	}{
		"nothing happens":      {time.Minute, func(*life) {}, nil, nil},
		"the client leaves":    {time.Minute, func(l *life) { l.end(left) }, context.Canceled, left},
		"the deadline passes":  {time.Minute, func(*life) { time.Sleep(time.Minute) }, context.DeadlineExceeded, context.DeadlineExceeded},
		"both, in that order":  {time.Minute, func(l *life) { l.end(left); time.Sleep(time.Hour) }, context.Canceled, left},
		"the other way round":  {time.Minute, func(l *life) { time.Sleep(time.Hour); l.end(left) }, context.DeadlineExceeded, context.DeadlineExceeded},
		"there is no deadline": {0, func(*life) { time.Sleep(time.Hour) }, nil, nil},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l life
				l.begin(c.timeout)
				done := l.Done()
				derived, cancel := context.WithCancel(&l)
				defer cancel()
				called := false
				context.AfterFunc(&l, func() { called = true })
				c.end(&l)
				synctest.Wait()
				if err := l.Err(); !errors.Is(err, c.err) {
					t.Errorf("it ended with %v, want %v", err, c.err)
				}
				if cause := context.Cause(&l); !errors.Is(cause, c.cause) {
					t.Errorf("because of %v, want %v", cause, c.cause)
				}
				if cause := context.Cause(derived); !errors.Is(cause, c.cause) {
					t.Errorf("what was derived from it ended because of %v, want %v", cause, c.cause)
				}
				if over := c.err != nil; called != over || isClosed(done) != over || isClosed(l.Done()) != over {
					t.Errorf("called %v, done %v, done for who asks now %v; want all %v", called, isClosed(done), isClosed(l.Done()), over)
				}
				l.end(nil)
			})
		})
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// The end of one request, however late its timer rings, is not the end of the next.
func TestLifeIsAnothersAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l life
		for i, ends := range []func(){
			func() { l.end(nil) },
			func() { l.end(errors.New("left")); l.end(nil) },
			func() { time.Sleep(time.Second); l.end(nil) }, // as the timer rings
			func() { time.Sleep(2 * time.Second); l.end(nil) },
		} {
			l.begin(time.Second)
			done := l.Done()
			stop := l.AfterFunc(func() {})
			ends()
			if stop() {
				t.Errorf("%d: it was over, and its function was not called", i)
			}
			l.begin(time.Hour)
			time.Sleep(time.Minute)
			if l.Err() != nil || isClosed(l.Done()) {
				t.Errorf("%d: the next request ended with the one before", i)
			}
			if i > 0 && i != 2 && !isClosed(done) {
				t.Errorf("%d: who waited for its end still does", i)
			}
			l.end(nil)
		}
	})
}

func TestWaitingForTheEndOfALifeCostsNothing(t *testing.T) {
	var l life
	if n := testing.AllocsPerRun(100, func() {
		l.begin(time.Minute)
		if isClosed(l.Done()) || l.Err() != nil {
			t.Error("it ended at once")
		}
		l.end(nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Contexts that were made of it hear of the end a moment later, in goroutines of
// their own: the next request must not have begun by then.
func TestAContextOfALifeEndsBeforeTheNextBegins(t *testing.T) {
	var l life
	for range 2000 {
		l.begin(time.Hour)
		ctx, cancel := context.WithCancel(&l)
		left := make(chan struct{})
		go func() { l.end(ErrCancelled); close(left) }()
		l.end(nil)
		if ctx.Err() == nil {
			t.Error("it goes on with the next request")
		}
		<-left
		cancel()
	}
}

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// What carries a request is used again at once for another, also where the
// deadline or the client ended it from outside in the same moment.
func TestNoAnswerIsAnothers(t *testing.T) {
	const (
		callers, each = 16, 60
		late504       = "Request processing time exceeded limit"
	)
	s := stage(t, "exec sleep 1000", func(a *serving.Assignment) { a.Recipe.Limits.Concurrency = callers }, func(e *shell) {
		e.do = func(ctx context.Context, r *agent.Request, w agent.Answerer) error {
			path := r.Path
			wait := time.NewTimer(time.Duration(rand.IntN(2000)) * time.Microsecond)
			defer wait.Stop()
			if rand.IntN(2) == 0 { // minds its caller
				select {
				case <-wait.C:
				case <-ctx.Done():
					return ctx.Err()
				}
			} else {
				<-wait.C
			}
			return say(w, 200, path)
		}
	})
	s.ready()
	c := s.dial()
	var crowd sync.WaitGroup
	var answered, late, left atomic.Int64
	for caller := range callers {
		crowd.Go(func() {
			for n := range each {
				path := fmt.Sprintf("/%d/%d", caller, n)
				r := link.Request{Method: "POST", Path: path}
				if n%3 == 0 {
					r.Timeout = time.Duration(1+rand.IntN(1500)) * time.Microsecond
				}
				if n%3 == 1 {
					leave(t, c, &r)
					left.Add(1)
					continue
				}
				status, body, err := insist(c, r)
				switch {
				case err != nil && err.Error() == late504 && r.Timeout > 0: // its answer had begun
					late.Add(1)
				case err != nil:
					t.Errorf("%s: %v", path, err)
				case status == 200 && body == path:
					answered.Add(1)
				case status == 504 && body == late504 && r.Timeout > 0:
					late.Add(1)
				default:
					t.Errorf("%s, with timeout %v, was answered %d %q", path, r.Timeout, status, body)
				}
			}
		})
	}
	crowd.Wait()
	if answered.Load() == 0 || late.Load() == 0 || left.Load() == 0 {
		t.Errorf("%d answered, %d late, %d left: all three were meant to be", answered.Load(), late.Load(), left.Load())
	}
}

// leave asks and goes away soon.
func leave(t *testing.T, c *link.Conn, r *link.Request) {
	st, err := again(c).Open(r, nil, true)
	for end := time.Now().Add(5 * time.Second); errors.Is(err, link.ErrNotTaken) && time.Now().Before(end); {
		st, err = again(c).Open(r, nil, true)
	}
	if err != nil {
		t.Errorf("%s: %v", r.Path, err)
		return
	}
	time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
	st.Close()
}

package native

import (
	"context"
	"fmt"
	"sync"
	"time"

	"loadline.dev/loadline/agent"
)

// A reserve is an engine that runs only while it is needed.
type reserve struct {
	make func() agent.Engine
	idle time.Duration

	mu      sync.Mutex
	spare   *spare // nil while none runs
	stopped bool
	failed  error     // why the last one did not start
	since   time.Time // when that was
}

// A spare is one run of the engine in reserve.
type spare struct {
	agent.Engine
	started chan struct{} // closed once Start has returned
	err     error         // what it returned
	users   int
	retire  *time.Timer
}

// patience is how long a start that failed is not tried again.
const patience = 2 * time.Second

// lend returns the engine, started, and what is to be called after its use.
func (r *reserve) lend(ctx context.Context) (agent.Engine, func(), error) {
	s, err := r.take()
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-s.started:
		err = s.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		r.giveBack(s)
		return nil, nil, err
	}
	return s.Engine, func() { r.giveBack(s) }, nil
}

// take finds the one that runs, or starts one.
func (r *reserve) take() (*spare, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stopped:
		return nil, agent.ErrEngineGone
	case r.failed != nil && time.Since(r.since) < patience:
		return nil, r.failed
	}
	if r.spare != nil {
		select {
		case <-r.spare.Done():
			r.spare = nil
		default:
		}
	}
	if r.spare == nil {
		r.spare = &spare{Engine: r.make(), started: make(chan struct{})}
		go r.start(r.spare)
	}
	r.spare.users++
	if r.spare.retire != nil {
		r.spare.retire.Stop()
	}
	return r.spare, nil
}

// start is not tied to the request that asked for it: others wait for it too.
func (r *reserve) start(s *spare) {
	err := s.Start(context.Background())
	r.mu.Lock()
	defer r.mu.Unlock()
	defer close(s.started)
	r.failed = nil
	if err == nil {
		return
	}
	s.err = fmt.Errorf("start Python for a request that needs it: %w", err)
	r.failed, r.since = s.err, time.Now()
	if r.spare == s {
		r.spare = nil
	}
}

func (r *reserve) giveBack(s *spare) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.users--
	if s.users > 0 || r.stopped {
		return
	}
	s.retire = time.AfterFunc(r.idle, func() {
		r.mu.Lock()
		over := s.users == 0
		if over && r.spare == s {
			r.spare = nil
		}
		r.mu.Unlock()
		if over {
			s.Stop(5 * time.Second)
		}
	})
}

// stop ends it for good.
func (r *reserve) stop(grace time.Duration) {
	r.mu.Lock()
	s := r.spare
	r.stopped, r.spare = true, nil
	r.mu.Unlock()
	if s != nil {
		s.Stop(grace)
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// Options are what an agent is given beside its folder's spec.json.
type Options struct {
	Dir string // the replica's folder, absolute

	// Engine makes an engine of the assignment's protocol, not yet started.
	Engine func(*Launch) Engine

	// Command makes the engine's command, confined as the assignment wants it,
	// with vars as its whole environment. ports may be listened on.
	Command func(a serving.Assignment, argv []string, vars map[string]string, ports []int) (*exec.Cmd, error)

	// Ended is called after each end of an engine process, to clear away what
	// it left running. It may say why the process was killed, when whoever
	// confined it knows ("out of memory"); else "". It may be nil.
	Ended func(a serving.Assignment) (why string)

	// Listen, if set, opens what gateways connect to, in place of the Unix socket
	// in Dir. Whoever connects there must have proven itself a gateway.
	Listen func() (net.Listener, error)

	// Drain is closed to ask for a drain: nothing new is taken, what is inside
	// is finished, then Run returns nil. Nil never asks. See [Signals].
	Drain <-chan struct{}

	Log *slog.Logger
}

// Bounds where the assignment sets none.
const (
	defaultStart   = 120 * time.Second // from start to ready
	defaultRequest = 297 * time.Second // one request, as the API documents it
	hangGrace      = time.Second       // beyond its deadline, before an engine counts as hung
	maxDoubt       = 30 * time.Second  // for an engine that let a deadline pass, to answer its probe
	goneGrace      = 2 * time.Second   // for an engine that takes nothing more, to end
	condemnGrace   = 300 * time.Millisecond
	stopGrace      = 5 * time.Second // for an engine to end when asked
	maxFailures    = 5               // starts that failed in a row before the agent gives up
	maxTimeouts    = 2               // the same, when they took all the time there is
	calmAfter      = time.Minute     // ready that long, earlier crashes are forgotten
)

// defaultLine is the load line when the assignment sets none. Our worker
// predicts one at a time: what is beyond one hides the hand-off.
func defaultLine(a serving.Assignment) int {
	switch {
	case a.Recipe.Limits.Concurrency > 0:
		return a.Recipe.Limits.Concurrency
	case a.Recipe.Launch.Protocol == serving.Worker:
		return 4
	case a.Recipe.Launch.Raw, a.Recipe.Launch.Protocol == serving.Onnx:
		return 64
	}
	return 8
}

// An agent is one running replica.
type agent struct {
	Options
	spec    serving.Assignment
	line    atomic.Int64 // the load line: the assignment's, until a gateway knows better
	record  *record
	output  *Log
	server  *link.Server
	cradle  *cradle
	count   counters
	spare   spare
	request time.Duration // longest execution of one request
	start   time.Duration // longest time from start to ready

	engine atomic.Pointer[run] // that takes requests; nil while there is none

	// lining is held by whoever changes the load line for an engine. It comes
	// before the server's own lock, which report is called under.
	lining sync.Mutex
}

// A run is one engine process that has become ready, and why the agent ended
// it, if it did.
type run struct {
	Engine
	condemned atomic.Pointer[string]
	doubted   atomic.Bool // somebody is asking whether it still answers
	oomKills  uint64      // a moment ago; see oomKills
}

// condemn ends the engine because of why. Only the first reason counts. The
// moment it is given lets it hand back what it has not begun.
func (r *run) condemn(why string) {
	select {
	case <-r.Done():
		return
	default:
	}
	if r.condemned.CompareAndSwap(nil, &why) {
		r.Stop(condemnGrace)
	}
}

// Run is an agent's life. It returns nil after a drain, and when ctx ends, which
// ends everything at once. An engine that cannot be started five times in a
// row, before it was ever ready, leaves the agent in state failed: it stays, so
// that its folder has an owner and its reason can be read, until it is told to go.
func Run(ctx context.Context, o Options) error {
	spec, err := readSpec(o.Dir)
	if err != nil {
		return err
	}
	a := &agent{Options: o, spec: spec, record: newRecord(o.Dir, spec),
		request: spec.Recipe.Limits.Request, start: spec.Recipe.Limits.Start}
	a.line.Store(int64(defaultLine(spec)))
	if a.request == 0 {
		a.request = defaultRequest
	}
	if a.start == 0 {
		a.start = defaultStart
	}
	a.Log = o.Log.With("endpoint", spec.Endpoint, "revision", spec.Revision.Digest, "replica", spec.Replica)
	if err := os.MkdirAll(filepath.Join(o.Dir, workDir), 0o700); err != nil {
		return err
	}
	if a.output, err = openLog(filepath.Join(o.Dir, logFile), spec.Recipe.Launch.Vars); err != nil {
		return err
	}
	defer a.output.close()
	return a.serve(ctx)
}

// serve listens and keeps an engine, until the end.
func (a *agent) serve(ctx context.Context) error {
	l, err := a.open()
	if err != nil {
		return err
	}
	a.server = link.NewServer(a.handle, a.report)
	a.server.Admit, a.server.Limit = sameUser, a.request
	a.server.Lined = a.lined
	if a.Listen != nil {
		a.server.Admit = nil // they have proven themselves
	}
	a.cradle = newCradle()
	defer a.cradle.close()
	if err := a.set(serving.Starting, ""); err != nil {
		l.Close()
		return err
	}
	life, end := context.WithCancel(ctx)
	defer end()
	var parts sync.WaitGroup
	failed := make(chan error, 1)
	parts.Go(func() { failed <- a.listen(l) })
	parts.Go(func() { a.keep(life) })

	select {
	case <-ctx.Done():
	case err = <-failed:
	case <-a.Drain:
		_ = a.set(serving.Draining, "")
		_ = a.server.Drain(ctx)
	}
	end()
	a.server.Close()
	parts.Wait()
	os.Remove(filepath.Join(a.Dir, socketFile))
	return err
}

// open opens what gateways connect to, and notes where that is.
func (a *agent) open() (net.Listener, error) {
	path := filepath.Join(a.Dir, socketFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if a.Listen == nil {
		l, err := link.Listen(path)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
		return l, nil
	}
	l, err := a.Listen()
	if err != nil {
		return nil, fmt.Errorf("listen for gateways: %w", err)
	}
	a.record.seen.Addr = l.Addr().String() // nobody else has it yet
	return l, nil
}

func (a *agent) listen(l net.Listener) error {
	if err := a.server.Serve(l); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// set writes down a new state and tells the gateways. A draining agent stays so.
func (a *agent) set(state serving.State, why string) error {
	err := a.record.set(func(r *serving.Replica) {
		if r.State == serving.Draining && state != serving.Failed {
			return
		}
		r.State, r.Why, r.Engine = state, why, 0
		if engine := a.engine.Load(); engine != nil {
			r.Engine = engine.PID()
		}
	})
	if err != nil {
		a.Log.Error("write state", "why", err)
	}
	a.Log.Info("replica is "+string(state), "why", why)
	a.server.Announce()
	return err
}

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// backoff is how long to wait before the next start after so many failures.
func backoff(failures int) time.Duration {
	steps := []time.Duration{0, 100 * time.Millisecond, 500 * time.Millisecond, time.Second}
	if failures < len(steps) {
		return steps[failures]
	}
	return min(time.Second<<min(failures-len(steps)+1, 5), 30*time.Second)
}

// keep starts the engine, again whenever it ends, until ctx ends.
func (a *agent) keep(ctx context.Context) {
	failures, timeouts, everReady := 0, 0, false
	for ctx.Err() == nil {
		ready, why := a.live(ctx)
		if ctx.Err() != nil {
			return
		}
		if ready > 0 {
			everReady = true
			timeouts = 0
		}
		if ready >= calmAfter {
			failures = 0
		}
		failures++
		if errors.Is(why, serving.TimedOut) {
			timeouts++
		}
		a.output.note("%s", why)
		if !everReady && (failures >= maxFailures || timeouts >= maxTimeouts) {
			_ = a.set(serving.Failed, why.Error())
			return
		}
		a.count.restarts.Add(1)
		_ = a.record.set(func(r *serving.Replica) { r.Restarts++ })
		_ = a.set(serving.Backoff, why.Error())
		select {
		case <-time.After(backoff(failures)):
		case <-ctx.Done():
			return
		}
		_ = a.set(serving.Starting, why.Error())
	}
}

// live is one engine process from start to end. It says how long it was ready,
// and why it ended.
func (a *agent) live(ctx context.Context) (ready time.Duration, why error) {
	a.output.forget()
	l := &Launch{Assignment: a.spec, agent: a}
	r := &run{Engine: a.Engine(l), oomKills: oomKills()}
	err := a.raise(ctx, r)
	died := err == nil
	if err == nil {
		ready = a.work(ctx, r)
	} else {
		// One that died of it is left a moment to be seen dead.
		select {
		case <-r.Done():
			died = true
		case <-time.After(250 * time.Millisecond):
			r.Stop(0)
		}
	}
	l.clear()
	ended := ""
	if a.Ended != nil {
		ended = a.Ended(a.spec)
	}
	if err != nil && !died {
		return 0, err
	}
	return ready, a.autopsy(r, l, err, ended)
}

// work lets requests in until the engine ends, or is to end with ctx. It says
// how long that was.
func (a *agent) work(ctx context.Context, r *run) time.Duration {
	since := time.Now()
	a.admit(r)
	debug.FreeOSMemory() // what only starting needed: there is an agent beside every model
	look := time.NewTicker(2 * time.Second)
	defer look.Stop()
	var g gauge
	for {
		select {
		case <-look.C:
			r.oomKills = oomKills()
			a.count.pressure.Store(g.read(r.PID(), a.spec.Recipe.Limits.Memory, time.Now()))
			continue
		case <-r.Done():
			a.admit(nil)
		case <-ctx.Done():
			a.admit(nil)
			r.Stop(a.grace())
		}
		return max(1, time.Since(since))
	}
}

// grace is how long an engine may take to end. After a drain it has nothing to
// do; with requests inside, the agent was told to end at once.
func (a *agent) grace() time.Duration {
	if a.server.InFlight() > 0 {
		return 0
	}
	return stopGrace
}

// raise starts the engine and has it answer its own example once.
func (a *agent) raise(ctx context.Context, r *run) error {
	ctx, cancel := context.WithTimeout(ctx, a.start)
	defer cancel()
	err := r.Start(ctx)
	if err == nil && len(a.spec.Recipe.Example) > 0 {
		err = a.prove(ctx, r)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &serving.Error{Op: "start engine", Kind: serving.TimedOut,
			Err: fmt.Errorf("not ready after %v, so it was killed%s%s", a.start, detail(err), a.lastWords())}
	}
	return err
}

// detail is what an engine knew beyond that the time was up.
func detail(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	return ": " + err.Error()
}

// lastWords quotes the engine's last line, for whoever wonders what it was at.
func (a *agent) lastWords() string {
	if line := a.output.decisive(); line != "" {
		return fmt.Sprintf(" (its last words: %s)", line)
	}
	return ""
}

// prove asks the engine its own example. A process that hangs in it is stopped.
func (a *agent) prove(ctx context.Context, r *run) error {
	example := a.spec.Recipe.Example
	w := &proof{}
	done := make(chan error, 1)
	go func() {
		done <- r.Do(ctx, &Request{Method: "POST", Path: "/invocations", ContentType: a.spec.Recipe.ExampleType,
			Header: []link.Field{{Name: "Content-Type", Value: a.spec.Recipe.ExampleType}},
			Body:   bytes.NewReader(example), Size: int64(len(example))}, w)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		r.Stop(0)
		<-done //nolint:errcheck // what Start says of being stopped is of no interest
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("answer its own example: %w", err)
	}
	if w.status < 200 || w.status > 299 {
		return &serving.Error{Op: "answer its own example", Kind: serving.Invalid,
			Err: fmt.Errorf("status %d: %s", w.status, clip(strings.TrimSpace(escape(w.body)), 1000))}
	}
	return nil
}

// A proof is the answer to the example, as far as it is of interest.
type proof struct {
	status int
	body   []byte
}

func (p *proof) Head(status int, _ []link.Field, _ int64) error {
	p.status = status
	return nil
}

func (p *proof) Write(b []byte) (int, error) {
	p.body = append(p.body, b[:min(len(b), 4096-len(p.body))]...)
	return len(b), nil
}

func (p *proof) Flush() error { return nil }

// admit lets requests in to r, or, with nil, lets none in.
func (a *agent) admit(r *run) {
	a.lining.Lock()
	before := a.engine.Swap(r)
	a.lining.Unlock()
	if before != nil && before != r {
		a.count.cross(before.Engine)
	}
	if r == nil {
		a.server.SetLine(0)
		return
	}
	_ = a.set(serving.Ready, "")
	if g, can := r.Engine.(Gatherer); can && a.spec.Recipe.Limits.Concurrency == 0 {
		// Those who are to go together must be inside. A gateway may have learned
		// better by now.
		usual := int64(defaultLine(a.spec))
		a.line.CompareAndSwap(usual, max(usual, int64(g.Gathers())))
	}
	a.server.SetLine(int(a.line.Load()))
}

// autopsy says in one sentence why an engine is no more. What is known best
// comes first.
func (a *agent) autopsy(r *run, l *Launch, err error, ended string) error {
	if condemned := r.condemned.Load(); condemned != nil {
		return errors.New(*condemned)
	}
	if ended != "" {
		return fmt.Errorf("killed: %s", ended)
	}
	if errors.Is(err, serving.TimedOut) {
		return err
	}
	if known, ok := r.Engine.(Reasoner); ok && known.Reason() != "" {
		return errors.New(clip(escape([]byte(known.Reason())), 1000))
	}
	if err != nil && serving.KindOf(err) == serving.Invalid {
		return err
	}
	status, known := l.exit()
	line := a.output.decisive()
	switch {
	case known && status.Signaled() && status.Signal() == syscall.SIGKILL && oomKills() > r.oomKills:
		return fmt.Errorf("killed: out of memory, by all signs (%s)", memoryLimit(a.spec.Recipe.Limits.Memory))
	case known && status.Signaled():
		return fmt.Errorf("killed by signal: %s%s", signalName(status.Signal()), a.lastWords())
	case line != "" && (!known || status.ExitStatus() != 0):
		return errors.New(line)
	case known && status.ExitStatus() == 0:
		return errors.New("the engine ended by itself (exit status 0); an engine must run until it is told to end")
	case known:
		return fmt.Errorf("the engine ended with exit status %d and said nothing", status.ExitStatus())
	case err != nil:
		return err
	}
	return errors.New("the engine ended")
}

func memoryLimit(bytes int64) string {
	if bytes == 0 {
		return "no limit of its own"
	}
	return fmt.Sprintf("limit %.1f GiB", float64(bytes)/(1<<30))
}

func signalName(s syscall.Signal) string {
	if s == syscall.SIGKILL {
		return "killed (SIGKILL, by somebody outside or for want of memory)"
	}
	return s.String()
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// counters become link.Counters in each load report.
type counters struct {
	calls [len(link.CallSizes)]atomic.Uint64 // of engines that are no more

	answered, notTaken, broken, timedOut, cancelled, restarts atomic.Uint64
	columns, raw                                              atomic.Uint64 // of engines that are no more
	service                                                   atomic.Int64  // smoothed nanoseconds of one answered request

	inside       atomic.Int64  // requests that the engine has now
	beside, took atomic.Uint64 // link.Counters' Beside and Inside
	pressure     atomic.Pointer[link.Pressure]
}

// serve smooths how long requests take: an eighth of each new one counts.
func (c *counters) serve(took time.Duration) {
	old := c.service.Load()
	if old == 0 {
		old = int64(took)
	}
	c.service.Store(old + (int64(took)-old)/8)
}

// cross keeps what an engine that takes no more requests has counted.
func (c *counters) cross(e Engine) {
	if known, ok := e.(Counter); ok {
		columns, raw := known.Crossed()
		c.columns.Add(columns)
		c.raw.Add(raw)
	}
	if known, ok := e.(Gatherer); ok {
		for i, n := range known.Calls() {
			c.calls[i].Add(n)
		}
	}
}

// report fills in what the link does not know of the load.
func (a *agent) report(l *link.Load) {
	l.State = a.record.state()
	l.Service = time.Duration(a.count.service.Load())
	if p := a.count.pressure.Load(); p != nil {
		l.Pressure = *p
	}
	if a.spec.Recipe.Launch.Protocol == serving.Worker {
		l.Waiting = max(0, l.InFlight-1)
	}
	l.Counters = link.Counters{
		Answered: a.count.answered.Load(), NotTaken: a.count.notTaken.Load(), Broken: a.count.broken.Load(),
		TimedOut: a.count.timedOut.Load(), Cancelled: a.count.cancelled.Load(), Restarts: a.count.restarts.Load(),
		Columns: a.count.columns.Load(), Raw: a.count.raw.Load(),
		Beside: a.count.beside.Load(), Inside: a.count.took.Load(),
	}
	for i := range l.Calls {
		l.Calls[i] = a.count.calls[i].Load()
	}
	engine := a.engine.Load()
	if engine == nil {
		return
	}
	if g, ok := engine.Engine.(Gatherer); ok {
		for i, n := range g.Calls() {
			l.Calls[i] += n
		}
	}
	if c, ok := engine.Engine.(Counter); ok {
		columns, raw := c.Crossed()
		l.Columns += columns
		l.Raw += raw
	}
}

// handle carries one request to the engine.
func (a *agent) handle(ctx context.Context, in *link.Incoming) {
	r := a.engine.Load()
	if r == nil {
		a.count.notTaken.Add(1)
		in.Refuse("the engine is not ready")
		return
	}
	e := a.errand(r, in)
	start, beside := time.Now(), a.count.inside.Add(1)
	err := r.Do(ctx, &e.request, e)
	a.count.inside.Add(-1)
	if errors.Is(err, context.DeadlineExceeded) {
		e.overdue() // the engine may notice before the timer does
	}
	if errors.Is(err, ErrEngineGone) {
		a.leave(r)
	}
	a.settle(e, context.Cause(ctx), err, time.Since(start), beside)
	e.release()
}

// patience is how long any request may run before its engine counts as hung. A
// caller that gives little time must not have the engine killed by it.
func (a *agent) patience() time.Duration {
	usual := time.Duration(a.count.service.Load())
	return min(a.request, max(10*time.Second, 10*usual))
}

// doubt asks an engine that let a request run past its deadline whether it
// still answers at all, and lets nobody else in until it has. One that has not
// in as long as a request may take is ended.
func (a *agent) doubt(r *run) {
	p, can := r.Engine.(Prober)
	if !can || !r.doubted.CompareAndSwap(false, true) {
		return
	}
	if !a.setLine(r, 0) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), min(a.request, maxDoubt))
		defer cancel()
		go func() {
			select {
			case <-r.Done():
				cancel()
			case <-ctx.Done():
			}
		}()
		err := p.Healthy(ctx)
		for err != nil && ctx.Err() == nil {
			select {
			case <-time.After(250 * time.Millisecond):
				err = p.Healthy(ctx)
			case <-ctx.Done():
			}
		}
		if err != nil {
			r.condemn(fmt.Sprintf("killed: a request ran past its deadline of %v, and then the engine answered nothing at all", a.request))
			return
		}
		r.doubted.Store(false)
		a.setLine(r, int(a.line.Load()))
	}()
}

// lined takes the load line that a gateway says was learned. Places are granted
// by it from now on, except while the engine is doubted.
func (a *agent) lined(n int) {
	if a.line.Swap(int64(n)) == int64(n) {
		return
	}
	if r := a.engine.Load(); r != nil && !r.doubted.Load() {
		a.setLine(r, n)
	}
}

// setLine sets the load line of r, unless it is not the one that takes requests.
func (a *agent) setLine(r *run, line int) bool {
	a.lining.Lock()
	defer a.lining.Unlock()
	if a.engine.Load() != r {
		return false
	}
	a.server.SetLine(line)
	return true
}

// leave lets nobody else in to an engine that was found gone, before the one
// who found it is sent elsewhere: it must not be granted a place here again. A
// process that does not end of it is no use any more.
func (a *agent) leave(r *run) {
	if a.engine.Load() != r {
		return
	}
	a.admit(nil)
	time.AfterFunc(goneGrace, func() { r.condemn("killed: it took no more requests, and did not end") })
}

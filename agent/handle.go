package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// counters become link.Counters in each load report.
type counters struct {
	answered, notTaken, broken, timedOut, cancelled, restarts atomic.Uint64
	columns, raw                                              atomic.Uint64 // of engines that are no more
	service                                                   atomic.Int64  // smoothed nanoseconds of one answered request

	inside       atomic.Int64  // requests that the engine has now
	beside, took atomic.Uint64 // link.Counters' Beside and Inside
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
}

// report fills in what the link does not know of the load.
func (a *agent) report(l *link.Load) {
	l.State = a.record.get().State
	l.Service = time.Duration(a.count.service.Load())
	if a.spec.Recipe.Launch.Protocol == serving.Worker {
		l.Waiting = max(0, l.InFlight-1)
	}
	l.Counters = link.Counters{
		Answered: a.count.answered.Load(), NotTaken: a.count.notTaken.Load(), Broken: a.count.broken.Load(),
		TimedOut: a.count.timedOut.Load(), Cancelled: a.count.cancelled.Load(), Restarts: a.count.restarts.Load(),
		Columns: a.count.columns.Load(), Raw: a.count.raw.Load(),
		Beside: a.count.beside.Load(), Inside: a.count.took.Load(),
	}
	engine := a.engine.Load()
	if engine == nil {
		return
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
	limit := a.request
	if in.Timeout > 0 {
		limit = min(limit, in.Timeout)
	}
	w := &reply{in: in}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Whoever still works on a request past its deadline hangs, whether or not
	// anybody waits for the answer.
	patience := max(limit, a.patience())
	overdue := func() {
		if limit >= patience {
			a.doubt(r) // before the answer: who asks next must not be let in here
		}
		w.expire()
	}
	late := time.AfterFunc(limit, overdue)
	defer late.Stop()
	hung := time.AfterFunc(patience+hangGrace, func() {
		r.condemn(fmt.Sprintf("killed: a request with a deadline of %v was still running after %v", limit, patience+hangGrace))
	})
	defer hung.Stop()
	start, beside := time.Now(), a.count.inside.Add(1)
	err := r.Do(ctx, request(in), w)
	a.count.inside.Add(-1)
	if errors.Is(err, context.DeadlineExceeded) {
		overdue() // the engine may notice before the timer does
	}
	if errors.Is(err, ErrEngineGone) {
		a.leave(r)
	}
	a.settle(w, context.Cause(ctx), err, time.Since(start), beside)
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

// request is in as engines see it.
func request(in *link.Incoming) *Request {
	r := &Request{Method: in.Method, Path: in.Path, Header: in.Header[:0:0], Body: in, Size: in.Size}
	for _, f := range in.Header {
		// Who the caller is, is not told to outsiders' code.
		if hopByHop(f.Name) || strings.EqualFold(f.Name, "Authorization") {
			continue
		}
		r.Header = append(r.Header, f)
	}
	r.ContentType = r.Field("Content-Type")
	r.ContentEncoding = r.Field("Content-Encoding")
	return r
}

// hopByHop says whether a field concerns one connection only. The gateway has
// dropped those already, and those that Connection names; this is the second lock.
func hopByHop(name string) bool {
	switch strings.ToLower(name) {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
		"te", "trailer", "transfer-encoding", "upgrade", "http2-settings":
		return true
	}
	return false
}

// settle ends the request as its engine and its caller left it, and counts it.
func (a *agent) settle(w *reply, cause, err error, took time.Duration, beside int64) {
	w.mu.Lock()
	began, expired, short := w.began, w.expired, w.size >= 0 && w.wrote != w.size
	w.over = true
	w.mu.Unlock()
	switch {
	case expired:
		a.count.timedOut.Add(1)
	case errors.Is(cause, link.ErrCancelled):
		a.count.cancelled.Add(1)
	case errors.Is(err, link.ErrNotTaken) && !began:
		a.count.notTaken.Add(1)
		w.in.Refuse(err.Error())
	case err != nil:
		a.count.broken.Add(1)
		w.in.Fail(clip(err.Error(), 500))
	case !began:
		a.count.broken.Add(1)
		w.in.Fail("the engine gave no answer")
	case short:
		a.count.broken.Add(1)
		w.in.Fail("the engine's answer is shorter than it said")
	default:
		a.count.answered.Add(1)
		a.count.serve(took)
		a.count.beside.Add(uint64(beside))
		a.count.took.Add(uint64(took))
	}
}

// A reply is the [Answerer] of one request. The engine writes to it; the
// deadline may end it from outside.
type reply struct {
	in *link.Incoming

	mu      sync.Mutex
	began   bool
	expired bool
	over    bool
	size    int64 // as the head says; -1 when unknown
	wrote   int64
}

var (
	errOver = errors.New("nobody waits for this answer any more")
	errLong = errors.New("the engine's answer is longer than it said")
)

func (w *reply) Head(status int, header []link.Field, size int64) error {
	w.mu.Lock()
	switch {
	case w.over:
		w.mu.Unlock()
		return errOver
	case w.began:
		w.mu.Unlock()
		return errors.New("two heads of one answer")
	}
	w.began, w.size = true, size
	w.mu.Unlock()
	return w.in.Reply(&link.Answer{Status: status, Header: header, Size: size})
}

func (w *reply) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.wrote += int64(len(p))
	began, over, long := w.began, w.over, w.size >= 0 && w.wrote > w.size
	w.mu.Unlock()
	switch {
	case over:
		return 0, errOver
	case !began:
		return 0, errors.New("a body before its head")
	case long:
		return 0, errLong
	}
	return w.in.Write(p)
}

func (w *reply) Flush() error { return w.in.Flush() }

// timeoutText is what MLflow's own server says at its deadline.
const timeoutText = "Request processing time exceeded limit"

// expire answers for an engine that has not, at the deadline. It keeps the lock
// while it does: the request is not over before it has.
func (w *reply) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.over, w.expired = true, true
	if w.began {
		w.in.Fail(timeoutText)
		return
	}
	_ = w.in.Reply(&link.Answer{Status: 504, Size: int64(len(timeoutText)),
		Header: []link.Field{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}})
	_, _ = w.in.Write([]byte(timeoutText))
	w.in.Close()
}

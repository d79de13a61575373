package gateway

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/gateway/balance"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// A replica is one agent as the gateway knows it: a connection that is dialled
// again for as long as the replica is in the route, and the places granted on it.
//
// Places are counted twice. held says how many are here, the entity's gate how
// many are anywhere; a request takes one from the gate first and then claims it
// here. Whoever takes a place away here takes it from the gate too, so a request
// in between may find nothing left, gives back what it took, and waits again.
// Places that the replica's health does not let us use are kept: the gate knows
// nothing of them.
type replica struct {
	e    *entity
	id   string
	addr string

	held     atomic.Int64
	conn     atomic.Pointer[link.Conn]
	inFlight atomic.Int64
	line     atomic.Int64 // as last reported
	service  atomic.Int64 // nanoseconds, as last reported
	others   atomic.Int64 // requests of other gateways there, as last reported
	silent   atomic.Int64 // since when it answers nothing although asked; the gateway's time, zero when it owes nothing

	saying sync.Mutex
	said   autopilot.Pulse // guarded by saying

	// The agent's counters as last reported; only load touches them.
	reported     bool
	columns, raw uint64
	calls        [len(link.CallSizes)]uint64

	ctx  context.Context
	stop context.CancelFunc

	mu      sync.Mutex
	kept    int // places granted and not passed on to the gate
	health  balance.Health
	early   int // places granted before conn was known
	known   bool
	retired bool
}

// startReplica makes a replica; beside says that others carry the load already.
func startReplica(e *entity, seen serving.Replica, beside bool) *replica {
	r := &replica{e: e, id: seen.ID, addr: seen.Addr}
	if beside {
		r.health = balance.Newcomer()
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	e.g.running.Go(r.keep)
	return r
}

// Between two attempts to reach an agent. The first follows at once: an agent
// that was just published listens already.
const (
	redialFirst = 5 * time.Millisecond
	redialLast  = 500 * time.Millisecond
)

// keep holds a connection to the agent until the replica is retired and idle.
func (r *replica) keep() {
	pause := redialFirst
	for r.ctx.Err() == nil {
		began := time.Now()
		err := r.connect()
		if r.ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Second {
			pause = redialFirst
		}
		r.e.g.Log.Debug("link lost", "endpoint", r.e.endpoint, "replica", r.id, "why", err)
		select {
		case <-r.ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, redialLast)
		}
	}
}

// connect dials and stays until the connection is over.
func (r *replica) connect() error {
	var why error
	dialling, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	conn, err := r.dial(dialling, link.Hooks{
		Granted: r.granted,
		Load:    r.load,
		Closed:  func(err error) { why = err },
	})
	cancel()
	if err != nil {
		r.mu.Lock()
		r.early = 0
		r.mu.Unlock()
		return err
	}
	r.attach(conn)
	conn.SetLine(int(r.e.asked.Load()))
	if r.e.gate.Waiting() > 0 {
		r.e.want() // what was said before there was a connection was said to nobody
	}
	select {
	case <-conn.Done():
	case <-r.ctx.Done():
		conn.Close()
		<-conn.Done()
	}
	r.detach()
	return why
}

// attach makes conn the one that requests go over.
func (r *replica) attach(conn *link.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn.Store(conn)
	r.known = true
	early := r.early
	r.early = 0
	r.grantLocked(early)
}

func (r *replica) detach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = false
	r.conn.Store(nil)
}

// granted is told of places that come and go.
func (r *replica) granted(delta int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.known {
		r.early += delta
		return
	}
	r.grantLocked(delta)
}

// grantLocked requires r.mu.
func (r *replica) grantLocked(delta int) {
	if r.retired || delta == 0 {
		return
	}
	r.kept += delta
	r.settleLocked()
}

// settleLocked passes places on to the gate, or takes them back, as the
// replica's health has it. It requires r.mu.
func (r *replica) settleLocked() {
	if r.retired {
		return
	}
	inside := int(r.inFlight.Load())
	limit := r.health.Limit(inside)
	if r.kept == 0 && limit == math.MaxInt {
		return
	}
	room := limit - inside - int(r.held.Load())
	n := r.kept // below zero: the agent took back what the gate has
	if n > 0 {
		n = max(0, min(n, room))
	}
	if n != 0 {
		r.kept -= n
		r.held.Add(int64(n))
		r.e.gate.Grant(n)
	}
	for room < 0 {
		held := r.held.Load()
		n := min(held, int64(-room))
		if n <= 0 {
			return
		}
		if r.held.CompareAndSwap(held, held-n) {
			r.kept += int(n)
			r.e.gate.Grant(-int(n))
			return
		}
	}
}

// unleash ends a slow start: there is nobody else.
func (r *replica) unleash() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.health.Settle()
	r.settleLocked()
}

// load takes a report. It is called by one goroutine at a time: a connection's
// reader, and connections of a replica follow each other.
func (r *replica) load(l link.Load) {
	r.line.Store(int64(l.Line))
	r.heard(&l)
	r.service.Store(int64(l.Service))
	r.others.Store(max(0, int64(l.InFlight)-r.inFlight.Load()))
	// What an agent counted before this gateway knew it is not ours to tell.
	if r.reported {
		r.e.meters.columns.Add(float64(l.Columns - min(l.Columns, r.columns)))
		r.e.meters.raw.Add(float64(l.Raw - min(l.Raw, r.raw)))
		for i, n := range l.Calls {
			r.e.meters.calls[i].Add(float64(n - min(n, r.calls[i])))
		}
	}
	r.calls = l.Calls
	r.reported, r.columns, r.raw = true, max(r.columns, l.Columns), max(r.raw, l.Raw)
}

func (r *replica) seen(now time.Time) balance.Seen {
	s := balance.Seen{InFlight: int(r.inFlight.Load() + r.others.Load()), Line: int(r.line.Load()),
		Service: time.Duration(orElse(r.service.Load(), r.e.usual.Load()))}
	if since := r.silent.Load(); since != 0 {
		s.Quiet = max(0, now.Sub(r.e.g.epoch)-time.Duration(since))
	}
	return s
}

// claim takes one of the places held here.
func (r *replica) claim() bool {
	for {
		n := r.held.Load()
		if n <= 0 {
			return false
		}
		if r.held.CompareAndSwap(n, n-1) {
			r.inFlight.Add(1)
			return true
		}
	}
}

// unclaim undoes claim for a request that could not be opened, and gives the
// place back to the gate, unless the replica has none any more.
func (r *replica) unclaim() {
	r.mu.Lock()
	r.inFlight.Add(-1)
	if !r.retired {
		r.kept++
		r.settleLocked()
	}
	last := r.retired && r.inFlight.Load() == 0
	r.mu.Unlock()
	if last {
		r.stop()
	}
}

// leave ends what claim began. The place itself comes back as a grant.
func (r *replica) leave() {
	if r.inFlight.Add(-1) > 0 {
		return
	}
	r.mu.Lock()
	last := r.retired && r.inFlight.Load() == 0
	r.mu.Unlock()
	if last {
		r.stop()
	}
}

// A trip is one request at a replica, for what is remembered of the replica.
// Where there is only one, nothing is compared and nothing remembered.
type trip struct {
	r       *replica
	watched bool
	silent  bool // its answer has not begun
	sent    time.Time
	began   time.Time // zero: it never has
	failed  bool      // by the replica's doing
}

func (t *trip) start(r *replica, now time.Time) {
	*t = trip{r: r, sent: now, watched: len(*r.e.replicas.Load()) > 1, silent: true}
	if !t.watched {
		return
	}
	r.mu.Lock()
	r.health.Sent(now)
	r.silenceLocked()
	r.mu.Unlock()
}

// hear notes that the answer has begun at now, or, with alive false, that none
// will come.
func (t *trip) hear(now time.Time, alive bool) {
	if alive {
		t.began = now
	}
	if !t.watched || !t.silent {
		return
	}
	t.silent = false
	t.r.mu.Lock()
	t.r.health.Began(now, alive)
	t.r.silenceLocked()
	t.r.mu.Unlock()
}

// end is the last of a trip.
func (t *trip) end() {
	if !t.watched {
		t.r.leave()
		return
	}
	if t.silent {
		t.hear(time.Now(), false)
	}
	r := t.r
	r.mu.Lock()
	r.inFlight.Add(-1)
	switch {
	case !t.began.IsZero():
		r.health.Ended(t.began, t.began.Sub(t.sent), t.failed)
	case t.failed:
		r.health.Ended(time.Now(), time.Since(t.sent), true)
	}
	r.settleLocked()
	last := r.retired && r.inFlight.Load() == 0
	r.mu.Unlock()
	if last {
		r.stop()
	}
}

// silenceLocked makes seen know since when nothing was heard. It requires r.mu.
func (r *replica) silenceLocked() {
	since := int64(0)
	if at := r.health.Silent(); !at.IsZero() {
		since = max(1, int64(at.Sub(r.e.g.epoch)))
	}
	r.silent.Store(since)
}

// retire lets nothing new in; what is in flight finishes.
func (r *replica) retire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retired {
		return
	}
	r.retired, r.kept = true, 0
	for {
		n := r.held.Load()
		if n == 0 || r.held.CompareAndSwap(n, 0) {
			r.e.gate.Grant(-int(n))
			break
		}
	}
	if r.inFlight.Load() == 0 {
		r.stop()
	}
}

// want tells the agent how many places this gateway could use, if that changed.
func (r *replica) want(waiting int) {
	n := int64(waiting)
	if n > 0 {
		n += r.inFlight.Load()
	}
	if conn := r.conn.Load(); conn != nil {
		conn.Want(int(n))
	}
}

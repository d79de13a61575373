package simulate

import (
	"math/rand/v2"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/internal/queue"
	"loadline.dev/loadline/simulate/trace"
)

const second = int64(time.Second)

// A world is a run in progress.
type world struct {
	*Config
	trace trace.Trace
	dice  *rand.Rand
	epoch time.Time
	line  int // places that an agent grants

	now      int64
	fleet    fleet
	inFlight departures
	queues   []queue.Queue // one a gateway
	waiting  int           // over all queues
	turn     int           // the gateway that is served next
	spare    *waiter       // places nobody waits in
	offsets  []int64
	next     int // the next of trace.Arrivals

	// Of the second that is being played.
	arrivals int
	parts    []int // arrivals by gateway
	done     int64 // requests that ended
	busy     int64 // their time with a replica
	beside   int64 // over them: how many were inside when each came
	waited   bool  // somebody waited for a place
	late     int

	want int
	why  autopilot.Why
	book book
}

// A waiter is a request that waits.
type waiter struct {
	queue.Place
	arrived, service int64
	next             *waiter // in the list of spare ones
}

func newWorld(c *Config, t trace.Trace) *world {
	w := &world{Config: c, trace: t, epoch: time.Unix(0, 0).UTC(), line: c.Line}
	w.dice = rand.New(rand.NewPCG(c.Seed, 0x10ad11fe))
	if w.line == 0 {
		w.line = c.Capacity
	}
	if c.Learn != nil {
		w.line = c.Learn.Current()
	}
	w.queues = make([]queue.Queue, max(1, c.Gateways))
	for i := range w.queues {
		w.queues[i].Policy = queue.Policy{Order: c.Order, Objective: c.Objective, Overtake: c.Overtake}
	}
	w.parts = make([]int, len(w.queues))
	w.fleet.begin(w.line, c.Capacity, c.Service)
	w.fleet.inside = w.fleet.inside || c.Learn != nil
	w.book.begin(c, t)
	return w
}

// clock is a moment as the rooms that are shared with the server see it.
func (w *world) clock(at int64) time.Time { return w.epoch.Add(time.Duration(at)) }

// second plays second s of the trace, and lets the sizer decide at its end.
func (w *world) second(s int) {
	from := int64(s) * second
	w.arrivals, w.done, w.busy, w.beside, w.late, w.waited = 0, 0, 0, 0, 0, w.waiting > 0
	clear(w.parts)
	w.book.open(s)
	if w.trace.Arrivals != nil {
		for w.next < len(w.trace.Arrivals) && w.trace.Arrivals[w.next].At < from+second {
			a := w.trace.Arrivals[w.next]
			w.next++
			w.arrive(a.At, a.Service)
		}
	} else {
		w.spread(w.trace.Count(s))
		for _, offset := range w.offsets {
			w.arrive(from+offset, int64(w.Service))
		}
	}
	w.until(from + second)
	w.now = from + second
	w.steer(s)
}

// spread draws when n requests of a second come: a Poisson process of which the
// count is known. The gaps of such a process are exponential, scaled so that
// they fill the second.
func (w *world) spread(n int) {
	w.offsets = w.offsets[:0]
	if n == 0 {
		return
	}
	sum := 0.0
	gaps := w.book.gaps(n)
	for i := range gaps {
		gaps[i] = w.dice.ExpFloat64()
		sum += gaps[i]
	}
	scale := float64(second) / (sum + w.dice.ExpFloat64())
	at := 0.0
	for _, g := range gaps {
		at += g
		w.offsets = append(w.offsets, min(int64(at*scale), second-1))
	}
}

// until lets everything happen that is due at or before at.
func (w *world) until(at int64) {
	for {
		ready, end := w.fleet.nextReady(), w.inFlight.next()
		switch {
		case end <= at && end <= ready:
			w.now = end
			e := w.inFlight.pop()
			w.done++
			w.busy += e.took
			w.beside += int64(e.beside)
			w.fleet.finish(e.replica)
		case ready <= at:
			w.now = ready
			w.fleet.open(ready)
		default:
			return
		}
		if w.waiting > 0 {
			w.admit()
		}
	}
}

// arrive is one request: it takes a place, or waits.
func (w *world) arrive(at, service int64) {
	if w.inFlight.next() <= at || w.fleet.nextReady() <= at {
		w.until(at)
	}
	w.now = at
	w.arrivals++
	w.book.requests++
	gateway := 0
	if len(w.queues) > 1 {
		gateway = w.dice.IntN(len(w.queues))
	}
	w.parts[gateway]++
	if w.waiting == 0 {
		if r := w.fleet.pick(); r >= 0 {
			w.begin(r, at, service)
			return
		}
	}
	p := w.spare
	if p == nil {
		p = new(waiter)
		p.Owner = p
	} else {
		w.spare = p.next
	}
	p.arrived, p.service, p.Arrived = at, service, w.clock(at)
	_ = w.queues[gateway].Push(&p.Place, p.Arrived) // without bytes and deadline it never refuses
	w.waiting++
	w.waited = true
	if w.waiting == 1 && w.fleet.size() == 0 {
		w.obey(w.Sizer.Wake(p.Arrived, w.waiting, w.fleet.seen()))
	}
}

// admit gives free places to those who wait, the gateways in turn.
func (w *world) admit() {
	now := w.clock(w.now)
	for w.waiting > 0 {
		r := w.fleet.pick()
		if r < 0 {
			return
		}
		var p *queue.Place
		for p == nil {
			p = w.queues[w.turn].Pop(now)
			w.turn = (w.turn + 1) % len(w.queues)
		}
		w.waiting--
		waits := p.Owner.(*waiter)
		w.begin(r, waits.arrived, waits.service)
		waits.next, w.spare = w.spare, waits
	}
}

// begin puts a request on replica r. It starts at once where the replica is
// within its capacity, else when the replica gets to it.
func (w *world) begin(r int32, arrived, service int64) {
	start := w.fleet.serve(r, w.now, service)
	w.inFlight.push(departure{at: start + service, took: start + service - w.now, replica: r, beside: w.fleet.all[r].holds})
	if wait := start - arrived; wait > 0 {
		if w.book.wait(arrived, wait) {
			w.late++
		}
	}
}

// steer tells the sizer about the second that has ended, and obeys it.
func (w *world) steer(s int) {
	now := w.clock(w.now)
	sample := autopilot.Sample{
		At: now, Arrivals: w.arrivals, InFlight: w.inFlight.len(), Waiting: w.waiting, Line: float64(w.line),
	}
	if w.done > 0 {
		sample.Service = time.Duration(w.busy / w.done)
	}
	if w.Learn != nil {
		w.learn(now)
		sample.Line = float64(w.line)
	}
	w.Sizer.Observe(sample)
	w.obey(w.Sizer.Decide(now, w.fleet.seen()))
	row := Row{Second: w.trace.First + int64(s), Arrivals: w.arrivals, Want: w.want, Starting: w.fleet.starting(),
		Ready: w.fleet.ready() + w.fleet.leaving(w.now), InFlight: w.inFlight.len(), Waiting: w.waiting,
		Line: float64(w.line), Why: w.why, Needed: w.book.needed[s], Late: w.late}
	w.book.close(row)
	if w.Row != nil {
		w.Row(row)
	}
}

// learn shows the line what the replicas did, pooled, and takes over what it says.
func (w *world) learn(now time.Time) {
	if w.done > 0 {
		w.Learn.Observe(autopilot.Reading{At: now, Beside: float64(w.beside) / float64(w.done),
			Inside: time.Duration(w.busy / w.done), Answered: int(w.done), Waiting: w.waited})
	}
	if line := max(1, w.Learn.Decide(now).Line); line != w.line {
		w.line = line
		w.fleet.admit(line)
		if w.waiting > 0 {
			w.admit()
		}
	}
}

// obey carries a decision out.
func (w *world) obey(d autopilot.Decision) {
	w.want, w.why = d.Want, d.Why
	w.book.wanted(d.Want)
	for w.fleet.size() < d.Want {
		delay := int64(w.Start)
		if len(w.Starts) > 0 {
			delay = int64(w.Starts[w.dice.IntN(len(w.Starts))])
		}
		w.fleet.launch(w.now + delay)
		w.book.launched()
	}
	for w.fleet.size() > d.Want && w.fleet.retire(w.now) {
	}
}

func (w *world) report() Report {
	for i := range w.queues {
		for p := w.queues[i].Pop(w.clock(w.now)); p != nil; p = w.queues[i].Pop(w.clock(w.now)) {
			w.book.lose(p.Owner.(*waiter).arrived, w.now)
		}
	}
	return w.book.report()
}

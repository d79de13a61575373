package gateway

import (
	"sync/atomic"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/link"
)

// A tally counts what an entity does, for whoever decides how many replicas it
// should have. A request adds to it a few times, without a lock.
type tally struct {
	arrivals, ended, failed, lost, late atomic.Int64
	worked                              atomic.Int64 // nanoseconds
	times                               atomic.Pointer[[cells]atomic.Uint32]
}

const cells = len(autopilot.Sketch{}.Counts)

// observe counts a request that has ended. wait is what it waited for its place,
// inside how long it had it; without a place it is lost.
func (t *tally) observe(placed bool, wait, inside time.Duration, objective int64, failed bool) {
	if !placed {
		t.lost.Add(1)
		return
	}
	t.ended.Add(1)
	t.worked.Add(int64(inside))
	if failed {
		t.failed.Add(1)
	}
	if int64(wait) > objective {
		t.late.Add(1)
	}
	times := t.times.Load()
	if times == nil { // the first request pays for the table
		t.times.CompareAndSwap(nil, new([cells]atomic.Uint32))
		times = t.times.Load()
	}
	times[autopilot.SketchCell(inside)].Add(1)
}

// take empties the tally into r.
func (t *tally) take(r *autopilot.Report) {
	r.Arrivals, r.Failed, r.Lost, r.Late = int(t.arrivals.Swap(0)), int(t.failed.Swap(0)), int(t.lost.Swap(0)), int(t.late.Swap(0))
	if r.Ended = int(t.ended.Swap(0)); r.Ended == 0 {
		return
	}
	r.Worked = time.Duration(t.worked.Swap(0))
	if times := t.times.Load(); times != nil {
		r.Times = new(autopilot.Sketch)
		for i := range times {
			if times[i].Load() > 0 {
				r.Times.Counts[i] = times[i].Swap(0)
			}
		}
	}
}

// Reports appends to list what was seen of every entity since the last call.
func (g *Gateway) Reports(list []autopilot.Report) []autopilot.Report {
	for ep := range g.table.Load().All {
		for i, e := range ep.entities {
			r := autopilot.Report{Tenant: ep.route.Tenant, Endpoint: ep.route.Endpoint, ID: ep.route.ID, Entity: e.name,
				Revision: ep.route.Entities[i].Revision, Waiting: e.gate.Waiting()}
			e.tally.take(&r)
			for _, rep := range *e.replicas.Load() {
				r.InFlight += int(rep.inFlight.Load())
				r.Replicas = append(r.Replicas, rep.pulse())
			}
			list = append(list, r)
		}
	}
	return list
}

// SetLine has every replica of an entity grant n places in all from now on, and
// those that come later too. Zero leaves each its own.
func (g *Gateway) SetLine(tenant, endpoint, entity string, n int) {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	ep, ok := g.table.Load().Find(tenant, []byte(endpoint))
	if !ok {
		return
	}
	for _, e := range ep.entities {
		if e.name != entity {
			continue
		}
		e.asked.Store(int64(n))
		for _, r := range *e.replicas.Load() {
			if conn := r.conn.Load(); conn != nil {
				conn.SetLine(n)
			}
		}
	}
}

// wake tells at once that somebody waits where there is no replica.
func (e *entity) wake() {
	if e.g.Wake != nil && len(*e.replicas.Load()) == 0 {
		e.g.Wake(e.id, e.name)
	}
}

// heard keeps what an agent said, for the next report.
func (r *replica) heard(l *link.Load) {
	p := autopilot.Pulse{Replica: r.id, Sequence: l.Sequence, InFlight: l.InFlight, Line: l.Line,
		Answered: l.Answered, Broken: l.Broken + l.TimedOut, Beside: l.Beside, Inside: time.Duration(l.Inside),
		Pressure: autopilot.Pressure{CPU: float64(l.CPU) / 1000, Memory: float64(l.Memory) / 1000,
			IOWait: float64(l.IOWait) / 1000, Throttled: float64(l.Throttled) / 1000}}
	r.saying.Lock()
	r.said = p
	r.saying.Unlock()
}

func (r *replica) pulse() autopilot.Pulse {
	r.saying.Lock()
	defer r.saying.Unlock()
	p := r.said
	p.Replica = r.id
	return p
}

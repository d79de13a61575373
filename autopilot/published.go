package autopilot

import (
	"math"
	"time"
)

// The published rule, horizontal axis: desired = ceil(active requests ÷ target),
// with the requests seen every second, decided every five seconds, over the
// last twenty seconds going up and over five minutes going down. The step is
// capped: a decision at most doubles the size (from nothing, to four) and takes
// away at most half of it. Active requests are those in service and those that
// wait; the target is a share of what one replica carries.
type published struct {
	seen    [publishedDown]int32 // active requests, one a second
	next    int                  // where the next one goes
	known   int                  // how many are known
	sumUp   int64                // of the last publishedUp
	sumDown int64                // of all known
	decided time.Time
	held    Decision
}

const (
	publishedEvery = 5 * time.Second
	publishedUp    = 20
	publishedDown  = 300
)

// observe records a second. Seconds that were lost repeat what was last seen.
func (p *published) observe(s Sample, lost int) {
	if lost > 0 && p.known > 0 {
		last := p.seen[(p.next+publishedDown-1)%publishedDown]
		for range min(lost, publishedDown) {
			p.push(last)
		}
	}
	p.push(int32(min(s.InFlight+s.Waiting, math.MaxInt32)))
}

func (p *published) push(active int32) {
	if p.known >= publishedUp {
		p.sumUp -= int64(p.seen[(p.next+publishedDown-publishedUp)%publishedDown])
	}
	if p.known == publishedDown {
		p.sumDown -= int64(p.seen[p.next])
	}
	p.seen[p.next] = active
	p.next = (p.next + 1) % publishedDown
	p.known = min(p.known+1, publishedDown)
	p.sumUp += int64(active)
	p.sumDown += int64(active)
}

func (p *published) decide(now time.Time, have Fleet, target float64) Decision {
	since := now.Sub(p.decided)
	if !p.decided.IsZero() && since >= 0 && since < publishedEvery {
		d := p.held
		d.Want = max(d.Want, min(1, have.size())) // a wake between decisions stands
		return d
	}
	p.decided = now
	size := have.size()
	meanUp := float64(p.sumUp) / float64(max(1, min(p.known, publishedUp)))
	meanDown := float64(p.sumDown) / float64(max(1, p.known))
	up, down := replicas(meanUp, target), replicas(meanDown, target)
	d := Decision{Want: size, Refused: size, Why: Window, Demand: meanUp, Line: target}
	switch {
	case up > size:
		d.Want, d.Refused, d.Why = up, up, OnDemand
		if most := max(4, 2*size); up > most {
			d.Want, d.Why = most, Capped
		}
	case max(up, down) < size:
		d.Want, d.Refused, d.Why = max(up, down), up, OnDemand
		if least := size / 2; d.Want < least {
			d.Want, d.Why = least, Capped
		}
	}
	p.held = d
	return d
}

// replicas is how many it takes to carry a demand. A hair of it does not start
// another: sums of floating-point numbers are not exact.
func replicas(demand, line float64) int {
	const hair = 1e-9
	n := math.Ceil(demand/line - hair)
	return int(max(0, min(n, 1<<30)))
}

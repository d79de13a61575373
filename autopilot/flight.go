package autopilot

import (
	"math"
	"time"
)

// clearWithin is how many seconds, once a replica that is started now serves,
// may pass until what waits has been cleared. Those who wait are late already
// and the queue lets others pass them, so hurrying only buys replicas that have
// nothing to do afterwards.
const clearWithin = 60

// A flight is what the adaptive rule remembers of an entity.
type flight struct {
	demand demand
	trials trials
	wants  window // what was wanted lately
	quiet  quiet
	flown  time.Time // the second that was last decided on
	woke   time.Time // when a request last found nothing
	rose   time.Time // when more was last wanted than there was
}

func (f *flight) begin(p *Pilot) {
	f.demand.service = p.policy.Service.Seconds()
	span := int(math.Ceil(2 * p.start()))
	f.wants = spanning(max(2, span))
	f.trials.begin(max(2, span))
}

// start and objective are the policy's, in seconds.
func (p *Pilot) start() float64 {
	if p.policy.Start <= 0 {
		return 1
	}
	return p.policy.Start.Seconds()
}

func (p *Pilot) objective() float64 {
	if p.policy.Objective <= 0 {
		return 0.2
	}
	return p.policy.Objective.Seconds()
}

// idle is how long the last replica is kept without a request. Break-even: a
// replica that idles as long as a start takes has cost what the start would
// have, so whoever gives up then never pays more than twice what foresight
// would (ski rental).
func (p *Pilot) idle() float64 {
	if p.policy.Idle > 0 {
		return p.policy.Idle.Seconds()
	}
	return max(5, p.start())
}

// observe takes a second in, after some that were lost.
func (f *flight) observe(p *Pilot, s Sample, lost int) {
	// What a lost second held is not known: the size that was wanted stands for
	// it, so that losing samples never lets the size shrink sooner.
	for range min(lost, 1000) {
		f.wants.push(p.want)
	}
	f.trials.choose()
	x := f.demand.observe(s)
	base, trend, sd, _ := f.demand.estimate(p.start())
	f.trials.play(x, base+trend, sd, s.Line, p.start(), p.objective())
	if s.Arrivals > 0 || s.InFlight > 0 || s.Waiting > 0 {
		f.quiet.busy(s.At, time.Duration(p.idle()*float64(time.Second)))
	}
}

// fly decides by the last second.
func (p *Pilot) fly(now time.Time, have Fleet) Decision {
	f, line, start := &p.flight, p.lineOr1(), p.start()
	base, trend, sd, why := f.demand.estimate(start)
	head := trend + f.trials.headroom(base+trend, sd)
	waking := !f.woke.IsZero() && now.Sub(f.woke) < (meanSpan+2)*time.Second && now.After(f.woke)
	if waking {
		// It was asleep, and a mean would take one second of arrivals for a rate.
		// Five thousand at once are one replica's work for a minute, not sixty
		// replicas'.
		base, head, why = min(base, f.demand.load.median(int(now.Sub(f.woke)/time.Second))), 0, Woken
	}
	// What waits beyond one objective's worth is to be cleared some time after a
	// replica that is started now serves.
	if backlog := float64(p.last.Waiting)*f.demand.service - p.objective()*base; backlog > 0 {
		clear := float64(clearWithin)
		if waking {
			clear *= 4 // still well within a request's deadline
		} else {
			why = OnBacklog
		}
		head += backlog / (start + clear)
	}
	raw := replicas(base+head, line)
	busy := base > 0 || p.last.Waiting > 0 || p.last.InFlight > 0
	if busy {
		raw = max(raw, 1)
	}
	d := Decision{Want: raw, Refused: replicas(base, line), Why: why, Demand: base, Headroom: head, Line: line}
	if f.flown != p.last.At {
		f.flown = p.last.At
		f.wants.push(raw)
	}
	if raw >= have.size() {
		if raw > have.size() {
			f.rose = now
		}
		return p.unlessIdle(d, now, have)
	}
	if most := f.wants.max(); most > d.Want {
		d.Want, d.Why = min(have.size(), most), Window
	}
	if keep := have.Starting + have.Fresh; d.Want < keep && now.Sub(f.rose).Seconds() < start+p.idle() {
		d.Want, d.Why = keep, Unserved
	}
	return p.unlessIdle(d, now, have)
}

// unlessIdle looks after the last replica.
func (p *Pilot) unlessIdle(d Decision, now time.Time, have Fleet) Decision {
	f := &p.flight
	quiet := now.Sub(f.quiet.since).Seconds()
	switch {
	case p.last.Waiting > 0 || p.last.InFlight > 0 || p.last.Arrivals > 0:
	case d.Want <= 1 && f.quiet.due(now, p.start()):
		d.Want, d.Why = 1, Regular
		if have.size() == 0 {
			f.rose = now
		}
	case have.size() == 0 && d.Want <= 1:
		d.Want, d.Why = 0, Asleep // what is left of the mean is no reason to start
	case d.Want <= 1 && !f.quiet.since.IsZero() && quiet < p.idle():
		d.Want, d.Why = 1, KeepWarm
	case d.Want <= 1 && d.Why != Unserved:
		d.Want, d.Why = 0, Asleep
	}
	return d
}

// Overtake is how long a late request may be overtaken by those on time: for two
// starts, and at least five seconds. Until a replica that was started for a
// rise serves, capacity is short; giving every second turn to a late request
// before then makes a request late for each that it serves.
func Overtake(start time.Duration) time.Duration { return max(5*time.Second, 2*start) }

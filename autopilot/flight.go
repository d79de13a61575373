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
	if now.Sub(f.woke) < 3*time.Second && !f.woke.IsZero() {
		// It was asleep: one second of arrivals is not a rate. Five thousand at
		// once are one replica's work for a while, not sixty replicas'.
		base = min(base, f.demand.load.least(2))
		trend, sd, why = 0, 0, Woken
	}
	head := trend + f.trials.headroom(sd)
	// What waits counts as far as those who are there or coming will not have
	// cleared it when one that is started now could begin.
	backlog := float64(p.last.Waiting)*f.demand.service - p.objective()*base
	backlog -= max(0, float64(have.size())*line-base) * (start + clearWithin)
	if backlog > 0 && why != Woken {
		head += backlog / (start + clearWithin)
		why = OnBacklog
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
		return p.unlessIdle(d, now, have)
	}
	if most := f.wants.max(); most > d.Want {
		d.Want, d.Why = min(have.size(), most), Window
	}
	if keep := have.Starting + have.Fresh; d.Want < keep {
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

// Package autopilot decides how many replicas an entity should have.
//
// A [Pilot] flies one entity. Feed it a [Sample] each second and ask it to
// [Pilot.Decide] whenever you like: the same samples and the same readings of
// the clock always give the same decisions. It starts nothing, reads no clock,
// writes no log and allocates nothing once it flies, so that the server and the
// simulator run the very same code, and every decision can be replayed from a
// trace.
//
// # The two axes
//
// How much one replica may carry at once is its load line; it comes with each
// sample. How many replicas there should be is the demand, in requests that are
// in service at once, over that line, with headroom for what the demand may do
// while a replica starts. docs/autoscaling.md gives the formulas.
//
// # What it does not do
//
// It does not start replicas, choose where they run, or know whether they
// started: the caller says how many there are each time it asks.
package autopilot

import (
	"math"
	"time"

	"loadline.dev/loadline/serving"
)

// A Rule says which way of flying an entity follows.
type Rule uint8

const (
	// Adaptive learns demand, its dispersion and its trend. It is the default.
	Adaptive Rule = iota

	// Published is the rule of the platform that is the baseline of every
	// comparison; see [published].
	Published

	// Static keeps one size, whatever happens.
	Static
)

// A Policy is what an entity is flown by. The zero Policy is adaptive, between
// zero replicas and no bound.
type Policy struct {
	Rule Rule

	// Share is for Published: its target is this share of the load line.
	Share float64

	// Size is for Static.
	Size int

	// Min and Max bound the replicas. Min zero lets the last one go; Max zero is
	// no bound.
	Min, Max int

	// Idle is how long the last replica stays without a request. Zero is
	// break-even: as long as a start takes, and at least five seconds. Published
	// and Static do not look at it.
	Idle time.Duration

	// Start is how long a replica takes from the decision to its first answer,
	// at the quantile that is planned with (p95). Zero is one second.
	Start time.Duration

	// Service is the time that one request takes, as calibration found it before
	// the first one; zero is not known. What is measured then takes its place.
	Service time.Duration

	// Objective is the wait beyond which a request is late. Zero is 200 ms.
	Objective time.Duration
}

// Validate reports the first thing wrong with p, or nil.
func (p Policy) Validate() error {
	switch {
	case p.Rule > Static:
		return invalid("there is no such rule")
	case p.Rule == Published && !(p.Share > 0 && p.Share <= 10): // not a number is refused too
		return invalid("the share of published must lie above 0 and be at most 10")
	case p.Rule == Static && p.Size < 0:
		return invalid("a static size cannot be negative")
	case p.Min < 0 || p.Max < 0 || p.Max > 0 && p.Min > p.Max:
		return invalid("min must be at least 0 and at most max")
	case p.Idle < 0 || p.Start < 0 || p.Service < 0 || p.Objective < 0:
		return invalid("durations cannot be negative")
	}
	return nil
}

func invalid(why string) error {
	return &serving.Error{Op: "autopilot policy", Kind: serving.Invalid, Err: reason(why)}
}

type reason string

func (r reason) Error() string { return string(r) }

// A Sample is what one entity did during one second, over all gateways.
type Sample struct {
	// At is when the second ended, by the clock that Decide is asked with.
	At time.Time

	// Over is how long the sample covers; zero is one second.
	Over time.Duration

	// Arrivals counts the requests that came during it.
	Arrivals int

	// InFlight and Waiting are how many were in service and how many waited for
	// a place when it ended.
	InFlight, Waiting int

	// Service is the mean time in service of the requests that ended during it;
	// zero when none did.
	Service time.Duration

	// Line is the load line: how many requests one replica may carry at once.
	// Zero is not known yet, and the last one known holds; before any, one.
	Line float64
}

// A Fleet is how many replicas there are, as the platform last saw them.
type Fleet struct {
	Ready    int // take requests
	Starting int // wished for and not ready yet
	Fresh    int // of Ready: have not served a request yet
}

// size is how many have been wished for.
func (f Fleet) size() int { return f.Ready + f.Starting }

// A Why names the rule that had the last word.
type Why uint8

const (
	NoSignal Why = iota
	OnDemand
	OnBurst
	OnTrend
	OnBacklog
	Window
	Unserved
	KeepWarm
	Regular
	Asleep
	Woken
	AtMin
	AtMax
	Fixed
	Capped
	Share
	whys
)

var whyText = [whys]string{
	NoSignal:  "no recent sample, so the size is kept",
	OnDemand:  "demand over load line",
	OnBurst:   "a burst stands above the mean of ten seconds",
	OnTrend:   "demand is rising beyond its noise",
	OnBacklog: "what waits must be cleared",
	Window:    "demand was higher within the window",
	Unserved:  "a replica that has not served yet is kept",
	KeepWarm:  "idle for less than a start is worth",
	Regular:   "gaps are regular and the next request is due",
	Asleep:    "idle",
	Woken:     "a request waits and there is no replica",
	AtMin:     "held at min",
	AtMax:     "held at max",
	Fixed:     "fixed size",
	Capped:    "the step is capped",
	Share:     "shared out by need and weight",
}

func (w Why) String() string {
	if w < whys {
		return whyText[w]
	}
	return "unknown"
}

// A Decision is what the autopilot wants, and why.
type Decision struct {
	Want int
	Why  Why

	// Demand is the estimate of the requests in service at once, without
	// headroom; Headroom is what was added for its dispersion, trend and
	// backlog. Both are zero for rules that do not estimate.
	Demand, Headroom float64

	// Line is the load line that both were divided by.
	Line float64

	// Refused is the size that demand alone asked for when another rule had the
	// last word, else equal to Want.
	Refused int
}

// A Pilot flies one entity. It is not safe for concurrent use; its owner
// serializes calls.
type Pilot struct {
	policy Policy
	line   float64 // the last load line known; zero before any
	last   Sample  // the last whole second
	part   Sample  // of a second that has not ended
	want   int     // the last decision

	flight    flight     // adaptive
	published *published // nil unless the rule is Published
}

// New returns a pilot that follows policy.
func New(policy Policy) (*Pilot, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	p := &Pilot{policy: policy}
	if policy.Rule == Published {
		p.published = new(published)
	}
	p.flight.begin(p)
	return p, nil
}

// Policy is what the pilot follows.
func (p *Pilot) Policy() Policy { return p.policy }

// SetPolicy changes bounds, idle time, start time and objective from now on. A
// change of rule begins afresh, from the size it sees.
func (p *Pilot) SetPolicy(policy Policy) error {
	if err := policy.Validate(); err != nil {
		return err
	}
	if policy.Rule == Published && p.published == nil {
		p.published = new(published)
	}
	p.policy = policy
	return nil
}

// Silence is how old the newest sample may be before the size is frozen.
const Silence = 2500 * time.Millisecond

// Observe records s. A sample that is no newer than the last one is ignored:
// samples travel over a network that repeats and reorders. One that is more
// than a minute older means that the clock was set back, and counts as the next.
func (p *Pilot) Observe(s Sample) {
	const clockStep = time.Minute
	if s.Over <= 0 {
		s.Over = time.Second
	}
	gap := s.Over
	if !p.last.At.IsZero() {
		gap = s.At.Sub(p.last.At)
		switch {
		case gap <= 0 && gap > -clockStep:
			return
		case gap <= 0 || gap > clockStep:
			gap = s.Over // the clock moved, not the world
		}
	}
	if s.Line > 0 && !math.IsInf(s.Line, 0) {
		p.line = s.Line
	}
	s.Line = p.lineOr1()
	if p.part.Over > 0 { // samples of less than a second are put together
		s.Over += p.part.Over
		s.Arrivals += p.part.Arrivals
		if s.Service == 0 {
			s.Service = p.part.Service
		}
		gap += p.part.Over
	}
	if s.Over < time.Second-50*time.Millisecond {
		p.part, p.last.At = s, s.At
		return
	}
	p.part = Sample{}
	lost := int((gap - s.Over + time.Second/2) / time.Second)
	p.last = s
	if p.policy.Rule == Published {
		p.published.observe(s, lost)
		return
	}
	p.flight.observe(p, s, lost)
}

func (p *Pilot) lineOr1() float64 {
	if p.line > 0 {
		return p.line
	}
	return 1
}

// Decide returns the size wanted at now, given what there is.
func (p *Pilot) Decide(now time.Time, have Fleet) Decision {
	d := p.decide(now, have)
	p.want = d.Want
	return d
}

// Wake returns the size wanted at once because waiting requests found no
// replica, between two samples.
func (p *Pilot) Wake(now time.Time, waiting int, have Fleet) Decision {
	if have.size() > 0 || waiting == 0 || p.policy.Rule == Static {
		return p.Decide(now, have)
	}
	p.flight.woke, p.flight.rose = now, now
	d := p.bound(Decision{Want: 1, Refused: 1, Why: Woken, Line: p.lineOr1()})
	p.want = d.Want
	return d
}

func (p *Pilot) decide(now time.Time, have Fleet) Decision {
	if p.policy.Rule == Static {
		return Decision{Want: p.policy.Size, Refused: p.policy.Size, Why: Fixed, Line: p.lineOr1()}
	}
	if p.last.At.IsZero() || now.Sub(p.last.At) > Silence {
		return p.frozen(have)
	}
	if p.policy.Rule == Published {
		return p.bound(p.published.decide(now, have, p.policy.Share*p.lineOr1()))
	}
	return p.bound(p.fly(now, have))
}

// frozen keeps the size: what cannot be seen must not be acted on. A size that
// was wanted and is not there yet is still wanted.
func (p *Pilot) frozen(have Fleet) Decision {
	size := max(have.size(), p.want)
	return p.bound(Decision{Want: size, Refused: size, Why: NoSignal, Line: p.lineOr1()})
}

// bound keeps a decision within min and max.
func (p *Pilot) bound(d Decision) Decision {
	switch {
	case d.Want < p.policy.Min:
		d.Want, d.Why = p.policy.Min, AtMin
	case p.policy.Max > 0 && d.Want > p.policy.Max:
		d.Want, d.Why = p.policy.Max, AtMax
	}
	return d
}

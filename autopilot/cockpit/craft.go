package cockpit

import (
	"context"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

// A craft is one entity on its way: its pilot, its load line, and what was last
// seen and decided. Its cockpit's lock guards it.
type craft struct {
	key
	tenant, endpoint string
	rev              serving.Revision
	began            time.Time // when this process first saw it

	scale serving.Scale
	told  bool // scale is the user's
	pilot *autopilot.Pilot
	want  int // as last decided; below zero before
	last  autopilot.Decision
	why   string    // the last change's reason
	row   time.Time // of the last row about replicas
	cost  float64   // replica-seconds since then

	service time.Duration // smoothed time in service
	line    *autopilot.Line
	judged  autopilot.LineDecision // the last one
	profile string                 // what the line is remembered by
	prior   int
	fixed   bool
	sent    int // line that gateways were told
	kept    time.Time
	pulses  map[string]autopilot.Pulse
	starts  starts

	file rows
}

// inherit goes on where the entity was that this one replaces.
func (f *craft) inherit(old *craft) {
	f.pilot, f.want, f.last, f.starts = old.pilot, old.want, old.last, old.starts
	f.line, f.began = old.line, old.began
}

// obey takes over what the user wishes.
func (f *craft) obey(c *Cockpit, s serving.Scale) {
	if f.told && f.scale == s && f.pilot != nil {
		return
	}
	f.scale, f.told = s, true
	f.steer(c)
	if f.line != nil {
		f.line.SetBounds(f.bounds())
	}
}

// steer gives the pilot its policy.
func (f *craft) steer(c *Cockpit) {
	p, err := autopilot.Parse(orElse(f.scale.Policy, "autopilot"))
	if err != nil { // it was checked when it was ordered
		p = autopilot.Policy{}
	}
	p.Min, p.Max, p.Idle = f.scale.Min, c.most(f.scale), f.scale.Idle
	p.Objective, p.Start = f.scale.Objective, f.starts.usual()
	if f.line != nil {
		p.Service = f.line.Alone()
	}
	if p.Rule == autopilot.Static {
		p.Min, p.Max = 0, 0
	}
	if f.pilot != nil && f.pilot.Policy().Rule == p.Rule {
		if f.pilot.SetPolicy(p) == nil {
			return
		}
	}
	pilot, err := autopilot.New(p)
	if err != nil {
		c.Log.Error("policy", "endpoint", f.endpoint, "entity", f.entity, "why", err)
		return
	}
	f.pilot = pilot
}

// follow goes over to another revision: its line begins with what is remembered
// of it or, of something new, with what its predecessor's was.
func (f *craft) follow(ctx context.Context, c *Cockpit, rev serving.Revision) {
	f.rev, f.pulses, f.sent = rev, map[string]autopilot.Pulse{}, 0
	recipe := serving.Recipe{}
	if rev.Digest != "" {
		recipe = c.Keeper.Recipe(ctx, rev.Digest)
	}
	f.fixed = recipe.Limits.Concurrency > 0
	f.prior = autopilot.Prior(recipe.Engine, 0)
	if f.fixed {
		f.prior = recipe.Limits.Concurrency
	}
	f.profile = profileKey(recipe, c.Hardware)
	known, ok := c.recall(ctx, f.profile)
	if !ok && f.line != nil {
		known.Line = f.line.Profile()
	}
	if len(f.starts.Took) == 0 {
		f.starts.Took = known.Starts
	}
	f.line = autopilot.NewLine(f.bounds(), known.Line)
}

func (f *craft) bounds() autopilot.Bounds {
	return autopilot.Bounds{Prior: f.prior, Objective: f.scale.Objective, Fixed: f.fixed}
}

// fly takes a second in and decides on the size. It says whether that changed.
func (f *craft) fly(c *Cockpit, r *autopilot.Report, have fleet, now time.Time, over time.Duration) bool {
	f.cost += float64(have.alive) * over.Seconds()
	before := len(f.starts.Took)
	f.starts.note(have.replicas)
	if !f.told || r.Revision.Digest == "" {
		return false // its user's wish comes with the next round of control
	}
	if f.pilot == nil || len(f.starts.Took) != before {
		f.steer(c)
	}
	s := autopilot.Sample{At: now, Over: over, Arrivals: r.Arrivals, InFlight: r.InFlight, Waiting: r.Waiting}
	if r.Ended > 0 {
		s.Service = r.Worked / time.Duration(r.Ended)
		if f.service == 0 {
			f.service = s.Service
		}
		f.service += (s.Service - f.service) / 10 // as the pilot smooths it
	}
	s.Line = f.line.Carries(f.service)
	f.pilot.Observe(s)
	d := f.pilot.Decide(now, f.fleet(c, r, have, now))
	return f.decided(c, d, r, have, now)
}

// fleet is what there is, as a pilot wants to know it.
func (f *craft) fleet(c *Cockpit, r *autopilot.Report, have fleet, now time.Time) autopilot.Fleet {
	fresh := 0
	for _, one := range have.replicas {
		if now.Sub(one.Since) < f.warm() && f.pulses[one.ID].Answered == 0 {
			fresh++
		}
	}
	return autopilot.Fleet{Ready: have.ready, Starting: max(have.alive, f.want) - have.ready, Fresh: min(fresh, have.ready)}
}

// warm is how long a replica that has served nobody is kept for that reason.
func (f *craft) warm() time.Duration {
	if f.scale.Idle > 0 {
		return f.scale.Idle
	}
	return max(5*time.Second, f.starts.usual())
}

// calm is how long after its beginning this process takes nothing away: it has
// not seen yet what the entity needs.
func (f *craft) calm() time.Duration {
	return max(f.warm(), 2*f.starts.usual())
}

// decided takes a decision over and says whether the size changed.
func (f *craft) decided(c *Cockpit, d autopilot.Decision, r *autopilot.Report, have fleet, now time.Time) bool {
	rule, why := sizeRules[d.Why], d.Why.String()
	if f.adaptive() && d.Want < have.alive && now.Sub(f.began) < f.calm() {
		d.Want, rule, why = c.within(f.scale, have.alive), "begun", "the autopilot has only just begun to watch"
	}
	// However many wait: one cold start, and then it is seen what it carries.
	if first := max(1, f.scale.Min, have.alive); f.adaptive() && have.ready == 0 && d.Want > first {
		d.Want, rule, why = first, "first", "no replica is ready yet, and one will show what it carries"
	}
	if most := max(have.ready+f.atOnce(c), have.alive, f.scale.Min); f.adaptive() && d.Want > most {
		d.Want, rule, why = most, "in-turn", "more at once would start slower, and slow down those that serve"
	}
	was := f.want
	f.want, f.last = d.Want, d
	changed := was != d.Want
	if changed && was >= 0 {
		f.why = why
	}
	if was < 0 {
		was = have.alive
	}
	if was != d.Want || now.Sub(f.row) >= time.Minute {
		f.log(c, f.sizeRow(d, rule, why, was, r, have, now), now)
		f.row, f.cost = now, 0
	}
	return changed
}

// atOnce is how many replicas may be starting. A start of some seconds is work
// for a processor, which those that serve lack meanwhile.
func (f *craft) atOnce(c *Cockpit) int {
	const cheap = 2 * time.Second
	if usual := f.starts.usual(); usual > 0 && usual < cheap {
		return max(1, 2*c.Processors)
	}
	return max(1, c.Processors/2)
}

// adaptive reports whether the autopilot's own rule is followed.
func (f *craft) adaptive() bool { return f.pilot.Policy().Rule == autopilot.Adaptive }

// wake decides between two ticks.
func (f *craft) wake(c *Cockpit, have fleet, now time.Time) bool {
	if f.pilot == nil || !f.told || have.alive > 0 || f.want > 0 {
		return false
	}
	r := &autopilot.Report{Waiting: 1}
	return f.decided(c, f.pilot.Wake(now, 1, f.fleet(c, r, have, now)), r, have, now)
}

// carry takes in how each replica did and decides on the load line. It returns
// the line to be sent, or zero when it is known already.
func (f *craft) carry(c *Cockpit, r *autopilot.Report, now time.Time, over time.Duration) int {
	tail := time.Duration(0)
	if r.Times != nil {
		tail = r.Times.Quantile(0.99)
	}
	pulses := make(map[string]autopilot.Pulse, len(r.Replicas))
	for _, p := range r.Replicas {
		pulses[p.Replica] = p
		was, known := f.pulses[p.Replica]
		if !known || p.Sequence <= was.Sequence || p.Answered < was.Answered {
			continue // its first word, old news, or an agent that began anew
		}
		reading := autopilot.Reading{At: now, Over: over, Answered: int(p.Answered - was.Answered), Broken: int(p.Broken - was.Broken),
			Tail: tail, Waiting: r.Waiting > 0, Pressure: p.Pressure}
		if reading.Answered > 0 && p.Beside > was.Beside {
			reading.Beside = float64(p.Beside-was.Beside) / float64(reading.Answered)
			reading.Inside = (p.Inside - was.Inside) / time.Duration(reading.Answered)
		}
		f.line.Observe(reading)
	}
	f.pulses = pulses
	before := f.line.Current()
	d := f.line.Decide(now)
	f.judged = d
	if d.Line != before {
		f.log(c, f.lineRowOf(d, before, r, now), now)
		f.kept = time.Time{} // worth keeping soon
	}
	if d.Line == f.sent || d.Why == autopilot.LinePrior || len(r.Replicas) == 0 {
		return 0 // the agents' own is the prior
	}
	f.sent = d.Line
	return d.Line
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

package autopilot

import "time"

// A Profile is what is remembered of a line, by what it was learned on: the
// model's digest, the engine, the hardware. The next version of a model starts
// from its predecessor's, and a restart from what was known.
type Profile struct {
	Line    int       // where it was; zero means that nothing is known
	Settled bool      // its first climb had ended
	Tail    float64   // ratio of the 99th percentile to the mean
	Points  []Point   // what was seen of the curve
	At      time.Time // when it was last measured
}

// A Point is what was seen at about one concurrency.
type Point struct {
	Beside   float64       // mean requests in the replica, each with itself
	Inside   time.Duration // mean time inside
	Scatter  float64       // relative variance of it, from reading to reading
	Requests float64       // how many say so; older ones count less
	Readings float64
}

// Profile returns what is worth remembering.
func (l *Line) Profile() Profile {
	p := Profile{Line: l.line, Settled: l.settled, Tail: l.tail, At: l.last}
	if !l.fit.ok {
		p.Line = 0
		if l.why == LineKnown {
			p.Line = l.line
		}
	}
	for i := range l.cells {
		c := &l.cells[i]
		if c.weight < 1 {
			continue
		}
		mean := float64(c.inside / c.weight)
		within := float64(c.square/c.weight) - mean*mean
		p.Points = append(p.Points, Point{Beside: float64(c.n / c.weight), Inside: seconds(mean),
			Scatter: max(0, within) / (mean * mean), Requests: float64(c.weight), Readings: float64(c.count)})
	}
	return p
}

// trust is how much of what another process or version measured still counts.
// It is enough to begin with and soon outweighed.
const trust = 0.25

// recall begins where a profile ends.
func (l *Line) recall(p Profile) {
	if p.Line <= 0 {
		return
	}
	l.line, l.why, l.settled = l.within(p.Line), LineKnown, p.Settled
	if p.Tail >= 1 {
		l.tail, l.tails = min(50, p.Tail), enough
	}
	for _, at := range p.Points {
		inside := at.Inside.Seconds()
		if !(at.Beside >= 1) || at.Beside > MostLine || inside <= 0 || !(at.Requests > 0) || !(at.Scatter >= 0) {
			continue
		}
		c, w := &l.cells[cellOf(at.Beside)], min(1e6, trust*at.Requests)
		c.weight += float32(w)
		c.n += float32(w * at.Beside)
		c.inside += float32(w * inside)
		c.square += float32(w * inside * inside * (1 + min(100, at.Scatter)))
		c.count += float32(min(100, max(1, at.Readings)) * trust)
	}
	l.fit = fitCells(l.cells[:], max(1, float64(l.line)))
}

// Prior is where an engine's line begins when nothing is known of the model.
// Our worker predicts one at a time, and what is beyond one hides the hand-off;
// an engine of the user's own may do anything; a GPU batcher wants twice its batch.
func Prior(engine string, batch int) int {
	switch {
	case batch > 0:
		return 2 * batch
	case engine == "python":
		return 4
	case engine == "custom":
		return 64
	}
	return 8
}

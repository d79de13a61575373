package autopilot

import (
	"math"
	"time"
)

// A Reading is how one replica did during a span of about a second. Readings of
// all replicas of an entity are pooled: replicas naturally sit at different
// concurrencies, and together they show more of the curve than each alone.
type Reading struct {
	// At is when the span ended, by the clock that [Line.Decide] is asked with.
	At time.Time

	// Over is how long the span was; zero is one second.
	Over time.Duration

	// Beside is how many requests were in the replica when one entered, itself
	// included, as the mean over the requests of the span; at least 1.
	Beside float64

	// Inside is the mean time that these requests held their place.
	Inside time.Duration

	// Answered counts them. A reading of none says nothing and is ignored.
	Answered int

	// Broken counts requests that the engine took and did not answer.
	Broken int

	// Tail is the 99th percentile of the time inside, where it is known. Zero is
	// not known.
	Tail time.Duration

	// Waiting says that requests waited in front of the replica for a place.
	Waiting bool

	Pressure Pressure
}

// Pressure is what a replica feels of its machine, each as a share of what it
// may have. Zero is none, or not known.
type Pressure struct {
	CPU       float64 // of its processors
	Memory    float64 // of its limit
	Throttled float64 // of the span, spent waiting for its share of processor time
	IOWait    float64 // of the span, waiting for input and output
	GPU       float64 // busy
	GPUMemory float64 // of the device's
}

// tight is the share of memory beyond which one request more may be the end.
const tight = 0.92

// dear reports whether memory is nearly used up, on either side.
func (p Pressure) dear() bool { return p.Memory > tight || p.GPUMemory > tight }

// throttled is the share of a span in want of processor time beyond which more
// requests at once only wait longer.
const throttled = 0.25

// A Bounds says within what a load line is sought.
type Bounds struct {
	// Prior is where it begins when nothing is remembered; see [Prior].
	Prior int

	// Most is the highest line allowed; zero is [MostLine].
	Most int

	// Objective bounds the time inside, at the 99th percentile. Zero is found:
	// see [Line.Objective].
	Objective time.Duration

	// Fixed holds the line at Prior: the user has said what a replica may carry.
	Fixed bool
}

// MostLine bounds every load line: beyond it, places themselves cost.
const MostLine = 4096

// Cells lie on a logarithmic scale of concurrency, six to the doubling.
const (
	cellsPerDouble = 6
	cellCount      = 12*cellsPerDouble + 1 // up to MostLine
)

// A Line learns how much one replica of an entity may carry at once. It is not
// safe for concurrent use. Make one with [NewLine].
//
// The line is the largest concurrency whose predicted 99th percentile is inside
// the objective and whose throughput still grows by more than a twentieth of
// what the concurrency grows by. It is raised in steps while requests ask for
// more and the last step paid, and lowered at once by the guard.
type Line struct {
	bounds Bounds
	line   int
	why    LineWhy

	cells [cellCount]cell
	fit   fit     // as of the last reading
	tail  float64 // smoothed ratio of the 99th percentile to the mean; 1 until measured
	tails float64 // of how many answers
	guard guard

	last    time.Time // newest reading
	changed time.Time // when the line last changed, or was found good
	since   int       // requests answered since then
	loaded  float64   // most concurrency of a reading since then
	stay    cell      // the readings since then
	stayed  cell      // those of the line before
	asked   bool      // requests waited since then
	settled bool      // the end of the first climb was seen
	spared  int       // the line when memory became dear; zero while it is not
	below   bool      // a smaller line is to be tried next
	halve   bool      // the last climb leapt over what was not looked at yet
	odd     int       // readings in a row that the fit did not foresee
	odds    [3]odd    // they
	held    Pressure  // worst since the last change
}

// NewLine returns a line that begins where known ends, or at the prior.
func NewLine(b Bounds, known Profile) *Line {
	l := &Line{bounds: b, tail: 1}
	l.line = l.within(b.Prior)
	l.recall(known)
	return l
}

// A LineWhy names the rule that set the line.
type LineWhy uint8

const (
	LinePrior   LineWhy = iota // nothing is known yet
	LineKnown                  // as remembered
	LineClimbs                 // more is asked for, and it pays
	LineProbes                 // a small step, to see whether it pays
	LineBelow                  // a step down, to see whether less carries as much
	LinePeak                   // more would gain too little
	LineSlow                   // more would be later than the objective
	LineGuard                  // latency rose beyond what the concurrency explains
	LineLate                   // the measured 99th percentile is past the objective
	LineBroken                 // requests broke
	LineMemory                 // memory is nearly used up
	LineStarved                // processor time is short
	LineIdle                   // too little is asked for to learn more
	LineFixed                  // the user set it
	lineWhys
)

var lineWhyText = [lineWhys]string{
	LinePrior:   "the engine's usual, nothing is measured yet",
	LineKnown:   "as remembered from before",
	LineClimbs:  "more was asked for, and the last step paid",
	LineProbes:  "a small step up, to see whether it pays",
	LineBelow:   "a step down, to see whether less carries as much",
	LinePeak:    "more at once would add too little throughput",
	LineSlow:    "more at once would be later than the objective",
	LineGuard:   "latency rose beyond what the concurrency explains",
	LineLate:    "the 99th percentile was past the objective",
	LineBroken:  "requests broke",
	LineMemory:  "memory is nearly used up",
	LineStarved: "processor time is short",
	LineIdle:    "kept: too little is asked for to learn more",
	LineFixed:   "fixed by the user",
}

func (w LineWhy) String() string {
	if w < lineWhys {
		return lineWhyText[w]
	}
	return "unknown"
}

// A LineDecision is how much a replica may carry, and why.
type LineDecision struct {
	Line int
	Why  LineWhy

	// Law is what was fitted; zero while nothing is known. Tail is the predicted
	// 99th percentile of the time inside at Line, Error its standard error.
	Law         Law
	Tail, Error time.Duration

	// Objective is what Tail was held against.
	Objective time.Duration

	// Refused is the line that another rule would have chosen; else Line.
	Refused int
}

// Current is the line as of the last decision.
func (l *Line) Current() int { return l.line }

// SetBounds changes the bounds from now on.
func (l *Line) SetBounds(b Bounds) {
	l.bounds = b
	l.line = l.within(l.line)
	if b.Fixed {
		l.line = l.within(b.Prior)
	}
}

func (l *Line) within(n int) int {
	most := l.bounds.Most
	if most <= 0 || most > MostLine {
		most = MostLine
	}
	return max(1, min(n, most))
}

// Objective is what the 99th percentile of the time inside is held against:
// what the user gave or, without, a fifth of a second and at least four times
// what a request takes alone, so that a slow model is not held to a fast one's.
func (l *Line) Objective() time.Duration {
	if l.bounds.Objective > 0 {
		return l.bounds.Objective
	}
	alone := 0.0
	if l.fit.ok {
		alone = l.fit.abc[0] * l.tail
	}
	return max(200*time.Millisecond, seconds(4*alone))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func cellOf(n float64) int {
	return max(0, min(cellCount-1, int(math.Round(math.Log2(max(1, n))*cellsPerDouble))))
}

// Observe takes a reading in. One older than the newest is taken for what it
// says of the curve, and moves no clock.
func (l *Line) Observe(r Reading) {
	if r.Broken > 0 {
		l.guard.broke(r)
	}
	l.held = worse(l.held, r.Pressure)
	if r.Answered <= 0 || r.Inside <= 0 || !(r.Beside > 0) || r.Beside > 1e6 {
		return
	}
	if r.Over <= 0 {
		r.Over = time.Second
	}
	// Where all enter together, as behind a batch, most find few beside them and
	// soon have many: then the mean over time, by Little's law, is the truer. It
	// shares its error with the time inside, so it is taken only when it differs.
	inside, beside := r.Inside.Seconds(), max(1, r.Beside)
	if little := float64(r.Answered) * inside / r.Over.Seconds(); little > 1.15*beside {
		beside = little
	}
	l.fade(r.At)
	// A moment's wait in a second that was not full asks for no more.
	l.asked = l.asked || r.Waiting && beside > 0.85*float64(l.line)
	expected, _ := l.fit.inside(beside)
	l.guard.observe(r, inside, expected)
	if !l.surprise(beside, inside, r.Answered) {
		l.add(beside, inside, r.Answered)
	}
	if r.Tail > 0 {
		const memory = 2000 // answers
		l.tails = min(memory, l.tails+float64(r.Answered))
		l.tail += float64(r.Answered) / l.tails * (min(50, max(1, r.Tail.Seconds()/inside)) - l.tail)
	}
	l.since += r.Answered
	l.stay.add(beside, inside, r.Answered)
	l.loaded = max(l.loaded, beside)
	l.fit = fitCells(l.cells[:], max(1, float64(l.line)))
}

func worse(a, b Pressure) Pressure {
	return Pressure{CPU: max(a.CPU, b.CPU), Memory: max(a.Memory, b.Memory), Throttled: max(a.Throttled, b.Throttled),
		IOWait: max(a.IOWait, b.IOWait), GPU: max(a.GPU, b.GPU), GPUMemory: max(a.GPUMemory, b.GPUMemory)}
}

// halfLife is how long a reading counts fully, more or less. Only time with
// traffic ages what is known: a quiet night forgets nothing.
const halfLife = 45 * time.Second

// fade ages all cells by the traffic time that has passed.
func (l *Line) fade(at time.Time) {
	const most = 3 * time.Second // more is a gap in traffic
	if l.last.IsZero() || at.Sub(l.last) > time.Hour {
		l.last = at
		return
	}
	passed := at.Sub(l.last)
	if passed <= 0 {
		return
	}
	l.last = at
	l.scale(float32(math.Exp2(-min(passed, most).Seconds() / halfLife.Seconds())))
}

func (l *Line) scale(by float32) {
	for i := range l.cells {
		c := &l.cells[i]
		c.weight *= by
		c.n *= by
		c.inside *= by
		c.square *= by
		c.count *= by
	}
}

// surprise reports whether a reading lies off what was foreseen by more than
// chance and a tenth. Such readings are held back; when three in a row lie off
// on the same side the replica has become another, and they are what its curve
// begins with.
func (l *Line) surprise(beside, inside float64, answered int) bool {
	c := &l.cells[cellOf(beside)]
	known := c.weight >= 2*enough
	if !l.fit.ok || !known && l.odd == 0 {
		return false
	}
	// What was seen here before is the measure, not what the law says: the law
	// never fits everywhere. It bridges the width of a cell, and serves where
	// nothing was seen lately, once something is amiss.
	mean, uncertain := l.fit.inside(beside)
	if known {
		near, _ := l.fit.inside(float64(c.n / c.weight))
		mean *= float64(c.inside/c.weight) / near
		uncertain = 0
	}
	chance := math.Hypot(uncertain, mean*math.Sqrt(scatter(l.cells[:])*(1/float64(answered)+1/max(5*enough, float64(c.weight)))))
	off := inside - mean
	if math.Abs(off) < 0.1*mean || math.Abs(off) < 3*chance || l.odd > 0 && off*l.odds[0].off < 0 {
		l.giveBack()
		return false
	}
	l.odds[l.odd] = odd{beside: beside, inside: inside, answered: answered, off: off}
	if l.odd++; l.odd < len(l.odds) {
		return true
	}
	l.cells = [cellCount]cell{}
	l.giveBack()
	if off > 0 {
		l.below = true // of what is slower now, less may carry as much
	} else {
		l.settled = false
	}
	return true
}

// giveBack takes in the readings that were held back.
func (l *Line) giveBack() {
	for _, o := range l.odds[:l.odd] {
		l.add(o.beside, o.inside, o.answered)
	}
	l.odd = 0
}

// An odd reading is one that was not foreseen.
type odd struct {
	beside, inside, off float64
	answered            int
}

func (l *Line) add(beside, inside float64, answered int) {
	l.cells[cellOf(beside)].add(beside, inside, answered)
}

func (c *cell) add(beside, inside float64, answered int) {
	w := float32(answered)
	c.weight += w
	c.n += w * float32(beside)
	c.inside += w * float32(inside)
	c.square += w * float32(inside*inside)
	c.count++
}

package autopilot

import (
	"math"
	"time"
)

const (
	// pays is the least share of a growth in concurrency that must come back as
	// throughput.
	pays = 0.05

	// vague is the standard error of the gain beyond which the fit says nothing
	// about a step.
	vague = 0.35

	smallStep  = 1.1              // of a line that has found its place
	smallEvery = 30 * time.Second // between two of them, unless the last one paid
	sureEvery  = 3 * time.Second  // of those that surely pay
	clear      = 0.5              // a gain that is surely above this is followed at once
)

// Decide returns the line from now on. Ask about once a second.
func (l *Line) Decide(now time.Time) LineDecision {
	before := l.line
	objective := l.Objective()
	d := LineDecision{Objective: objective, Refused: before}
	switch {
	case l.bounds.Fixed:
		l.line, d.Why = l.within(l.bounds.Prior), LineFixed
	default:
		l.line, d.Why, d.Refused = l.decide(now, objective)
	}
	l.line = l.within(l.line)
	if l.line != before {
		l.changed, l.since, l.loaded, l.asked, l.held = now, 0, 0, false, Pressure{}
		l.stayed, l.stay = l.stay, cell{}
		l.fit = fitCells(l.cells[:], float64(l.line))
	}
	l.why = d.Why
	d.Line, d.Law = l.line, l.fit.law()
	mean, deviation := l.fit.inside(float64(l.line))
	d.Tail, d.Error = seconds(mean*l.tail), seconds(deviation*l.tail)
	return d
}

// decide returns the next line, why, and what another rule would have chosen.
func (l *Line) decide(now time.Time, objective time.Duration) (line int, why LineWhy, refused int) {
	if l.held.dear() {
		return l.spare(now), LineMemory, l.line
	}
	l.spared = 0
	if lower, why := l.guarded(now, objective); lower < l.line {
		l.settle()
		return lower, why, l.line
	}
	if l.changed.IsZero() || l.changed.After(now) { // the first look, or a clock set back
		l.changed = now
	}
	if !l.seenEnough(now) || l.odd > 0 {
		return l.line, l.keep(), l.line
	}
	target, bound := l.target(objective)
	if ratio := l.paid(); ratio > 1 && l.settled && l.asked {
		return max(l.line+1, int(float64(l.line)*min(l.stride(1), ratio))), LineClimbs, target
	}
	if target < l.line && l.loaded >= 0.5*float64(l.line) {
		l.settle()
		l.below = false
		// What the fit says of far away is a guess; on the way there it will be seen.
		return max(target, l.line*7/10), bound, l.line
	}
	if to := l.lookBelow(now, bound); to < l.line {
		return to, LineBelow, l.line
	}
	full := 0.9 // of the line, from which on more might be asked for
	if !l.settled {
		full = 0.7
	}
	if !l.asked && l.loaded < full*float64(l.line) {
		return l.line, l.keep(), target
	}
	if l.held.Throttled > throttled {
		return l.line, LineStarved, target
	}
	line, why = l.raise(now, target, bound)
	return line, why, target
}

// spare gives up a tenth of the line where memory is nearly used up, and another
// each half minute, down to half of it: what then is still in use is the model's own.
func (l *Line) spare(now time.Time) int {
	l.settle()
	if l.spared == 0 {
		l.spared = l.line
	} else if now.Sub(l.changed) < smallEvery {
		return l.line
	}
	return max((l.spared+1)/2, l.line-max(1, l.line/10))
}

// settle ends a climb.
func (l *Line) settle() {
	if !l.settled {
		l.settled, l.halve = true, true
	}
}

// lookBelow returns a smaller line where it may well carry as much: after the
// replica has become slower, and where the law between the line and the next
// smaller concurrency that is known says that only part of the way paid. A climb
// takes long steps, and its end is found by halving the last one.
func (l *Line) lookBelow(now time.Time, bound LineWhy) int {
	const near, partly = 1.25, 0.6
	if l.loaded < 0.7*float64(l.line) || l.line < 3 {
		return l.line
	}
	if l.below {
		l.below = false
		return l.line * 7 / 10
	}
	if !l.halve || bound == LineSlow || now.Sub(l.changed) < sureEvery {
		return l.line
	}
	i := cellOf(float64(l.line) / near)
	for ; i >= 0 && l.cells[i].weight < enough; i-- {
	}
	if i < 0 {
		if l.gain() < 3*pays {
			return l.line * 7 / 10
		}
		return l.line
	}
	below, here := &l.cells[i], &l.cells[cellOf(float64(l.line))]
	lower, line := float64(below.n/below.weight), float64(l.line)
	if here.weight < enough {
		return l.line
	}
	if lower*near > line {
		l.halve = false
		return l.line
	}
	if elasticity(lower, lower/float64(below.inside/below.weight), line, line/float64(here.inside/here.weight)) > partly {
		return l.line
	}
	return int(math.Sqrt(lower * line))
}

// keep is the reason for leaving the line as it is when nothing was learned.
func (l *Line) keep() LineWhy {
	switch {
	case l.fit.ok:
		return LineIdle
	case l.why == LineKnown:
		return LineKnown
	}
	return LinePrior
}

// seenEnough reports whether what was measured since the line changed says
// something about it: at least a second, at least three times as long as a
// request takes, and some answers.
func (l *Line) seenEnough(now time.Time) bool {
	const answers = 20
	inside, _ := l.fit.inside(float64(l.line))
	return l.since >= answers && now.Sub(l.changed) >= max(900*time.Millisecond, seconds(3*inside))
}

// guarded is the line that the guard allows.
func (l *Line) guarded(now time.Time, objective time.Duration) (int, LineWhy) {
	inside, _ := l.fit.inside(float64(l.line))
	factor, why := l.guard.judge(now, objective.Seconds(), max(time.Second, seconds(2*inside)))
	if factor == 1 || l.loaded < 0.5*float64(l.line) && why != LineBroken {
		return l.line, why // nothing to relieve: so few requests do not wait for each other
	}
	lower := max(1, int(float64(l.line)*factor))
	less, _ := l.fit.inside(float64(lower))
	if why == LineLate && l.fit.ok && less > 0.95*inside && l.gainError() < vague {
		return l.line, why // requests are as slow with fewer beside them
	}
	return lower, why
}

// target is the largest line that the fit supports, and what bounds it. It
// never lies beyond twice what was seen.
func (l *Line) target(objective time.Duration) (int, LineWhy) {
	if !l.fit.ok {
		return l.line, LinePrior
	}
	law, most := l.fit.law(), 2*max(l.line, l.top())
	best, why := 1, LinePeak
	allowed := objective.Seconds() / l.tail
	if alone, deviation := l.fit.inside(1); alone-deviation > allowed {
		allowed = 1.1 * alone // no line meets it: as good as alone is the best there is
		why = LineSlow
	}
	for n := 1; n <= most; n = max(n+1, n*21/20) {
		mean, deviation := l.fit.inside(float64(n))
		if n <= l.line {
			deviation = 0 // what is had is given up for what is known only
		}
		if mean+deviation > allowed && n > 1 {
			why = LineSlow
			break
		}
		if n > 1 && elasticity(float64(best), law.Throughput(float64(best)), float64(n), law.Throughput(float64(n))) < pays {
			break
		}
		best = n
	}
	// What was measured outweighs what was fitted.
	seen, throughput, inside := l.peak()
	fitted := law.Throughput(float64(best))
	switch {
	case seen == 0:
	case seen < best && best <= l.line && fitted < throughput,
		seen > best && inside <= allowed && elasticity(float64(best), fitted, float64(seen), throughput) > pays:
		best, why = seen, LinePeak
	}
	return best, why
}

// elasticity is by how much of itself the throughput x grows from concurrency n
// to m, per growth of concurrency.
func elasticity(n, xn, m, xm float64) float64 { return math.Log(xm/xn) / math.Log(m/n) }

// top is the highest concurrency of which something is known.
func (l *Line) top() int {
	for i := len(l.cells) - 1; i >= 0; i-- {
		if c := &l.cells[i]; c.weight >= 10 {
			return int(c.n / c.weight)
		}
	}
	return 0
}

// peak is the concurrency with the most throughput among those of which much is
// known, that throughput less two standard errors, and the mean time inside.
func (l *Line) peak() (at int, most, inside float64) {
	noise := scatter(l.cells[:])
	for i := range l.cells {
		c := &l.cells[i]
		if c.weight < 2*enough {
			continue
		}
		n, mean := float64(c.n/c.weight), float64(c.inside/c.weight)
		if x := n / mean * (1 - 2*math.Sqrt(noise/float64(c.weight))); x > most {
			at, most, inside = int(math.Round(n)), x, mean
		}
	}
	return at, most, inside
}

// gain is by how much of itself throughput grows with concurrency at the line.
func (l *Line) gain() float64 { return l.fit.law().Gain(float64(l.line)) }

// gainError is the standard error of gain, by the delta method.
func (l *Line) gainError() float64 {
	if !l.fit.ok || l.fit.spread < 0.02 {
		return math.Inf(1)
	}
	n := float64(l.line)
	inside := l.fit.abc[0] + l.fit.abc[1]*(n-1) + l.fit.abc[2]*n*(n-1)
	slope := l.fit.abc[1] + l.fit.abc[2]*(2*n-1)
	x, g := [3]float64{1, n - 1, n * (n - 1)}, [3]float64{0, 1, 2*n - 1}
	var by [3]float64
	for i := range by {
		by[i] = n * (g[i]*inside - slope*x[i]) / (inside * inside)
	}
	variance := 0.0
	for i := range by {
		for j := range by {
			variance += by[i] * l.fit.cov[i][j] * by[j]
		}
	}
	return math.Sqrt(max(0, variance))
}

// raise is the line when more is asked for than it lets in.
func (l *Line) raise(now time.Time, target int, bound LineWhy) (int, LineWhy) {
	doubt := l.gainError()
	if doubt > vague { // only one concurrency was ever seen, or too little of others
		if !l.settled {
			return max(l.line+1, int(float64(l.line)*l.stride(1))), LineClimbs
		}
		return l.probe(now, l.line+max(1, l.line/10), bound)
	}
	if target <= l.line {
		l.settle()
		if now.Sub(l.changed) < smallEvery {
			return l.line, bound
		}
		// The curve may have changed where nobody looks: so look, now and then.
		if bound == LineSlow || l.line > l.top() {
			return l.line, bound
		}
		return l.probe(now, l.line+max(1, l.line/20), bound)
	}
	gain := l.gain()
	small := min(target, l.line+max(1, int(float64(l.line)*(smallStep-1))))
	switch {
	case l.settled && l.worseAt(small): // the fit hopes; it was tried not long ago
	case !l.settled || gain-doubt > clear:
		stride := l.stride(gain)
		if l.settled {
			stride = min(stride, 1.25)
		}
		return min(target, max(small, int(float64(l.line)*stride))), LineClimbs
	case gain-2*doubt > pays && now.Sub(l.changed) >= sureEvery:
		return small, LineClimbs
	}
	return l.probe(now, small, bound)
}

// paid returns by what to multiply the line because what was measured before
// and after its last step up shows, beyond chance, that a good part of the step
// came back as throughput; else 1. Where nobody went for long the law knows less.
func (l *Line) paid() float64 {
	if l.stay.weight < 2*enough || l.stayed.weight < 2*enough || l.stay.count < 3 {
		return 1
	}
	now, inside := float64(l.stay.n/l.stay.weight), float64(l.stay.inside/l.stay.weight)
	was, before := float64(l.stayed.n/l.stayed.weight), float64(l.stayed.inside/l.stayed.weight)
	if now < was*1.03 {
		return 1
	}
	chance := math.Sqrt(scatter(l.cells[:]) * (1/float64(l.stay.weight) + 1/float64(l.stayed.weight)))
	step := math.Log(now / was)
	gained := elasticity(was, was/before, now, now/inside) - 2*chance/step
	if gained < 4*pays {
		return 1
	}
	return math.Exp(2 * min(1, gained) * step)
}

// worseAt reports whether concurrency n is known to carry less than the line,
// beyond chance.
func (l *Line) worseAt(n int) bool {
	there, here := &l.cells[cellOf(float64(n))], &l.cells[cellOf(float64(l.line))]
	if there == here || there.weight < enough || here.weight < enough {
		return false
	}
	chance := math.Sqrt(scatter(l.cells[:]) * (1/float64(there.weight) + 1/float64(here.weight)))
	return float64(there.n/there.inside) < float64(here.n/here.inside)*(1-2*chance)
}

// stride is by what a climbing line is multiplied: by as much as the last step
// gained, at most doubled, and so that the objective is not missed by far even
// if half of the gain ends right here: then the time inside grows with the root
// of the step.
func (l *Line) stride(gain float64) float64 {
	mean, _ := l.fit.inside(float64(l.line))
	stride := 1 + min(1, max(0, gain))
	if mean > 0 {
		room := l.Objective().Seconds() / (mean * l.tail)
		stride = min(stride, room*room)
	}
	return max(smallStep, stride)
}

// probe takes a small step if it is time for one.
func (l *Line) probe(now time.Time, to int, bound LineWhy) (int, LineWhy) {
	if now.Sub(l.changed) < smallEvery {
		return l.line, bound
	}
	return to, LineProbes
}

// Carries is the line as the number of replicas is planned with: how many
// requests at once one replica carries for good when each takes service. It is
// below [Line.Current] where the line lies beyond the point from which on those
// inside only share what is done: there each takes longer, and a demand counted
// in shorter times would seem to fit. Where nothing was seen near the line it is the
// line: a law says nothing of what lies far beyond its data.
func (l *Line) Carries(service time.Duration) float64 {
	line := float64(l.line)
	mean, deviation := l.fit.inside(line)
	if service <= 0 || l.bounds.Fixed || float64(l.top()) < 0.7*line || deviation > 0.2*mean {
		return line
	}
	return max(1, min(line, l.fit.law().Throughput(line)*service.Seconds()))
}

// Alone is how long a request takes that nobody is beside; zero while nothing is
// known.
func (l *Line) Alone() time.Duration { return seconds(l.fit.law().Inside(1)) }

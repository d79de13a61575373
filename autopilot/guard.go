package autopilot

import (
	"math"
	"time"
)

// A guard watches for stress: latency that rises beyond what the concurrency
// explains, and answers past the objective. It compares a short smoothed ratio
// of measured to foreseen latency with a long one, as the Gradient2 limiter
// compares short and long latency (Netflix concurrency-limits). It never
// lowers the line just to measure what an idle replica would do.
type guard struct {
	short, long float64   // smoothed ratios of measured to foreseen time inside
	at          time.Time // newest reading
	recent      [3]slice  // the last seconds, by second
	broken      int       // requests since the last decision
	answered    int
	lowered     time.Time
}

// A slice is what was measured in one second, over all replicas.
type slice struct {
	second int64
	count  int
	tail   float64 // count × 99th percentile in seconds
}

// How fast the two ratios follow, in seconds of traffic.
const (
	guardShort = 2.0
	guardLong  = 60.0

	// tolerance is by how much the short ratio may exceed the long one.
	tolerance = 1.5

	// enough is how many answers a percentile of a few seconds needs.
	enough = 50
)

// broke counts what the engine took and did not answer.
func (g *guard) broke(r Reading) { g.broken += r.Broken }

// observe takes in how a measured time compares with the foreseen one; zero is
// nothing foreseen.
func (g *guard) observe(r Reading, inside, expected float64) {
	g.answered += r.Answered
	ratio := 1.0
	if expected > 0 {
		ratio = min(20, inside/expected)
	}
	if g.short == 0 {
		g.short, g.long = 1, 1
	}
	passed := 1.0
	if !g.at.IsZero() {
		passed = min(5, max(0.05, r.At.Sub(g.at).Seconds()))
	}
	if r.At.After(g.at) {
		g.at = r.At
	}
	g.short += (1 - math.Exp(-passed/guardShort)) * (ratio - g.short)
	g.long += (1 - math.Exp(-passed/guardLong)) * (ratio - g.long)
	if r.Tail > 0 {
		second := r.At.Unix()
		s := &g.recent[int(second%int64(len(g.recent))+int64(len(g.recent)))%len(g.recent)]
		if s.second != second {
			*s = slice{second: second}
		}
		s.count += r.Answered
		s.tail += float64(r.Answered) * r.Tail.Seconds()
	}
}

// measured is the 99th percentile of the last seconds; zero when too few
// answers say so.
func (g *guard) measured(now time.Time) float64 {
	count, tail := 0, 0.0
	for _, s := range g.recent {
		if age := now.Unix() - s.second; age >= 0 && age < int64(len(g.recent)) {
			count += s.count
			tail += s.tail
		}
	}
	if count < enough {
		return 0
	}
	return tail / float64(count)
}

// judge returns by what the line is to be multiplied now, at most 1, and why.
// objective is in seconds.
func (g *guard) judge(now time.Time, objective float64, pause time.Duration) (factor float64, why LineWhy) {
	broken, answered := g.broken, g.answered
	g.broken, g.answered = 0, 0
	if !g.lowered.IsZero() && now.Sub(g.lowered) < pause && now.After(g.lowered) {
		return 1, LinePeak // what was lowered a moment ago has not shown yet
	}
	factor = 1
	if broken > 0 && broken*10 > answered {
		factor, why = 0.5, LineBroken
	}
	if gradient := tolerance * g.long / g.short; g.short > 0 && gradient < 1 && gradient < factor {
		factor, why = max(0.5, gradient), LineGuard
	}
	const slack = 1.1 // a percentile of few answers is uncertain by about that much
	if p99 := g.measured(now); p99 > slack*objective && objective/p99 < factor {
		factor, why = max(0.5, objective/p99), LineLate
	}
	if factor < 1 {
		g.lowered = now
		g.short, g.long = 1, 1
		g.recent = [3]slice{}
	}
	return factor, why
}

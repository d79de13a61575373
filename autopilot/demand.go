package autopilot

import (
	"math"
	"slices"
	"time"
)

// A demand is what is known of the load an entity is offered. The load of a
// second is its arrivals × the time one request takes: how many requests would
// be in service at once if none had to wait. It is about three times less noisy
// than a sample of those in flight, and a queue does not wind it up.
type demand struct {
	service float64 // smoothed time of one request, seconds; zero is unknown
	load    recent
	mean    float64 // over the last twenty seconds: the forecast for the next one
	spread  float64 // smoothed square of the forecast's error
	before  float64 // spread without the last second, so that more load never looks like less noise
	seconds int     // observed
}

// Spans of seconds that the estimate looks back over.
const (
	meanSpan   = 20
	burstSpan  = 3
	burstBase  = 10
	spreadSpan = 60
)

// observe takes a second in and returns its load.
func (d *demand) observe(s Sample) float64 {
	if s.Service > 0 {
		const weight = 0.1
		t := s.Service.Seconds()
		if d.service == 0 {
			d.service = t
		}
		d.service += weight * (t - d.service)
	}
	x := float64(s.Arrivals) * d.service / s.Over.Seconds()
	if d.service == 0 {
		x = float64(s.InFlight) // nothing has ended yet
	}
	d.before = d.spread
	if d.seconds > 0 {
		e := x - d.mean
		weight := max(1/float64(d.seconds), 1.0/spreadSpan)
		d.spread += weight * (e*e - d.spread)
	}
	d.seconds++
	d.load.push(float32(x))
	d.mean = d.load.mean(0, meanSpan)
	return x
}

// estimate is the load to provide for, what its trend adds within horizon
// seconds, and the standard deviation of a second.
func (d *demand) estimate(horizon float64) (base, trend, sd float64, why Why) {
	sd = math.Sqrt(d.before)
	base, why = d.mean, OnDemand
	// A burst is a mean of three seconds that stands out of the ten seconds.
	if m := d.load.mean(0, burstSpan); m > d.load.mean(0, burstBase)+burstOut*sd/math.Sqrt(burstSpan) && m > base {
		base, why = m, OnBurst
	}
	w := int(max(5, min(horizon, 60)))
	slope, se := d.load.slope(w, sd)
	// A step looks like a rise too; but it is over when the later half is level.
	later, _ := d.load.slope((w+1)/2, sd)
	if slope = min(slope, later); slope > trendOut*se {
		trend = trendWeight * slope * (horizon + 1)
		if d.mean+trend <= base {
			return base, 0, sd, why
		}
		// Whichever of the two asks for more: together they would count a rise twice.
		return d.mean, trend, sd, OnTrend
	}
	return base, 0, sd, why
}

// Standard errors beyond which a burst and a trend are not noise.
const (
	burstOut    = 3
	trendOut    = 3
	trendWeight = 1.5
)

// recent holds the last seconds of a figure.
type recent struct {
	at    [128]float32
	next  uint8
	known uint8
}

func (r *recent) push(x float32) {
	r.at[r.next] = x
	r.next = (r.next + 1) % uint8(len(r.at))
	r.known = min(r.known+1, uint8(len(r.at)))
}

// mean is over the n before the last skip; fewer where fewer are known.
func (r *recent) mean(skip, n int) float64 {
	n = min(n, int(r.known)-skip)
	if n <= 0 {
		return 0
	}
	sum, i := 0.0, (int(r.next)-1-skip+2*len(r.at))%len(r.at)
	for range n {
		sum += float64(r.at[i])
		if i--; i < 0 {
			i = len(r.at) - 1
		}
	}
	return sum / float64(n)
}

// median is of the last n, at most meanSpan; zero where fewer than two are known.
func (r *recent) median(n int) float64 {
	var last [meanSpan]float32
	n = min(n, int(r.known), len(last))
	if n < 2 {
		return 0
	}
	for k := range n {
		last[k] = r.at[(int(r.next)-1-k+2*len(r.at))%len(r.at)]
	}
	slices.Sort(last[:n])
	return float64(last[(n-1)/2])
}

// slope is the rise a second from the w seconds before the last w to these, and
// its standard error where that of one second is sd.
func (r *recent) slope(w int, sd float64) (slope, se float64) {
	if int(r.known) < 2*w {
		return 0, 0
	}
	n := float64(w)
	return (r.mean(0, w) - r.mean(w, w)) / n, sd * math.Sqrt(2/n) / n
}

// A window is the maximum of the sizes pushed over a span of seconds.
type window struct {
	at     [16]int32 // by sixteenths
	next   uint8
	filled uint16
	per    uint16 // seconds in one
	cells  uint8
}

// spanning returns a window of about so many seconds, and at least as long.
func spanning(seconds int) window {
	per := max(1, (seconds+13)/15)
	return window{per: uint16(min(per, math.MaxUint16)), cells: uint8(min(16, (seconds+per-1)/per+1))}
}

func (w *window) push(size int) {
	if w.filled >= w.per {
		w.next = (w.next + 1) % uint8(len(w.at))
		w.at[w.next] = 0
		w.filled = 0
	}
	w.at[w.next] = max(w.at[w.next], int32(min(size, math.MaxInt32)))
	w.filled++
}

func (w *window) max() int {
	most := int32(0)
	for i := range w.cells {
		most = max(most, w.at[(w.next-i)%uint8(len(w.at))])
	}
	return int(most)
}

// A quiet knows when an entity was last busy, and how its gaps were.
type quiet struct {
	since  time.Time // of the last second with a request; zero before the first
	first  time.Time // of that busy stretch
	gaps   int
	mean   float64 // seconds from the beginning of a busy stretch to the next
	spread float64
}

// Gaps are regular where their coefficient of variation is under regularCV,
// over at least regularGaps of them.
const (
	regularCV   = 0.3
	regularGaps = 4
)

func (q *quiet) busy(at time.Time, apart time.Duration) {
	if q.since.IsZero() {
		q.first = at
	} else if at.Sub(q.since) > apart {
		gap := at.Sub(q.first).Seconds()
		q.first = at
		q.gaps++
		weight := max(1/float64(q.gaps), 0.1)
		e := gap - q.mean
		q.mean += weight * e
		if q.gaps == 1 {
			q.mean = gap
		} else {
			q.spread += weight * (e*e - q.spread)
		}
	}
	q.since = at
}

// due reports whether the next request is expected so soon that a replica must
// start now to be ready for it.
func (q *quiet) due(now time.Time, start float64) bool {
	sd := math.Sqrt(q.spread)
	if q.gaps < regularGaps || sd > regularCV*q.mean || q.mean < 4*start {
		return false
	}
	margin := max(1, 2*sd)
	ahead := q.mean - now.Sub(q.first).Seconds() // may be past
	return ahead <= start+margin && ahead >= -margin
}

package simulate

import (
	"math"
	"math/bits"
	"time"

	"loadline.dev/loadline/simulate/trace"
)

// A book keeps the accounts of a run: what was judged, and what it came to.
type book struct {
	from      int   // the first second that is judged
	since     int64 // the same as a moment
	objective int64
	start     time.Duration

	needed   []int // by second, what the optimum covers
	judged   bool  // the current second is
	requests int64 // of the current stretch: warm-up or judged
	late     int64
	lost     int64
	waits    waits
	cost     int64
	starts   int
	want     int
	heading  int // +1 after a rise, −1 after a fall
	turns    int
	buffer   []float64
}

func (b *book) begin(c *Config, t trace.Trace) {
	b.from = int(math.Ceil(c.WarmUp.Seconds()))
	b.since = int64(b.from) * second
	b.objective, b.start = int64(c.Objective), c.Start
	if len(c.Starts) > 0 {
		var sum time.Duration
		for _, d := range c.Starts {
			sum += d
		}
		b.start = sum / time.Duration(len(c.Starts))
	}
	b.needed = Needed(t, c.Service, c.Capacity)
}

func (b *book) gaps(n int) []float64 {
	if cap(b.buffer) < n {
		b.buffer = make([]float64, n+n/4)
	}
	return b.buffer[:n]
}

// open begins a second.
func (b *book) open(s int) {
	if s == b.from {
		b.requests = 0
	}
	b.judged = s >= b.from
}

// wait records a request that waited, and reports whether it was late.
func (b *book) wait(arrived, wait int64) bool {
	late := wait > b.objective
	if arrived >= b.since {
		b.waits.add(wait)
		if late {
			b.late++
		}
	}
	return late
}

func (b *book) lose(arrived, now int64) {
	if arrived >= b.since {
		b.lost++
		b.waits.add(now - arrived)
		if now-arrived > b.objective {
			b.late++
		}
	}
}

func (b *book) launched() {
	if b.judged {
		b.starts++
	}
}

func (b *book) wanted(n int) {
	heading := 0
	switch {
	case n > b.want:
		heading = 1
	case n < b.want:
		heading = -1
	}
	b.want = n
	if heading != 0 {
		if b.judged && b.heading != 0 && heading != b.heading {
			b.turns++
		}
		b.heading = heading
	}
}

func (b *book) close(r Row) {
	if b.judged {
		b.cost += int64(r.Ready + r.Starting)
	}
}

func (b *book) report() Report {
	if !b.judged { // the whole trace was warm-up
		b.requests = 0
	}
	r := Report{Requests: b.requests, Lost: b.lost, ReplicaSeconds: float64(b.cost), Starts: b.starts, DirectionChanges: b.turns}
	if b.requests > 0 {
		r.Late = float64(b.late) / float64(b.requests)
		r.P50Wait = b.waits.quantile(0.5, b.requests)
		r.P99Wait = b.waits.quantile(0.99, b.requests)
		r.P999Wait = b.waits.quantile(0.999, b.requests)
	}
	r.Optimum = Optimum(b.needed[min(b.from, len(b.needed)):], b.start)
	if r.Optimum > 0 {
		r.Ratio = r.ReplicaSeconds / r.Optimum
	}
	return r
}

// waits is a histogram of waits above zero, in microseconds, with 64 buckets to
// each doubling: quantiles are right to one part in 64.
type waits struct {
	count [64 * 64]int64
	sum   int64
}

func (w *waits) add(ns int64) {
	w.count[bucket(uint64(ns)/1000)]++
	w.sum++
}

func bucket(us uint64) int {
	if us < 64 {
		return int(us)
	}
	shift := bits.Len64(us) - 7
	return min(64*(shift+1)+int(us>>shift)-64, 64*64-1)
}

// quantile is in seconds; those that did not wait count as zero.
func (w *waits) quantile(q float64, of int64) float64 {
	rank := int64(math.Ceil(q*float64(of))) - (of - w.sum)
	if rank <= 0 {
		return 0
	}
	for i, n := range w.count {
		if rank -= n; rank <= 0 {
			if i < 64 {
				return float64(i) / 1e6
			}
			shift := i/64 - 1
			return float64(uint64(i%64+64)<<shift) / 1e6
		}
	}
	return 0
}

package balance

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A ward is ten replicas of one place each behind one queue, under a virtual
// clock. Times are in milliseconds.
type ward struct {
	factor []float64 // × the work of a request is what it takes
	pauses float64   // how long a replica stands still, now and then; 0 is never
	every  float64   // between two pauses of one replica
	load   float64   // of the capacity
	even   bool      // the work lies evenly around its mean; else it is exponential

	// free picks one of the free replicas for the first in the queue, or -1.
	free func(w *ward, waiting int) int
	sent func(i int)
	over func(i int, took float64)
	tick func() // every Period

	now   float64
	busy  []bool
	until []float64 // a pause of the replica
}

type event struct {
	at   float64
	kind int // index of a replica that is done; arrival, look
	work float64
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

const arrival, look, meanWork = -1, -2, 10.0

// p99 plays n requests and returns the 99th percentile of their times.
func (w *ward) p99(seed uint64, n int) float64 {
	dice := rand.New(rand.NewPCG(seed, 77))
	w.now, w.busy, w.until = 0, make([]bool, len(w.factor)), make([]float64, len(w.factor))
	next := make([]float64, len(w.factor)) // pause
	rate := 0.0
	for i, f := range w.factor {
		rate += 1 / (f * meanWork)
		next[i] = dice.Float64() * w.every
	}
	if w.pauses > 0 {
		rate *= 1 - w.pauses/(w.every+w.pauses)
	}
	rate *= w.load
	type waiter struct{ at, work float64 }
	var queue []waiter
	var took []float64
	draw := func() float64 {
		if w.even {
			return (.5 + dice.Float64()) * meanWork
		}
		return dice.ExpFloat64() * meanWork
	}
	h := &events{{at: 0, kind: arrival, work: draw()}, {at: 100, kind: look}}
	begun := make([]float64, len(w.factor))
	for len(took) < n {
		e := heap.Pop(h).(event)
		w.now = e.at
		for i := range next {
			if w.pauses > 0 && next[i] <= w.now {
				w.until[i] = next[i] + w.pauses
				next[i] += w.pauses + w.every*(.5+dice.Float64())
			}
		}
		switch {
		case e.kind == arrival:
			queue = append(queue, waiter{w.now, e.work})
			heap.Push(h, event{at: w.now + dice.ExpFloat64()/rate, kind: arrival, work: draw()})
		case e.kind == look:
			w.tick()
			heap.Push(h, event{at: w.now + 100, kind: look})
		case w.until[e.kind] > w.now: // it stood still meanwhile
			heap.Push(h, event{at: e.at + w.pauses, kind: e.kind, work: e.work})
			w.until[e.kind] = 0
			continue
		default:
			w.busy[e.kind] = false
			took = append(took, w.now-e.work)
			w.over(e.kind, w.now-begun[e.kind])
		}
		for len(queue) > 0 {
			i := w.free(w, len(queue))
			if i < 0 {
				break
			}
			w.busy[i] = true
			begun[i] = w.now
			w.sent(i)
			heap.Push(h, event{at: max(w.now, w.until[i]) + queue[0].work*w.factor[i], kind: i, work: queue[0].at})
			queue = queue[1:]
		}
	}
	took = took[n/10:] // what was learned first is not judged
	slices.Sort(took)
	return took[len(took)*99/100]
}

// oracle knows every speed, and takes a slow replica only where waiting for a
// quicker one would take longer.
func oracle(w *ward, waiting int) int {
	best := -1
	for i, f := range w.factor {
		if !w.busy[i] && w.until[i] <= w.now && (best < 0 || f < w.factor[best]) {
			best = i
		}
	}
	if best < 0 {
		return -1
	}
	quicker, rate := math.Inf(1), 0.0
	for _, f := range w.factor {
		if f < w.factor[best] {
			quicker = min(quicker, f)
			rate += 1 / (f * meanWork)
		}
	}
	if rate > 0 && float64(waiting)/rate+quicker*meanWork < w.factor[best]*meanWork {
		return -1
	}
	return best
}

// ours is what the gateway does with what it sees.
func ours(w *ward) {
	n := len(w.factor)
	health := make([]*Health, n)
	for i := range health {
		health[i] = new(Health)
	}
	reported := make([]float64, n) // by the agents: an eighth of each new one counts
	tail := 50 * time.Millisecond  // as five mean deviations beyond the mean come to
	if w.even {
		tail = 25 * time.Millisecond
	}
	var j Judgement
	at := func() time.Time { return time.Unix(0, 0).Add(time.Duration(w.now * 1e6)) }
	sentAt := make([]time.Time, n)
	w.free = func(w *ward, _ int) int {
		var c Choice
		for i := range n {
			if inside := 0; !w.busy[i] && health[i].Limit(inside) > 0 {
				c.Offer(i, Seen{Line: 1, Service: orUsual(time.Duration(reported[i]*1e6), j.Usual), Quiet: health[i].Quiet(at())})
			}
		}
		i, _ := c.Best()
		return i
	}
	w.sent = func(i int) { sentAt[i] = at(); health[i].Sent(at()) }
	w.over = func(i int, took float64) {
		health[i].Began(at(), true)
		health[i].Ended(at(), at().Sub(sentAt[i]), false)
		if reported[i] == 0 {
			reported[i] = took
		}
		reported[i] += (took - reported[i]) / 8
	}
	w.tick = func() { j.Judge(health, tail, at()) }
}

func orUsual(d, usual time.Duration) time.Duration {
	if d == 0 {
		return usual
	}
	return d
}

// With replicas of any speeds, nobody having said which, the slowest hundredth
// takes hardly longer than with one queue that knows them all.
func TestUnevenReplicasCostHardlyMoreThanTheOracle(t *testing.T) {
	ten := func(f func(i int) float64) []float64 {
		list := make([]float64, 10)
		for i := range list {
			list[i] = f(i)
		}
		return list
	}
	oneSlow := ten(func(i int) float64 { return map[bool]float64{true: 10, false: 1}[i == 9] })
	twoToOne := ten(func(i int) float64 { return float64(1 + i%2) })
	even := ten(func(int) float64 { return 1 })
	for sentence, w := range map[string]ward{
		"one ten times slower, load 0.7":            {factor: oneSlow, load: .7},
		"one ten times slower, load 0.9":            {factor: oneSlow, load: .9},
		"two speeds, load 0.7":                      {factor: twoToOne, load: .7},
		"two speeds, load 0.9":                      {factor: twoToOne, load: .9},
		"one ten times slower, even work, load 0.7": {factor: oneSlow, load: .7, even: true},
		"one ten times slower, even work, load 0.9": {factor: oneSlow, load: .9, even: true},
		"two speeds, even work, load 0.9":           {factor: twoToOne, load: .9, even: true},
		"pauses, load 0.7":                          {factor: even, load: .7, pauses: 300, every: 10_000},
		"pauses, load 0.9":                          {factor: even, load: .9, pauses: 300, every: 10_000},
	} {
		t.Run(sentence, func(t *testing.T) {
			var mine, best float64
			for seed := range uint64(3) {
				a, b := w, w
				ours(&a)
				b.free, b.sent, b.over, b.tick = oracle, func(int) {}, func(int, float64) {}, func() {}
				mine += a.p99(seed, 40_000) / 3
				best += b.p99(seed, 40_000) / 3
			}
			t.Logf("p99 %.1f ms, the oracle's %.1f: %.3f", mine, best, mine/best)
			if mine > 1.15*best {
				t.Errorf("p99 %.1f ms, the oracle's %.1f", mine, best)
			}
		})
	}
}

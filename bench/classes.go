package main

import (
	"container/heap"
	"math"
	"math/rand/v2"
)

// A machine is a replica whose curve is known, in virtual time. Times are
// seconds since the run began.
type machine interface {
	enter(now float64, j *job)
	next() float64                          // when somebody is finished next; +Inf while nobody is
	finish(now float64, done []*job) []*job // those finished at now
	inside() int
}

// A job is one request.
type job struct {
	arrived, began float64
	beside         int     // how many were inside once it was, itself included
	work           float64 // of the machine's unit
	ends           float64
}

type jobs []*job

func (h jobs) Len() int           { return len(h) }
func (h jobs) Less(i, j int) bool { return h[i].ends < h[j].ends }
func (h jobs) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *jobs) Push(x any)        { *h = append(*h, x.(*job)) }
func (h *jobs) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// shared works on all that are inside at once: rate is how many requests of
// mean work it finishes a second while n are.
type shared struct {
	rate func(n, now float64) float64
	held jobs
	done float64 // work done on each since the run began
	at   float64
}

func (m *shared) inside() int { return len(m.held) }

func (m *shared) pace() float64 {
	n := float64(len(m.held))
	return m.rate(n, m.at) / n
}

func (m *shared) advance(now float64) {
	if len(m.held) > 0 {
		m.done += (now - m.at) * m.pace()
	}
	m.at = now
}

func (m *shared) enter(now float64, j *job) {
	m.advance(now)
	j.ends = m.done + j.work
	heap.Push(&m.held, j)
}

func (m *shared) next() float64 {
	if len(m.held) == 0 {
		return math.Inf(1)
	}
	return m.at + max(0, m.held[0].ends-m.done)/m.pace()
}

func (m *shared) finish(now float64, done []*job) []*job {
	m.advance(now)
	for len(m.held) > 0 && m.held[0].ends <= m.done+1e-9 {
		done = append(done, heap.Pop(&m.held).(*job))
	}
	return done
}

// single works on one at a time, in order, and loses a moment when the next
// one was not there yet: the hand-off.
type single struct {
	service, handoff float64
	held             []*job
	free             float64
}

func (m *single) inside() int { return len(m.held) }

func (m *single) enter(now float64, j *job) {
	start := m.free
	if len(m.held) == 0 {
		start = max(now, m.free) + m.handoff
	}
	j.ends = start + j.work*m.service
	m.free = j.ends
	m.held = append(m.held, j)
}

func (m *single) next() float64 {
	if len(m.held) == 0 {
		return math.Inf(1)
	}
	return m.held[0].ends
}

func (m *single) finish(_ float64, done []*job) []*job {
	done = append(done, m.held[0])
	m.held = m.held[1:]
	return done
}

// batcher takes up to size at once and is done with them together.
type batcher struct {
	size       int
	base, each float64
	waiting    []*job
	running    []*job
	ends       float64
}

func (m *batcher) inside() int { return len(m.waiting) + len(m.running) }

func (m *batcher) start(now float64) {
	n := min(m.size, len(m.waiting))
	if n == 0 {
		return
	}
	m.running = append(m.running[:0], m.waiting[:n]...)
	m.waiting = append(m.waiting[:0], m.waiting[n:]...)
	work := 0.0
	for _, j := range m.running {
		work += j.work
	}
	m.ends = now + m.base*work/float64(n) + m.each*work
}

func (m *batcher) enter(now float64, j *job) {
	m.waiting = append(m.waiting, j)
	if len(m.running) == 0 {
		m.start(now)
	}
}

func (m *batcher) next() float64 {
	if len(m.running) == 0 {
		return math.Inf(1)
	}
	return m.ends
}

func (m *batcher) finish(now float64, done []*job) []*job {
	done = append(done, m.running...)
	m.running = m.running[:0]
	m.start(now)
	return done
}

// A class is a kind of model.
type class struct {
	name      string
	objective float64 // seconds, of the wait and of the time inside
	peak      float64 // requests a second at best
	spread    float64 // coefficient of variation of the work
	make      func() machine
}

// usl is the rate of n inside by the Universal Scalability Law.
func usl(lambda, sigma, kappa float64) func(n, now float64) float64 {
	return func(n, _ float64) float64 { return lambda * n / (1 + sigma*(n-1) + kappa*n*(n-1)) }
}

// classes are the six kinds whose curves are known.
func classes() []class {
	return []class{
		{"one thread", 0.1, 100, 0.3, func() machine { return &single{service: 0.01, handoff: 0.0015} }},
		{"input/output", 0.5, 1000, 0.3, func() machine {
			return &shared{rate: func(n, _ float64) float64 { return min(n, 200) / 0.2 }}
		}},
		{"batcher", 0.06, 32 / 0.0196, 0.1, func() machine { return &batcher{size: 32, base: 0.01, each: 0.0003} }},
		{"locks", 0.1, 550, 0.5, func() machine { return &shared{rate: usl(100, 0.15, 0.0004)} }},
		{"thrashing", 0.15, 16 / 0.02, 0.5, func() machine {
			return &shared{rate: func(n, _ float64) float64 {
				if n <= 16 {
					return n / 0.02
				}
				return 16 / 0.02 * math.Pow(16/n, 1.2)
			}}
		}},
		{"drifting", 0.3, 16 / 0.05, 0.5, func() machine {
			return &shared{rate: func(n, now float64) float64 {
				places := 16.0
				switch {
				case now >= 240:
					places = 24
				case now >= 120:
					places = 8
				}
				x := min(n, places) / 0.05
				return x / (1 + 0.003*max(0, n-places))
			}}
		}},
	}
}

// draw is the work of one request: lognormal with mean 1.
func (c class) draw(dice *rand.Rand) float64 {
	v := math.Log(1 + c.spread*c.spread)
	return math.Exp(dice.NormFloat64()*math.Sqrt(v) - v/2)
}

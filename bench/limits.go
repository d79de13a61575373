package main

import (
	"math"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/go-kratos/aegis/ratelimit"
	"github.com/go-kratos/aegis/ratelimit/bbr"

	"loadline.dev/loadline/autopilot"
)

// A limiter says how many may be in a machine at once.
type limiter interface {
	enter(inside int) (leave func(), ok bool)
	left(now float64, j *job) // after its leave
	second(now float64, waiting bool)
	limit() int
}

// static never changes.
type static int

func (s static) enter(inside int) (func(), bool) { return nil, inside < int(s) }
func (s static) left(float64, *job)              {}
func (s static) second(float64, bool)            {}
func (s static) limit() int                      { return int(s) }

// learned is the load line, fed as a gateway feeds it: once a second.
type learned struct {
	line   *autopilot.Line
	now    int
	said   autopilot.LineDecision
	count  int
	beside float64
	inside float64
	times  []float64
}

var dawn = time.Unix(1_800_000_000, 0)

func newLearned(objective float64) *learned {
	l := autopilot.NewLine(autopilot.Bounds{Prior: autopilot.Prior("", 0), Objective: time.Duration(objective * 1e9)}, autopilot.Profile{})
	return &learned{line: l, now: l.Current()}
}

func (o *learned) enter(inside int) (func(), bool) { return nil, inside < o.now }
func (o *learned) limit() int                      { return o.now }

func (o *learned) left(now float64, j *job) {
	o.count++
	o.beside += float64(j.beside)
	o.inside += now - j.began
	o.times = append(o.times, now-j.began)
}

func (o *learned) second(now float64, waiting bool) {
	at := dawn.Add(time.Duration(now * 1e9))
	r := autopilot.Reading{At: at, Answered: o.count, Waiting: waiting}
	if o.count > 0 {
		r.Beside = o.beside / float64(o.count)
		r.Inside = time.Duration(o.inside / float64(o.count) * 1e9)
		r.Tail = time.Duration(quantile(o.times, 0.99) * 1e9)
	}
	o.line.Observe(r)
	o.said = o.line.Decide(at)
	o.now = o.said.Line
	o.count, o.beside, o.inside, o.times = 0, 0, 0, o.times[:0]
}

// failsafe is failsafe-go's adaptive limiter as it comes. It reads the clock,
// so it runs under a virtual one.
type failsafe struct {
	of adaptivelimiter.AdaptiveLimiter[any]
}

func newFailsafe() *failsafe {
	return &failsafe{of: adaptivelimiter.NewWithDefaults[any]()}
}

func (f *failsafe) enter(int) (func(), bool) {
	permit, ok := f.of.TryAcquirePermit()
	if !ok {
		return nil, false
	}
	return permit.Record, true
}
func (f *failsafe) left(float64, *job)   {}
func (f *failsafe) second(float64, bool) {}
func (f *failsafe) limit() int           { return f.of.Limit() }

// kratos is kratos' BBR limiter, engaged at all times: by itself it limits only
// while the processor is busy, which a virtual one never is.
type kratos struct{ of *bbr.BBR }

func newKratos() *kratos { return &kratos{bbr.NewLimiter(bbr.WithCPUThreshold(0))} }

func (k *kratos) enter(int) (func(), bool) {
	done, err := k.of.Allow()
	if err != nil {
		return nil, false
	}
	return func() { done(ratelimit.DoneInfo{}) }, true
}
func (k *kratos) left(float64, *job)   {}
func (k *kratos) second(float64, bool) {}
func (k *kratos) limit() int           { return int(k.of.Stat().MaxInFlight) }

// vegas is the limiter of Netflix's concurrency-limits by its published
// description, with its defaults: the queue is what the limit exceeds by what
// the least latency ever seen would need; a probe forgets that least now and then.
type vegas struct {
	at     float64
	least  float64
	probe  int
	factor float64
}

func newVegas() *vegas { return &vegas{at: 20, factor: 30} }

func (v *vegas) enter(inside int) (func(), bool) { return nil, inside < int(v.at) }
func (v *vegas) second(float64, bool)            {}
func (v *vegas) limit() int                      { return int(v.at) }

func (v *vegas) left(now float64, j *job) {
	rtt := now - j.began
	if v.probe++; float64(v.probe) >= v.factor*v.at {
		v.probe, v.least = 0, rtt
		return
	}
	if v.least == 0 || rtt < v.least {
		v.least = rtt
		return
	}
	if float64(j.beside)*2 < v.at {
		return
	}
	queue := math.Ceil(v.at * (1 - v.least/rtt))
	log := max(1, math.Log10(v.at))
	switch {
	case queue <= log:
		v.at += 6 * log
	case queue < 3*log:
		v.at += log
	case queue > 6*log:
		v.at -= log
	}
	v.at = max(1, min(1000, v.at))
}

// gradient2 is the other limiter of concurrency-limits by its published
// description, with its defaults.
type gradient2 struct {
	at, long float64
	seen     int
}

func newGradient2() *gradient2 { return &gradient2{at: 20} }

func (g *gradient2) enter(inside int) (func(), bool) { return nil, inside < int(g.at) }
func (g *gradient2) second(float64, bool)            {}
func (g *gradient2) limit() int                      { return int(g.at) }

func (g *gradient2) left(now float64, j *job) {
	const window, warm, tolerance, queue, smoothing = 600, 10, 1.5, 4, 0.2
	short := now - j.began
	if g.seen++; g.seen <= warm {
		g.long += (short - g.long) / float64(g.seen)
	} else {
		g.long += 2.0 / (window + 1) * (short - g.long)
	}
	if g.long/short > 2 {
		g.long *= 0.95
	}
	if float64(j.beside) < g.at/2 {
		return
	}
	gradient := max(0.5, min(1, tolerance*g.long/short))
	g.at = max(1, min(200, g.at*(1-smoothing)+smoothing*(g.at*gradient+queue)))
}

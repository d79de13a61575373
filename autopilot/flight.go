package autopilot

import (
	"math"
	"time"
)

// Tune is temporary.
var Tune = struct{ Z, TrendZ, TrendW, BurstZ, Clear, Win, Sm float64 }{Z: 1.5, TrendZ: 1.5, TrendW: 1.5, BurstZ: 2, Clear: 2, Win: 2, Sm: 10}

// A flight is what the adaptive rule remembers of an entity.
type flight struct {
	service float64 // smoothed mean time of one request, seconds; zero is unknown
	load    recent  // offered load of each second: arrivals × service time ÷ length
	vari    float64 // smoothed squared error of the one-second forecast
	level   float64 // the forecast for the next second
	wants   window  // sizes wanted lately
	idle    idle
	woke    time.Time
	seconds int // samples seen
}

func (f *flight) begin(p Policy) {
	if p.Start <= 0 {
		p.Start = time.Second
	}
	f.wants.span = max(2, int(math.Ceil(Tune.Win*p.Start.Seconds())))
}

func (f *flight) observe(s Sample, lost, held int) {
	if s.Service > 0 {
		const weight = 0.1
		t := s.Service.Seconds()
		if f.service == 0 {
			f.service = t
		}
		f.service += weight * (t - f.service)
	}
	x := float64(s.Arrivals) * f.service / s.Over.Seconds()
	if f.service == 0 {
		x = float64(s.InFlight + s.Waiting) // nothing has ended yet
	}
	f.seconds++
	if f.seconds > 1 {
		e := x - f.level
		w := max(1/float64(f.seconds), 1.0/60)
		f.vari += w * (e*e - f.vari)
	}
	f.load.push(float32(x))
	f.level = f.load.mean(int(Tune.Sm))
	if s.Arrivals > 0 || s.InFlight > 0 || s.Waiting > 0 {
		f.idle.busy(s.At)
	}
	for range min(lost, f.wants.span) {
		f.wants.push(held)
	}
}

func (p *Pilot) start() float64 {
	if p.policy.Start <= 0 {
		return 1
	}
	return p.policy.Start.Seconds()
}

func (p *Pilot) objective() float64 {
	if p.policy.Objective <= 0 {
		return 0.2
	}
	return p.policy.Objective.Seconds()
}

func (p *Pilot) fly(now time.Time, have Fleet) Decision {
	f := &p.flight
	line, D := p.lineOr1(), p.start()
	sd := math.Sqrt(f.vari)
	why := OnDemand
	base := f.level
	if m := f.load.mean(3); m > base+Tune.BurstZ*sd/math.Sqrt(3) {
		base, why = m, OnBurst
	}
	w := int(max(5, min(D, 60)))
	slope, se := f.load.slope(w, sd)
	head := Tune.Z * sd
	if slope > Tune.TrendZ*se {
		head += Tune.TrendW * slope * (D + 1)
		why = OnTrend
	}
	backlog := float64(p.last.Waiting)*f.service - p.objective()*base
	if backlog > 0 {
		head += backlog / Tune.Clear
		why = OnBacklog
	}
	want := replicas(base+head, line)
	d := Decision{Want: want, Refused: replicas(base, line), Why: why, Demand: base, Headroom: head, Line: line}
	if base == 0 && p.last.Waiting == 0 && p.last.InFlight == 0 {
		d.Want = 0
	} else {
		d.Want = max(d.Want, 1)
	}
	f.wants.push(d.Want)
	if size := have.size(); d.Want < size {
		if most := f.wants.max(); most > d.Want {
			d.Want, d.Why = min(size, most), Window
		}
		if keep := have.Starting + have.Fresh; d.Want < keep {
			d.Want, d.Why = keep, Unserved
		}
	}
	if d.Want == 0 && have.size() > 0 {
		idleFor := p.policy.Idle.Seconds()
		if idleFor == 0 {
			idleFor = max(5, D)
		}
		if now.Sub(f.idle.last).Seconds() < idleFor {
			d.Want, d.Why = 1, KeepWarm
		} else {
			d.Why = Asleep
		}
	}
	return d
}

// recent holds the last seconds of a figure.
type recent struct {
	at    [128]float32
	next  int
	known int
}

func (r *recent) push(x float32) {
	r.at[r.next] = x
	r.next = (r.next + 1) % len(r.at)
	r.known = min(r.known+1, len(r.at))
}

// mean of the last n known.
func (r *recent) mean(n int) float64 { return r.meanBefore(0, n) }

func (r *recent) meanBefore(skip, n int) float64 {
	n = min(n, r.known-skip)
	if n <= 0 {
		return 0
	}
	var sum float64
	for i := range n {
		sum += float64(r.at[(r.next+2*len(r.at)-1-skip-i)%len(r.at)])
	}
	return sum / float64(n)
}

// slope is the rise per second between the last w seconds and the w before,
// and its standard error when one second's is sd.
func (r *recent) slope(w int, sd float64) (slope, se float64) {
	if r.known < 2*w {
		return 0, 1
	}
	n := float64(w)
	return (r.mean(w) - r.meanBefore(w, w)) / n, sd * math.Sqrt(2/n) / n
}

// A window is the maximum over the last span pushes.
type window struct {
	span int
	at   [16]int32
	fill int
	next int
}

func (w *window) push(v int) {
	per := (w.span + len(w.at) - 2) / (len(w.at) - 1)
	if w.fill >= per {
		w.next = (w.next + 1) % len(w.at)
		w.at[w.next] = 0
		w.fill = 0
	}
	w.at[w.next] = max(w.at[w.next], int32(v))
	w.fill++
}

func (w *window) max() int {
	per := (w.span + len(w.at) - 2) / (len(w.at) - 1)
	n := min(len(w.at), (w.span+per-1)/per)
	m := int32(0)
	for i := range n {
		m = max(m, w.at[(w.next+len(w.at)-i)%len(w.at)])
	}
	return int(m)
}

type idle struct{ last time.Time }

func (i *idle) busy(at time.Time) { i.last = at }

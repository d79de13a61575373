package simulate

import (
	"bytes"
	"encoding/csv"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/internal/queue"
	"loadline.dev/loadline/simulate/trace"
)

func pilot(t testing.TB, text string, start time.Duration) *autopilot.Pilot {
	t.Helper()
	p, err := autopilot.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	p.Start, p.Objective = start, 200*time.Millisecond
	flown, err := autopilot.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return flown
}

func config(t testing.TB, policy string, start time.Duration) Config {
	return Config{Sizer: pilot(t, policy, start), Capacity: 8, Service: 100 * time.Millisecond, Start: start,
		Objective: 200 * time.Millisecond, Seed: 1}
}

// wavy is traffic that swings between a tenth and all of peak, with the noise
// of independent callers and now and then a burst.
func wavy(seconds int, peak float64, seed uint64) trace.Trace {
	dice := rand.New(rand.NewPCG(seed, 2))
	t := trace.Trace{First: 1000, Counts: make([]uint32, seconds)}
	for s := range t.Counts {
		rate := peak * (0.55 - 0.45*math.Cos(2*math.Pi*float64(s)/1800))
		if s%700 > 680 {
			rate *= 1.8
		}
		t.Counts[s] = uint32(max(0, rate+math.Sqrt(rate)*dice.NormFloat64()))
	}
	return t
}

func run(t testing.TB, c Config, tr trace.Trace) Report {
	t.Helper()
	r, err := Run(t.Context(), c, tr)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// scorer is written against the words of the command line's contract alone: it
// sees the CSV and shares no code with the simulator.
type scorer struct {
	cost, optimum, late float64
	requests            int
}

func score(t *testing.T, csvText string, capacity, service, delay, objective float64) scorer {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(csvText)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(rows[0], ","); got != "second,arrivals,want,starting,ready,in_flight,waiting,load_line,why" {
		t.Fatalf("header %s", got)
	}
	var s scorer
	var needed []int
	line := fluid{delay: delay}
	ready := 0.0
	for _, row := range rows[1:] {
		n := func(i int) float64 {
			v, err := strconv.ParseFloat(row[i], 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		arrivals := n(1)
		s.requests += int(arrivals)
		s.cost += n(3) + n(4)
		needed = append(needed, int(math.Ceil(arrivals*service/capacity-1e-9)))
		const steps = 20
		for range steps {
			s.late += line.step(arrivals/steps, ready*capacity/service/steps, 1.0/steps, objective)
		}
		ready = n(4)
	}
	peak := 0
	for _, n := range needed {
		peak = max(peak, n)
	}
	for k := 1; k <= peak; k++ { // replica by replica, the slow and obvious way
		last := -1
		for at, n := range needed {
			if n < k {
				continue
			}
			switch {
			case last < 0 || float64(at-last-1) > delay:
				s.optimum += delay
			default:
				s.optimum += float64(at - last - 1)
			}
			s.optimum++
			last = at
		}
	}
	s.late /= float64(s.requests)
	return s
}

// A fluid is a queue of amounts instead of requests, in the discipline that the
// design states: in order of arrival, but whoever is late waits until nobody on
// time does, except that every second turn goes to one that was overtaken for
// two starts, and at least five seconds.
type fluid struct {
	now, delay  float64
	fresh, late []amount
}

type amount struct{ arrived, size float64 }

func (f *fluid) step(arrive, serve, dt, objective float64) (late float64) {
	f.now += dt
	f.fresh = append(f.fresh, amount{f.now - dt/2, arrive})
	for len(f.fresh) > 0 && f.now-f.fresh[0].arrived > objective {
		late += f.fresh[0].size
		f.late = append(f.late, f.fresh[0])
		f.fresh = f.fresh[1:]
	}
	if len(f.late) > 0 && f.now-f.late[0].arrived > objective+max(5, 2*f.delay) {
		serve -= drain(&f.late, serve/2) // as good as the half, when somebody waits on time
	}
	serve -= drain(&f.fresh, serve)
	drain(&f.late, serve)
	return late
}

func drain(from *[]amount, upTo float64) (drained float64) {
	for len(*from) > 0 && drained < upTo {
		part := min((*from)[0].size, upTo-drained)
		drained += part
		if (*from)[0].size -= part; (*from)[0].size <= 1e-12 {
			*from = (*from)[1:]
		}
	}
	return drained
}

func TestSeriesAloneGivesCostOptimumAndLateness(t *testing.T) {
	for _, policy := range []string{"autopilot", "published:0.70", "published:1.00", "static:20", "static:9"} {
		for _, start := range []time.Duration{2 * time.Second, 60 * time.Second} {
			var text bytes.Buffer
			series := NewSeries(&text)
			c := config(t, policy, start)
			c.Row = series.Write
			r := run(t, c, wavy(1500, 1200, 3))
			s := score(t, text.String(), 8, 0.1, start.Seconds(), 0.2)
			if s.cost != r.ReplicaSeconds || int64(s.requests) != r.Requests {
				t.Errorf("%s, %v: cost %v of %d requests, the series says %v of %d", policy, start, r.ReplicaSeconds, r.Requests, s.cost, s.requests)
			}
			if math.Abs(s.optimum-r.Optimum) > 1e-6*r.Optimum {
				t.Errorf("%s, %v: optimum %v, the series says %v", policy, start, r.Optimum, s.optimum)
			}
			if math.Abs(s.late-r.Late) > 0.002+0.1*s.late {
				t.Errorf("%s, %v: late %.4f, the series says %.4f", policy, start, r.Late, s.late)
			}
		}
	}
}

func TestSameSeedGivesTheSameRun(t *testing.T) {
	play := func(seed uint64) (Report, string) {
		var text bytes.Buffer
		c := config(t, "autopilot", 10*time.Second)
		c.Seed, c.Gateways, c.Row = seed, 3, NewSeries(&text).Write
		c.Starts = []time.Duration{time.Second, 4 * time.Second, 30 * time.Second}
		return run(t, c, wavy(600, 900, 4)), text.String()
	}
	r1, s1 := play(1)
	r2, s2 := play(1)
	if r1 != r2 || s1 != s2 {
		t.Errorf("two runs of one seed differ: %+v and %+v", r1, r2)
	}
	if _, s3 := play(2); s3 == s1 {
		t.Error("another seed gave the same run")
	}
}

// With what it truly carries a replica's requests never wait inside it, and the
// waits are those of a queue with as many servers: Erlang's formula knows them.
func TestWaitsAreThoseOfAQueueWithThatManyServers(t *testing.T) {
	const servers, rate = 16, 140.0
	dice := rand.New(rand.NewPCG(9, 9))
	var tr trace.Trace
	for at := 0.0; at < 20000; at += dice.ExpFloat64() / rate {
		tr.Arrivals = append(tr.Arrivals, trace.Arrival{At: int64(at * 1e9), Service: int64(dice.ExpFloat64() * 1e8)})
	}
	c := config(t, "static:2", time.Second)
	c.Order, c.WarmUp = queue.FIFO, 100*time.Second
	c.Objective = 0
	r := run(t, c, tr)
	load := rate * 0.1
	erlangB := 1.0
	for n := 1.0; n <= servers; n++ {
		erlangB = load * erlangB / (n + load*erlangB)
	}
	waits := erlangB / (1 - load/servers*(1-erlangB))
	if math.Abs(r.Late-waits) > 0.02*waits+0.005 {
		t.Errorf("%.4f of the requests waited, Erlang's formula says %.4f", r.Late, waits)
	}
}

// With a line above what it carries, requests wait inside the replica instead of
// in the queue, and wait as long.
func TestWaitingInsideAReplicaIsWaiting(t *testing.T) {
	tr := trace.Trace{Counts: make([]uint32, 300)}
	for s := range tr.Counts {
		tr.Counts[s] = 100 // 80 are carried
	}
	outside := config(t, "static:1", time.Second)
	outside.Order = queue.FIFO
	inside := outside
	inside.Line = 4000
	a, b := run(t, outside, tr), run(t, inside, tr)
	if math.Abs(a.Late-b.Late) > 0.01 || a.Late < 0.9 {
		t.Errorf("late %.4f in the queue, %.4f inside the replica", a.Late, b.Late)
	}
}

// Calibration plays calls and is told nothing; it finds what a replica carries
// where two hundred calls reach that far.
func TestCalibrationFindsTheCapacity(t *testing.T) {
	for capacity, want := range map[int]int{1: 1, 2: 2, 3: 3, 8: 8, 13: 13, 31: 31, 64: 64, 1000: 64} {
		c := config(t, "autopilot", time.Second)
		c.Capacity = capacity
		if got := Calibrate(c); got != want {
			t.Errorf("capacity %d: got %d, want %d", capacity, got, want)
		}
	}
}

// What the optimum holds, with a start's delay for each rise, is what it costs.
func TestOptimumCostsWhatItHolds(t *testing.T) {
	tr := wavy(900, 700, 8)
	needed := Needed(tr, 100*time.Millisecond, 8)
	held, cost, before := Held(needed, 5*time.Second), 0.0, 0
	for s, n := range held {
		if n < needed[s] {
			t.Fatalf("second %d: held %d of %d needed", s, n, needed[s])
		}
		cost += float64(n) + 5*float64(max(0, n-before))
		before = n
	}
	if got := Optimum(needed, 5*time.Second); math.Abs(got-cost) > 1e-6 {
		t.Errorf("optimum %v, what is held costs %v", got, cost)
	}
}

func TestWarmUpIsNotJudged(t *testing.T) {
	tr := wavy(1200, 800, 5)
	c := config(t, "published:0.70", 60*time.Second)
	cold := run(t, c, tr)
	c = config(t, "published:0.70", 60*time.Second)
	c.WarmUp = 300 * time.Second
	warm := run(t, c, tr)
	judged := int64(0)
	for _, n := range tr.Counts[300:] {
		judged += int64(n)
	}
	if warm.Requests != judged || warm.ReplicaSeconds >= cold.ReplicaSeconds || warm.Late >= cold.Late {
		t.Errorf("cold %+v, warm %+v, want %d requests judged", cold, warm, judged)
	}
}

func TestWhatNeverStartsIsLost(t *testing.T) {
	tr := trace.Trace{Counts: []uint32{5, 0, 0, 0}}
	c := config(t, "static:0", time.Second)
	if r := run(t, c, tr); r.Lost != 5 || r.Late != 1 || r.ReplicaSeconds != 0 {
		t.Errorf("%+v", r)
	}
}

func TestConfigThatMakesNoSenseIsRefused(t *testing.T) {
	for claim, spoil := range map[string]func(*Config){
		"nobody decides":           func(c *Config) { c.Sizer = nil },
		"carries nothing":          func(c *Config) { c.Capacity = 0 },
		"takes no time":            func(c *Config) { c.Service = 0 },
		"starts in the past":       func(c *Config) { c.Start = -1 },
		"one start is in the past": func(c *Config) { c.Starts = []time.Duration{-1} },
	} {
		c := config(t, "autopilot", time.Second)
		spoil(&c)
		if _, err := Run(t.Context(), c, wavy(10, 10, 1)); err == nil {
			t.Errorf("%s: accepted", claim)
		}
	}
}

// Of any need the one pass over rises and falls gives what looking at each
// replica alone gives.
func TestOptimumIsTheSumOverReplicas(t *testing.T) {
	for seed := range uint64(50) {
		dice := rand.New(rand.NewPCG(seed, 3))
		needed := make([]int, 200)
		for s := range needed {
			needed[s] = dice.IntN(5) * dice.IntN(2)
		}
		delay := float64(dice.IntN(8))
		slow := 0.0
		for k := 1; k <= 4; k++ {
			last := -1
			for at, n := range needed {
				if n < k {
					continue
				}
				if last < 0 || float64(at-last-1) > delay {
					slow += delay
				} else {
					slow += float64(at - last - 1)
				}
				slow++
				last = at
			}
		}
		if got := Optimum(needed, time.Duration(delay)*time.Second); math.Abs(got-slow) > 1e-9 {
			t.Fatalf("seed %d: got %v, want %v", seed, got, slow)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	tr := wavy(600, 4000, 1)
	b.ReportAllocs()
	for b.Loop() {
		run(b, config(b, "autopilot", 10*time.Second), tr)
	}
	b.ReportMetric(float64(tr.Requests())*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mreq/s")
}

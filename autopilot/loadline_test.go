package autopilot

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

var morning = time.Unix(1_700_000_000, 0)

// A replicaLaw says how long requests are inside a replica that holds n.
type replicaLaw func(n float64) time.Duration

func ms(f float64) time.Duration { return time.Duration(f * float64(time.Millisecond)) }

// climb drives a line for some seconds with a replica of that law; demand is how
// many requests would be inside if they were let. It returns the lines.
func climb(l *Line, law replicaLaw, from time.Time, seconds int, demand float64, dice *rand.Rand) []int {
	var lines []int
	for s := range seconds {
		at := from.Add(time.Duration(s+1) * time.Second)
		l.Observe(readingOf(l, law, at, demand, dice))
		lines = append(lines, l.Decide(at).Line)
	}
	return lines
}

func readingOf(l *Line, law replicaLaw, at time.Time, demand float64, dice *rand.Rand) Reading {
	n := min(demand, float64(l.Current()))
	inside := law(n)
	answered := max(1, int(n/inside.Seconds()))
	noise := 1 + 0.5*dice.NormFloat64()/math.Sqrt(float64(answered))
	inside = time.Duration(float64(inside) * max(0.5, noise))
	return Reading{At: at, Beside: n, Inside: inside, Answered: answered, Tail: 2 * inside, Waiting: demand > n}
}

func TestLineFindsWhatAReplicaCarries(t *testing.T) {
	for sentence, c := range map[string]struct {
		law       replicaLaw
		objective time.Duration
		from, to  int // where the line belongs
	}{
		"one thread gains nothing by company":         {func(n float64) time.Duration { return ms(10 * n) }, time.Second, 1, 2},
		"sixteen places and no more":                  {func(n float64) time.Duration { return ms(50 * max(1, n/16)) }, time.Second, 14, 26},
		"hundreds that wait for others":               {func(n float64) time.Duration { return ms(200 * max(1, n/300)) }, 2 * time.Second, 260, 520},
		"the objective ends it before the throughput": {func(n float64) time.Duration { return ms(10 + n) }, ms(100), 32, 44},
		"thrashing from twelve":                       {func(n float64) time.Duration { return ms(20 * max(1, math.Pow(n/12, 2.5))) }, time.Second, 9, 14},
	} {
		t.Run(sentence, func(t *testing.T) {
			for seed := range uint64(5) {
				l := NewLine(Bounds{Prior: 8, Objective: c.objective}, Profile{})
				lines := climb(l, c.law, morning, 60, 1e4, rand.New(rand.NewPCG(seed, 1)))
				if got := lines[59]; got < c.from || got > c.to {
					t.Errorf("seed %d: after a minute the line is %d, want %d to %d: %v", seed, got, c.from, c.to, lines)
				}
			}
		})
	}
}

func TestClimbingNeverGoesFarPastTheObjective(t *testing.T) {
	for seed := range uint64(20) {
		dice := rand.New(rand.NewPCG(seed, 2))
		places := 2 + dice.Float64()*200
		law := func(n float64) time.Duration { return ms(40 * max(1, n/places)) }
		l := NewLine(Bounds{Prior: 8, Objective: ms(300)}, Profile{})
		for s, n := range climb(l, law, morning, 90, 1e4, dice) {
			if p99 := 2 * law(float64(n)); p99 > ms(300*1.6) && n > 8 {
				t.Errorf("seed %d, %d s: line %d has a p99 of %v", seed, s, n, p99)
			}
		}
	}
}

func TestStressLowersTheLineAtOnce(t *testing.T) {
	l, dice := NewLine(Bounds{Prior: 8, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(1, 1))
	climb(l, func(n float64) time.Duration { return ms(50 * max(1, n/16)) }, morning, 60, 1e4, dice)
	before := l.Current()
	lines := climb(l, func(n float64) time.Duration { return ms(50 * max(1, n/4)) }, morning.Add(time.Minute), 4, 1e4, dice)
	if lines[3] >= before {
		t.Errorf("a replica that became four times slower keeps its line of %d: %v", before, lines)
	}
	lines = climb(l, func(n float64) time.Duration { return ms(50 * max(1, n/4)) }, morning.Add(64*time.Second), 60, 1e4, dice)
	if got := lines[59]; got < 3 || got > 9 {
		t.Errorf("its new line is %d, want about 4: %v", got, lines)
	}
}

func TestALineThatRoseIsFoundAgainWhenTheReplicaRecovers(t *testing.T) {
	l, dice := NewLine(Bounds{Prior: 8, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(1, 1))
	climb(l, func(n float64) time.Duration { return ms(50 * max(1, n/4)) }, morning, 60, 1e4, dice)
	lines := climb(l, func(n float64) time.Duration { return ms(50 * max(1, n/32)) }, morning.Add(time.Minute), 60, 1e4, dice)
	if got := lines[59]; got < 26 {
		t.Errorf("the line is %d, want about 32: %v", got, lines)
	}
}

func TestMemoryAndBrokenRequestsLowerTheLine(t *testing.T) {
	for sentence, spoil := range map[string]func(*Reading){
		"memory nearly used up":     func(r *Reading) { r.Pressure.Memory = 0.95 },
		"GPU memory nearly used up": func(r *Reading) { r.Pressure.GPUMemory = 0.95 },
		"requests break":            func(r *Reading) { r.Broken = r.Answered },
	} {
		l, dice := NewLine(Bounds{Prior: 32, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(1, 1))
		law := func(float64) time.Duration { return ms(50) }
		r := readingOf(l, law, morning.Add(time.Second), 1e4, dice)
		spoil(&r)
		l.Observe(r)
		if d := l.Decide(r.At); d.Line >= 32 {
			t.Errorf("%s: the line stays %d (%v)", sentence, d.Line, d.Why)
		}
	}
	l, dice := NewLine(Bounds{Prior: 32, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(1, 1))
	for s := range 20 {
		r := readingOf(l, func(float64) time.Duration { return ms(50) }, morning.Add(time.Duration(s)*time.Second), 1e4, dice)
		r.Pressure.Throttled = 0.5
		l.Observe(r)
		l.Decide(r.At)
	}
	if l.Current() > 32 {
		t.Errorf("it rose to %d while processor time was short", l.Current())
	}
}

func TestAModelThatFillsItsMemoryAloneKeepsHalfOfItsLine(t *testing.T) {
	l, dice := NewLine(Bounds{Prior: 32, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(1, 1))
	for s := range 1000 {
		r := readingOf(l, func(float64) time.Duration { return ms(50) }, morning.Add(time.Duration(s)*time.Second), 1e4, dice)
		r.Pressure.Memory = 0.97
		l.Observe(r)
		l.Decide(r.At)
	}
	if l.Current() != 16 {
		t.Errorf("the line is %d, want 16", l.Current())
	}
}

func TestAQuietReplicaKeepsItsLine(t *testing.T) {
	l, dice := NewLine(Bounds{Prior: 16, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(1, 1))
	for _, n := range climb(l, func(float64) time.Duration { return ms(50) }, morning, 300, 3, dice) {
		if n != 16 {
			t.Fatalf("three at once moved a line of 16 to %d", n)
		}
	}
	for s := range 100 {
		if d := l.Decide(morning.Add(time.Duration(300+s) * time.Minute)); d.Line != 16 {
			t.Fatalf("silence moved it to %d", d.Line)
		}
	}
}

func TestTheOrderOfReplicasChangesNothing(t *testing.T) {
	run := func(backwards bool) []int {
		l, dice := NewLine(Bounds{Prior: 8, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(3, 1))
		var lines []int
		for s := range 40 {
			at := morning.Add(time.Duration(s+1) * time.Second)
			var all []Reading
			for i := range 5 {
				all = append(all, readingOf(l, func(n float64) time.Duration { return ms(50 * max(1, n/16)) }, at, float64(6+8*i), dice))
			}
			for i := range all {
				if backwards {
					i = len(all) - 1 - i
				}
				l.Observe(all[i])
			}
			lines = append(lines, l.Decide(at).Line)
		}
		return lines
	}
	forth, back := run(false), run(true)
	for s := range forth {
		if apart := math.Abs(float64(forth[s] - back[s])); apart > 1 {
			t.Fatalf("second %d: %d one way round, %d the other", s, forth[s], back[s])
		}
	}
}

func TestTheSameReadingsGiveTheSameLines(t *testing.T) {
	run := func() string {
		l, dice := NewLine(Bounds{Prior: 8}, Profile{}), rand.New(rand.NewPCG(9, 1))
		return fmt.Sprint(climb(l, func(n float64) time.Duration { return ms(20 + 2*n) }, morning, 200, 50, dice))
	}
	if a, b := run(), run(); a != b {
		t.Errorf("%s\n%s", a, b)
	}
}

func TestARestartBeginsWithWhatWasKnown(t *testing.T) {
	l, dice := NewLine(Bounds{Prior: 8, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(1, 1))
	law := func(n float64) time.Duration { return ms(50 * max(1, n/60)) }
	climb(l, law, morning, 60, 1e4, dice)
	again := NewLine(Bounds{Prior: 8, Objective: time.Second}, l.Profile())
	if again.Current() != l.Current() {
		t.Errorf("it begins at %d, was at %d", again.Current(), l.Current())
	}
	if d := again.Decide(morning); d.Law.Lambda == 0 {
		t.Error("the law is forgotten")
	}
	for _, n := range climb(again, law, morning.Add(time.Hour), 30, 1e4, dice) {
		if n < l.Current()*3/4 {
			t.Errorf("it fell to %d", n)
		}
	}
	if p := NewLine(Bounds{Prior: 8}, Profile{}).Profile(); p.Line != 0 {
		t.Errorf("a line that learned nothing claims to know %+v", p)
	}
}

func TestAFixedLineStays(t *testing.T) {
	l, dice := NewLine(Bounds{Prior: 3, Fixed: true}, Profile{}), rand.New(rand.NewPCG(1, 1))
	for _, n := range climb(l, func(float64) time.Duration { return ms(5) }, morning, 60, 1e4, dice) {
		if n != 3 {
			t.Fatalf("it moved to %d", n)
		}
	}
}

// Bad numbers come from a network. They must leave a line that can be used.
func FuzzObserve(f *testing.F) {
	f.Add(int64(1), 4.0, int64(1e6), 10, int64(2e6))
	f.Add(int64(-5), math.Inf(1), int64(math.MaxInt64), -3, int64(-1))
	f.Add(int64(1e18), math.NaN(), int64(1), math.MaxInt, int64(1))
	f.Fuzz(func(t *testing.T, at int64, beside float64, inside int64, answered int, tail int64) {
		l := NewLine(Bounds{Prior: 8}, Profile{})
		for i := range 5 {
			when := morning.Add(time.Duration(i) * time.Second)
			l.Observe(Reading{At: morning.Add(time.Duration(at)), Beside: beside, Inside: time.Duration(inside), Answered: answered, Tail: time.Duration(tail), Waiting: true})
			d := l.Decide(when)
			if d.Line < 1 || d.Line > MostLine || math.IsNaN(d.Law.Lambda) {
				t.Fatalf("line %d, law %+v", d.Line, d.Law)
			}
		}
	})
}

func TestTheFitFindsTheLaw(t *testing.T) {
	want := Law{Lambda: 50, Sigma: 0.05, Kappa: 0.0005}
	cells := make([]cell, cellCount)
	for _, n := range []float64{1, 2, 4, 8, 16, 24, 32} {
		cells[cellOf(n)] = cell{weight: 1000, n: float32(1000 * n), inside: float32(1000 * want.Inside(n)), square: float32(1000 * math.Pow(want.Inside(n), 2)), count: 10}
	}
	got := fitCells(cells, 8).law()
	if math.Abs(got.Lambda/want.Lambda-1) > 0.02 || math.Abs(got.Sigma/want.Sigma-1) > 0.1 || math.Abs(got.Kappa/want.Kappa-1) > 0.1 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for i := range cells { // another unit of time
		cells[i].inside *= 1000
		cells[i].square *= 1e6
	}
	slow := fitCells(cells, 8).law()
	if math.Abs(slow.Lambda*1000/got.Lambda-1) > 0.01 || math.Abs(slow.Sigma/got.Sigma-1) > 0.05 {
		t.Errorf("in another unit of time the law is another: %+v and %+v", slow, got)
	}
}

func TestOneConcurrencySaysNothingAboutTheSlope(t *testing.T) {
	cells := make([]cell, cellCount)
	cells[cellOf(8)] = cell{weight: 1000, n: 8000, inside: 50, square: 2.6, count: 10}
	if f := fitCells(cells, 8); !f.ok || f.spread != 0 || f.law().Sigma != 0 {
		t.Errorf("%+v", f)
	}
}

// The stories in testdata/line: what a line does when, and why.
func TestLineStories(t *testing.T) {
	datadriven.Walk(t, "testdata/line", func(t *testing.T, path string) {
		var l *Line
		var now time.Time
		var dice *rand.Rand
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			switch d.Cmd {
			case "line":
				b, objective := Bounds{}, 0
				d.MaybeScanArgs(t, "prior", &b.Prior)
				d.MaybeScanArgs(t, "objective-ms", &objective)
				b.Objective = ms(float64(objective))
				l, now, dice = NewLine(b, Profile{}), morning, rand.New(rand.NewPCG(1, 1))
			case "play":
				seconds, demand, base, places, each := 0, 10000, 0, 10000, 0
				d.ScanArgs(t, "seconds", &seconds)
				d.ScanArgs(t, "alone-ms", &base)
				d.MaybeScanArgs(t, "places", &places)
				d.MaybeScanArgs(t, "each-ms", &each)
				d.MaybeScanArgs(t, "demand", &demand)
				law := func(n float64) time.Duration {
					return ms(float64(base)*max(1, n/float64(places)) + float64(each)*(n-1))
				}
				for range seconds {
					now = now.Add(time.Second)
					l.Observe(readingOf(l, law, now, float64(demand), dice))
					before := l.Current()
					if v := l.Decide(now); v.Line != before {
						fmt.Fprintf(&out, "%4.0fs  %d → %d  %v\n", now.Sub(morning).Seconds(), before, v.Line, v.Why)
					}
				}
				fmt.Fprintf(&out, "line=%d", l.Current())
			}
			return out.String()
		})
	})
}

func TestALineBeyondTheKneeIsPlannedWithAsTheKnee(t *testing.T) {
	law := func(n float64) time.Duration { return ms(50 * max(1, n/10)) }
	l, dice := NewLine(Bounds{Prior: 8, Objective: time.Second}, Profile{}), rand.New(rand.NewPCG(1, 1))
	for s := range 120 { // a load that comes and goes
		at := morning.Add(time.Duration(s+1) * time.Second)
		l.Observe(readingOf(l, law, at, 4+float64(s*7%20), dice))
		l.Decide(at)
	}
	if got := l.Carries(ms(50)); got < 8 || got > 12 {
		t.Errorf("a line of %d is planned with as %.1f, want about 10", l.Current(), got)
	}
	l = NewLine(Bounds{Prior: 64}, Profile{})
	climb(l, func(n float64) time.Duration { return ms(50 + 20*(n-1)) }, morning, 30, 2.5, dice)
	if got := l.Carries(ms(70)); got != 64 {
		t.Errorf("what was seen of two at once says that a line of 64 is planned with as %v", got)
	}
	if got := NewLine(Bounds{Prior: 8}, Profile{}).Carries(ms(50)); got != 8 {
		t.Errorf("a line that nothing is known of is planned with as %v", got)
	}
}

package autopilot

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"
)

// A life is a random history of an entity: samples and what there is of it.
type life struct {
	policy  Policy
	samples []Sample
}

func randomLife(seed uint64) life {
	dice := rand.New(rand.NewPCG(seed, 5))
	l := life{policy: Policy{Start: time.Duration(1+dice.IntN(60)) * time.Second, Service: 100 * time.Millisecond}}
	rate := 100 + 2000*dice.Float64()
	for s := range 100 + dice.IntN(500) {
		if dice.IntN(60) == 0 {
			rate *= math.Exp(dice.NormFloat64())
		}
		if rate > 1e5 || dice.IntN(200) == 0 {
			rate = 0
		} else if rate == 0 && dice.IntN(20) == 0 {
			rate = 2000 * dice.Float64()
		}
		n := int(max(0, rate+math.Sqrt(rate)*dice.NormFloat64()))
		l.samples = append(l.samples, Sample{At: second(s + 1), Arrivals: n, InFlight: n / 10,
			Waiting: max(0, int(float64(n)*(dice.Float64()-0.9))), Service: 100 * time.Millisecond, Line: 8})
	}
	return l
}

// fly plays a life and has every wish carried out at once; it returns the sizes.
func (l life) fly(t testing.TB) (sizes []int, last *Pilot, size int) {
	p := fly(t, l.policy)
	for _, s := range l.samples {
		p.Observe(s)
		size = p.Decide(s.At, Fleet{Ready: size}).Want
		sizes = append(sizes, size)
	}
	return sizes, p, size
}

const lives = 60

func TestReplayGivesTheSameFlight(t *testing.T) {
	for seed := range uint64(lives) {
		a, _, _ := randomLife(seed).fly(t)
		b, _, _ := randomLife(seed).fly(t)
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("seed %d: %d then %d at second %d", seed, a[i], b[i], i)
			}
		}
	}
}

func TestMoreDemandNeverGivesFewerReplicasAtOnce(t *testing.T) {
	for seed := range uint64(lives) {
		l := randomLife(seed)
		end := l.samples[len(l.samples)-1]
		l.samples = l.samples[:len(l.samples)-1]
		before := -1
		for _, more := range []int{0, 1, 10, 100, 1000, 10000, 100000} {
			_, p, size := l.fly(t)
			s := end
			s.Arrivals += more
			s.Waiting += more / 10
			p.Observe(s)
			want := p.Decide(s.At, Fleet{Ready: size}).Want
			if want < before {
				t.Fatalf("seed %d: %d arrivals more give %d replicas, fewer gave %d", seed, more, want, before)
			}
			before = want
		}
	}
}

func TestSplittingASampleChangesNothing(t *testing.T) {
	for seed := range uint64(lives) {
		l := randomLife(seed)
		whole, _, _ := l.fly(t)
		p, size := fly(t, l.policy), 0
		for i, s := range l.samples {
			half := s
			half.At, half.Over, half.Arrivals = s.At.Add(-time.Second/2), time.Second/2, s.Arrivals/3
			rest := s
			rest.Over, rest.Arrivals = time.Second/2, s.Arrivals-half.Arrivals
			p.Observe(half)
			p.Observe(rest)
			if size = p.Decide(s.At, Fleet{Ready: size}).Want; size != whole[i] {
				t.Fatalf("seed %d: second %d: %d replicas, %d with whole samples", seed, i, size, whole[i])
			}
		}
	}
}

// Twice the requests on replicas that carry twice as many, or each request half
// as long on a clock that runs twice as fast, is the same flight.
func TestScalingAllUnitsScalesTheAnswer(t *testing.T) {
	for seed := range uint64(lives) {
		l := randomLife(seed)
		want, _, _ := l.fly(t)
		for i := range l.samples {
			s := &l.samples[i]
			s.Arrivals, s.InFlight, s.Waiting, s.Line = 4*s.Arrivals, 4*s.InFlight, 4*s.Waiting, 4*s.Line
		}
		got, _, _ := l.fly(t)
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("seed %d: second %d: %d replicas, %d before scaling", seed, i, got[i], want[i])
			}
		}
	}
}

// Samples that are repeated, reordered or come late say nothing new.
func TestRepeatedAndReorderedSamplesChangeNothing(t *testing.T) {
	for seed := range uint64(lives) {
		l := randomLife(seed)
		want, _, _ := l.fly(t)
		dice := rand.New(rand.NewPCG(seed, 6))
		p, size := fly(t, l.policy), 0
		for i, s := range l.samples {
			p.Observe(s)
			for range dice.IntN(3) {
				p.Observe(l.samples[max(0, i-dice.IntN(20))])
			}
			if size = p.Decide(s.At, Fleet{Ready: size}).Want; size != want[i] {
				t.Fatalf("seed %d: second %d: %d replicas, want %d", seed, i, size, want[i])
			}
		}
	}
}

// Whatever is lost, and wherever the clock jumps: the size is never below what
// it would be if the lost seconds had been like the last one heard, as long as
// the traffic is steady.
func TestLossAndJumpsNeverShrinkASteadySize(t *testing.T) {
	for seed := range uint64(lives) {
		dice := rand.New(rand.NewPCG(seed, 7))
		p := fly(t, Policy{Start: 10 * time.Second, Service: 100 * time.Millisecond})
		size, steady := 0, 0
		now := epoch
		for s := range 600 {
			step := time.Second
			if s > 200 {
				switch dice.IntN(50) {
				case 0:
					step = time.Duration(dice.IntN(7200)) * time.Second
				case 1:
					step = -time.Duration(61+dice.IntN(7200)) * time.Second
				}
			}
			now = now.Add(step)
			if s <= 200 || dice.IntN(3) > 0 {
				p.Observe(Sample{At: now, Arrivals: 790 + dice.IntN(20), InFlight: 80, Service: 100 * time.Millisecond, Line: 8})
			}
			size = p.Decide(now, Fleet{Ready: size}).Want
			if s == 200 {
				steady = size
			}
			if s > 200 && (size < min(steady, 10) || size > steady+1) {
				t.Fatalf("seed %d: second %d: %d replicas, were %d", seed, s, size, steady)
			}
		}
	}
}

func TestSilenceFreezesTheSize(t *testing.T) {
	for seed := range uint64(lives) {
		l := randomLife(seed)
		_, p, size := l.fly(t)
		from := l.samples[len(l.samples)-1].At
		for after := 3; after < 5000; after += 97 {
			d := p.Decide(from.Add(time.Duration(after)*time.Second), Fleet{Ready: size})
			if d.Want != size || d.Why != NoSignal {
				t.Fatalf("seed %d: after %d s of silence %d replicas (%v), were %d", seed, after, d.Want, d.Why, size)
			}
		}
	}
}

// Under constant load with the noise of independent callers the size turns at
// most once in a stabilisation window of two starts.
func TestConstantLoadTurnsAtMostOnceAWindow(t *testing.T) {
	for seed := range uint64(30) {
		dice := rand.New(rand.NewPCG(seed, 8))
		start := 2 + dice.IntN(30)
		rate := 100 + 1000*dice.Float64()
		p := fly(t, Policy{Start: time.Duration(start) * time.Second, Service: 100 * time.Millisecond})
		size, heading := 0, 0
		var turns []int
		for s := range 2000 {
			n := int(max(0, rate+math.Sqrt(rate)*dice.NormFloat64()))
			p.Observe(Sample{At: second(s + 1), Arrivals: n, InFlight: n / 10, Service: 100 * time.Millisecond, Line: 8})
			want := p.Decide(second(s+1), Fleet{Ready: size}).Want
			way := max(-1, min(1, want-size))
			size = want
			if s < 120 || way == 0 {
				continue
			}
			if heading != 0 && way != heading {
				turns = append(turns, s)
			}
			heading = way
		}
		for i := 2; i < len(turns); i++ {
			if turns[i]-turns[i-2] < 2*start {
				t.Errorf("seed %d: start %d s: turns at %v", seed, start, turns[max(0, i-3):i+1])
				break
			}
		}
	}
}

func TestAReplicaThatHasNotServedStays(t *testing.T) {
	p := fly(t, Policy{Start: 10 * time.Second, Service: 100 * time.Millisecond})
	for s := range 60 {
		p.Observe(Sample{At: second(s + 1), Arrivals: 800, InFlight: 80, Service: 100 * time.Millisecond, Line: 8})
		p.Decide(second(s+1), Fleet{Ready: 10})
	}
	p.Observe(Sample{At: second(61), Arrivals: 8000, InFlight: 80, Waiting: 7000, Service: 100 * time.Millisecond, Line: 8})
	want := p.Decide(second(61), Fleet{Ready: 10}).Want
	for s := 61; s < 80; s++ {
		p.Observe(Sample{At: second(s + 1), Arrivals: 10, InFlight: 1, Service: 100 * time.Millisecond, Line: 8})
		if d := p.Decide(second(s+1), Fleet{Ready: 10, Starting: want - 10}); d.Want < want-10 {
			t.Fatalf("second %d: %d wanted while %d start", s, d.Want, want-10)
		}
	}
}

func TestAPilotIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Pilot{}); n > 2048 {
		t.Errorf("a pilot holds %d bytes, more than 2048", n)
	}
}

func TestDecidingAllocatesNothing(t *testing.T) {
	for _, text := range []string{"autopilot", "published:0.70", "static:3"} {
		policy, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		p, at := fly(t, policy), epoch
		if n := testing.AllocsPerRun(1000, func() {
			at = at.Add(time.Second)
			p.Observe(Sample{At: at, Arrivals: 800, InFlight: 80, Waiting: 20, Service: 100 * time.Millisecond, Line: 8})
			p.Decide(at, Fleet{Ready: 10})
			p.Wake(at, 1, Fleet{})
		}); n != 0 {
			t.Errorf("%s: %v allocations a second", text, n)
		}
	}
}

// BenchmarkSecond is one second of one entity: a sample and a decision.
func BenchmarkSecond(b *testing.B) {
	l := randomLife(1)
	p := fly(b, l.policy)
	at, i := epoch, 0
	b.ReportAllocs()
	for b.Loop() {
		s := l.samples[i%len(l.samples)]
		at = at.Add(time.Second)
		s.At = at
		p.Observe(s)
		p.Decide(at, Fleet{Ready: 10})
		i++
	}
}

package balance

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// A yard is the replicas of one entity under a virtual clock.
type yard struct {
	now time.Time
	all []*Health
	j   Judgement
}

func newYard(n int) *yard {
	y := &yard{now: start}
	for range n {
		y.all = append(y.all, new(Health))
	}
	return y
}

// answer lets replica i answer in ms.
func (y *yard) answer(i, ms int, failed bool) {
	took := time.Duration(ms) * time.Millisecond
	y.all[i].Sent(y.now)
	y.all[i].Began(y.now.Add(took), true)
	y.all[i].Ended(y.now.Add(took), took, failed)
}

// round lets all that may answer once each, takes a period and judges.
func (y *yard) round(ms func(i int) int, failed func(i int) bool) {
	for i, h := range y.all {
		if h.Limit(0) > 0 {
			y.answer(i, ms(i), failed(i))
		}
	}
	y.judge(Period)
}

func (y *yard) judge(after time.Duration) {
	y.now = y.now.Add(after)
	y.j.Judge(y.all, 20*time.Millisecond, y.now)
}

func (y *yard) out() (list []int) {
	for i, h := range y.all {
		if h.Limit(0) == 0 {
			list = append(list, i)
		}
	}
	return list
}

func never(int) bool { return false }
func steady(int) int { return 10 }
func slowTwo(i int) int {
	if i < 2 {
		return 100
	}
	return 10
}

func TestWhoeverIsFarSlowerIsSetAside(t *testing.T) {
	for sentence, c := range map[string]struct {
		n      int
		ms     func(i int) int
		failed func(i int) bool
		want   int
	}{
		"none of equals":                   {4, steady, never, 0},
		"none at twice the median":         {4, func(i int) int { return 10 + 10*(i%2) }, never, 0},
		"two of five at ten times":         {5, slowTwo, never, 2},
		"one of two":                       {2, func(i int) int { return 10 + 90*i }, never, 1},
		"at most half":                     {4, func(i int) int { return 10 + 90*max(0, 1-i) }, func(i int) bool { return i == 1 || i == 2 }, 2},
		"none where most are slow":         {4, func(i int) int { return 10 + 100*min(i, 1) + i }, never, 0},
		"never the only one":               {1, func(int) int { return 1000 }, func(int) bool { return true }, 0},
		"one that fails half of the time":  {4, steady, func(i int) bool { return i == 0 }, 1},
		"none when all fail":               {4, steady, func(int) bool { return true }, 0},
		"none for failing as others do":    {4, steady, func(i int) bool { return i < 3 }, 0},
		"half of them when three are slow": {6, func(i int) int { return 10 + 990*(i/3) }, never, 3},
	} {
		t.Run(sentence, func(t *testing.T) {
			y := newYard(c.n)
			for range 9 {
				y.round(c.ms, c.failed)
			}
			if got := y.out(); len(got) != c.want {
				t.Errorf("out are %v", got)
			}
		})
	}
}

// A model some of whose answers take very long, on every replica, is not that
// of slow replicas.
func TestScatteredTimesSetNobodyAside(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	y, out := newYard(10), 0
	for range 2000 {
		y.round(func(int) int { return int(10 * math.Exp(1.5*dice.NormFloat64())) }, never)
		out += len(y.out())
	}
	if share := float64(out) / 2000 / 10; share > .01 {
		t.Errorf("%.3f of the replicas are out, on average", share)
	}
}

func TestWhoeverIsWellAgainComesBackStepByStep(t *testing.T) {
	y := newYard(3)
	for range 9 {
		y.round(func(i int) int { return 10 + 90*(i/2) }, never)
	}
	slow := y.all[2]
	if slow.Limit(0) != 0 {
		t.Fatal("not set aside")
	}
	y.judge(900 * time.Millisecond)
	if slow.Limit(0) != 1 {
		t.Fatal("not tried after a second")
	}
	y.answer(2, 100, false) // no better
	y.judge(1500 * time.Millisecond)
	if slow.Limit(0) != 0 {
		t.Fatal("tried too soon after it failed the trial")
	}
	y.judge(600 * time.Millisecond)
	if slow.Limit(0) != 1 {
		t.Fatal("not tried again")
	}
	for n := 1; n < 5; n++ {
		y.answer(2, 10, false)
		if got := slow.Limit(0); got != n {
			t.Errorf("after %d good answers it may have %d requests", n, got)
		}
	}
}

func TestWhoeverGoesQuietIsLeftAloneUntilItAnswers(t *testing.T) {
	y := newYard(4)
	for range 8 {
		y.round(steady, never)
	}
	quiet := y.all[1]
	quiet.Sent(y.now)
	y.judge(50 * time.Millisecond)
	if quiet.Limit(1) == 0 {
		t.Fatal("left alone though an answer may take that long")
	}
	y.judge(100 * time.Millisecond)
	if quiet.Limit(1) != 0 {
		t.Fatal("not left alone")
	}
	y.judge(time.Second)
	if quiet.Limit(1) != 2 {
		t.Errorf("it may have %d requests after a second, want one more than it has", quiet.Limit(1))
	}
	quiet.Began(y.now, true)
	if quiet.Limit(0) != math.MaxInt {
		t.Error("still left alone after it answered")
	}
}

// A request that nobody waits for any longer is no sign of life.
func TestQuietOneThatNeverAnsweredIsTriedLater(t *testing.T) {
	y := newYard(4)
	for range 8 {
		y.round(steady, never)
	}
	y.all[0].Sent(y.now)
	y.judge(200 * time.Millisecond)
	y.all[0].Began(y.now, false)
	if y.all[0].Limit(0) != 0 {
		t.Error("let in at once")
	}
	y.judge(1100 * time.Millisecond)
	if y.all[0].Limit(0) != 1 {
		t.Error("not tried")
	}
}

func TestNewcomerAmongNewcomersTakesAllItCan(t *testing.T) {
	a, b, old := Newcomer(), Newcomer(), new(Health)
	var j Judgement
	j.Judge([]*Health{old, &a}, 0, start)
	if a.Limit(0) != 1 {
		t.Errorf("beside another it may have %d", a.Limit(0))
	}
	j.Judge([]*Health{&a, &b}, 0, start)
	if a.Limit(0) != math.MaxInt || b.Limit(0) != math.MaxInt {
		t.Error("nobody else is there, and they start slowly")
	}
}

// Whatever happens, more than half are never out, numbers stay sound, and
// shuffling the replicas changes nothing for any of them.
func TestRandomYards(t *testing.T) {
	for seed := range uint64(100) {
		dice := rand.New(rand.NewPCG(seed, 9))
		n := 1 + dice.IntN(8)
		y := newYard(n)
		z := &yard{now: start}
		for i := range y.all { // the same ones, the other way round
			z.all = append([]*Health{new(Health)}, z.all...)
			_ = i
		}
		for range 200 {
			i, ms, failed := dice.IntN(n), 1+dice.IntN(200*(1+n%3)), dice.IntN(4) == 0
			if y.all[i].Limit(0) > 0 {
				y.answer(i, ms, failed)
				z.answer(n-1-i, ms, failed)
			}
			after := time.Duration(dice.IntN(300)) * time.Millisecond
			y.judge(after)
			z.judge(after)
			out := 0
			for i, h := range y.all {
				if h.state != in {
					out++
				}
				if twin := z.all[n-1-i]; h.state != twin.state {
					t.Fatalf("seed %d: the order of replicas decides", seed)
				}
				if h.silent != 0 || math.IsNaN(h.service) {
					t.Fatalf("seed %d: %+v", seed, h)
				}
			}
			if out > n/2 {
				t.Fatalf("seed %d: %d of %d are out", seed, out, n)
			}
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	b.ReportAllocs()
	y := newYard(100)
	for range 9 {
		y.round(slowTwo, never)
	}
	for b.Loop() {
		y.judge(Period)
	}
}

package limit

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const second = int64(time.Second)

func TestACallEachGapAfterAllAtOnce(t *testing.T) {
	r := Every(3, 3*time.Second)
	for sentence, c := range map[string]struct {
		at   []int64 // milliseconds
		want string
	}{
		"all at once, then none":         {[]int64{0, 0, 0, 0}, "2 1 0 -"},
		"one more each gap":              {[]int64{0, 0, 0, 999, 1000, 1001, 2000}, "2 1 0 - 0 - 0"},
		"a pause fills it":               {[]int64{0, 0, 0, 9000, 9000, 9000, 9000}, "2 1 0 2 1 0 -"},
		"evenly spread never runs out":   {[]int64{0, 1000, 2000, 3000}, "2 2 2 2"},
		"what is refused does not count": {[]int64{0, 0, 0, 1, 2, 3, 1000}, "2 1 0 - - - 0"},
	} {
		t.Run(sentence, func(t *testing.T) {
			var b Bucket
			got := ""
			for _, ms := range c.at {
				s := b.Take(r, 5*second+ms*1e6)
				if s.OK {
					got += fmt.Sprint(" ", s.Left)
				} else {
					got += " -"
				}
			}
			if got != " "+c.want {
				t.Errorf("got%s, want %s", got, c.want)
			}
		})
	}
}

func TestARefusalSaysWhenToComeAgain(t *testing.T) {
	var b Bucket
	r := Every(2, 10*time.Second)
	b.Take(r, second)
	if s := b.Take(r, second); s.Left != 0 || s.Full != 10*time.Second || s.Again != 0 {
		t.Errorf("%+v", s)
	}
	if s := b.Take(r, 2*second); s.OK || s.Again != 4*time.Second || s.Full != 9*time.Second {
		t.Errorf("%+v", s)
	}
	if s := b.Take(r, 6*second); !s.OK {
		t.Errorf("refused when it said to come again: %+v", s)
	}
	if s := b.Take(Every(0, time.Minute), 0); s.OK || s.Again != time.Minute {
		t.Errorf("a rate of nothing: %+v", s)
	}
}

func TestUndoGivesTheCallBack(t *testing.T) {
	var b Bucket
	r := Every(1, time.Second)
	for range 3 {
		if !b.Take(r, second).OK {
			t.Fatal("refused")
		}
		b.Undo(r)
	}
}

// However calls come: from any moment on, no more pass within a time than were
// there at once plus one for each gap.
func TestNoStretchAllowsMoreThanItsShare(t *testing.T) {
	for seed := range uint64(30) {
		dice := rand.New(rand.NewPCG(seed, 3))
		calls := 1 + dice.IntN(20)
		r := Every(calls, time.Second)
		var b Bucket
		var passed []int64
		now := second
		for range 800 {
			now += dice.Int64N(2 * second / int64(calls))
			if dice.IntN(3) == 0 {
				now += dice.Int64N(1000)
			}
			if b.Take(r, now).OK {
				passed = append(passed, now)
			}
		}
		for i := range passed {
			for j := i; j < len(passed); j++ {
				if n, most := int64(j-i+1), int64(calls)+(passed[j]-passed[i])/r.gap; n > most {
					t.Fatalf("seed %d: %d calls where %d may pass", seed, n, most)
				}
			}
		}
	}
}

func TestManyTakersTakeWhatThereIs(t *testing.T) {
	var b Bucket
	r := Every(1000, time.Hour)
	var passed atomic.Int64
	var crowd sync.WaitGroup
	for range 8 {
		crowd.Go(func() {
			for range 500 {
				if b.Take(r, second).OK {
					passed.Add(1)
				}
			}
		})
	}
	crowd.Wait()
	if passed.Load() != 1000 {
		t.Errorf("%d passed", passed.Load())
	}
}

// Three gateways whose callers move about: together they never allow more than
// one would, and while callers stay nearly as much.
func TestSharesAddUpToTheRate(t *testing.T) {
	whole := Every(600, time.Minute) // ten a second
	dice := rand.New(rand.NewPCG(4, 4))
	const gateways, seconds = 3, 600
	var buckets [gateways]Bucket
	rates := [gateways]Rate{}
	for i := range rates {
		rates[i] = Share(whole, 0, 0, gateways)
	}
	passed, asked := 0, 0
	weights := [gateways]float64{1, 1, 1}
	for s := range int64(seconds) {
		if s%60 == 0 {
			for i := range weights {
				weights[i] = dice.Float64()
			}
		}
		var came [gateways]float64
		sum := weights[0] + weights[1] + weights[2]
		for k := range int64(20) { // twenty a second come
			at, i := dice.Float64()*sum, 0
			for at > weights[i] && i < gateways-1 {
				at -= weights[i]
				i++
			}
			came[i]++
			asked++
			if buckets[i].Take(rates[i], (s+1)*second+k*second/20).OK {
				passed++
			}
		}
		for i := range rates {
			next := Share(whole, came[i], 20, gateways)
			buckets[i].Change(rates[i], next, (s+2)*second)
			rates[i] = next
		}
	}
	most := 600 + 10*seconds + gateways
	if passed > most || float64(passed) < .9*float64(most) {
		t.Errorf("%d of %d passed, one gateway lets %d", passed, asked, most)
	}
}

func TestBookForgetsWhoeverIsAsGoodAsNew(t *testing.T) {
	var b Book
	r := Every(1, time.Second)
	for i := range 10_000 {
		now := int64(i) * second / 10
		b.Bucket(fmt.Sprint(i), now).Take(r, now)
	}
	if b.Len() > leastSweep {
		t.Errorf("%d are remembered", b.Len())
	}
	busy := b.Bucket("busy", 10_000*second)
	busy.Take(r, 10_000*second)
	for i := range 1000 {
		b.Bucket(fmt.Sprint(i), 10_000*second)
	}
	if b.Bucket("busy", 10_000*second) != busy {
		t.Error("one who has calls to make good was forgotten")
	}
}

func BenchmarkTake(b *testing.B) {
	b.ReportAllocs()
	var bucket Bucket
	r := Every(1<<30, time.Second)
	now := int64(0)
	for b.Loop() {
		now++
		bucket.Take(r, now)
	}
}

// However many flood it, whoever comes last still gets as much as each of them.
func TestFairLeavesRoomForTheNext(t *testing.T) {
	for floods := 1; floods <= 5; floods++ {
		const most = 60_000
		held, all := make([]int64, floods+1), int64(0)
		flood := func(who int) {
			for Fair(held[who]+1, all+1, most) {
				held[who]++
				all++
			}
		}
		for range most { // all but the last take turns until none gets more
			for who := range floods {
				if Fair(held[who]+1, all+1, most) {
					held[who]++
					all++
				}
			}
		}
		flood(floods)
		if least := int64(most/(floods+1)/2) - 1; held[floods] < least {
			t.Errorf("%d flood: the next gets %d, want %d", floods, held[floods], least)
		}
	}
}

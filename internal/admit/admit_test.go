package admit

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"loadline.dev/loadline/internal/queue"
	"loadline.dev/loadline/serving"
)

// A request that reaches a sleeping entity waits for the first replica.
func TestColdStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const coldStart = 40 * time.Second
		gate := New(queue.Policy{Objective: 200 * time.Millisecond})
		go func() { time.Sleep(coldStart); gate.Grant(1) }()

		start := time.Now()
		if err := gate.Enter(t.Context(), new(Place)); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited != coldStart {
			t.Errorf("waited %v, want %v", waited, coldStart)
		}
	})
}

func TestFullWaitingRoomIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(queue.Policy{Bytes: 100})
		first := new(Place)
		first.Bytes = 60
		go gate.Enter(t.Context(), first)
		synctest.Wait()
		second := new(Place)
		second.Bytes = 60
		if err := gate.Enter(t.Context(), second); !errors.Is(err, serving.Busy) {
			t.Errorf("got %v", err)
		}
		gate.Grant(1)
		synctest.Wait()
		if gate.Waiting() != 0 || gate.Free() != 0 {
			t.Errorf("%d wait, %d free", gate.Waiting(), gate.Free())
		}
	})
}

func TestDeadlineEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(queue.Policy{})
		p := new(Place)
		for range 2 { // a place serves again after it timed out
			p.Arrived = time.Now()
			p.Deadline = p.Arrived.Add(3 * time.Second)
			if err := gate.Enter(t.Context(), p); !errors.Is(err, serving.TimedOut) || time.Since(p.Arrived) != 3*time.Second {
				t.Errorf("%v after %v", err, time.Since(p.Arrived))
			}
		}
		gate.Grant(1)
		p.Arrived, p.Deadline = time.Now(), time.Now().Add(time.Second)
		if err := gate.Enter(t.Context(), p); err != nil {
			t.Error(err)
		}
	})
}

func TestLeavingGivesThePlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(queue.Policy{})
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- gate.Enter(ctx, new(Place)) }()
		synctest.Wait()
		stayed := make(chan error, 1)
		go func() { stayed <- gate.Enter(t.Context(), new(Place)) }()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		gate.Grant(1)
		if err := <-stayed; err != nil {
			t.Error(err)
		}
	})
}

func TestRefusalEndsAllWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(queue.Policy{})
		why := errors.New("the model cannot be loaded")
		errs := make(chan error, 3)
		for range 3 {
			go func() { errs <- gate.Enter(t.Context(), new(Place)) }()
		}
		synctest.Wait()
		gate.Refuse(why)
		for range 3 {
			if err := <-errs; !errors.Is(err, why) {
				t.Error(err)
			}
		}
		if err := gate.Enter(t.Context(), new(Place)); !errors.Is(err, why) {
			t.Error(err)
		}
		gate.Refuse(nil)
		gate.Grant(1)
		if err := gate.Enter(t.Context(), new(Place)); err != nil {
			t.Error(err)
		}
	})
}

// A withdrawn place is made good before anybody else gets in.
func TestWithdrawnPlacesAreOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(queue.Policy{})
		gate.Grant(2)
		for range 2 {
			if err := gate.Enter(t.Context(), new(Place)); err != nil {
				t.Fatal(err)
			}
		}
		gate.Grant(-1)
		in := make(chan error, 1)
		go func() { in <- gate.Enter(t.Context(), new(Place)) }()
		gate.Grant(1)
		synctest.Wait()
		if gate.Waiting() != 1 {
			t.Fatal("somebody got in on a place that was withdrawn")
		}
		gate.Grant(1)
		if err := <-in; err != nil {
			t.Error(err)
		}
	})
}

func TestComingAgainGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(queue.Policy{})
		order := make(chan string, 2)
		first := new(Place)
		gate.Grant(1)
		first.Arrived = time.Now()
		if err := gate.Enter(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		go func() { gate.Enter(t.Context(), new(Place)); order <- "second" }()
		synctest.Wait()
		go func() { gate.Again(t.Context(), first); order <- "first" }()
		synctest.Wait()
		gate.Grant(1)
		synctest.Wait()
		gate.Grant(1)
		if a, b := <-order, <-order; a != "first" || b != "second" {
			t.Errorf("%s, then %s", a, b)
		}
	})
}

// With many at the gate at once, some leaving early, never more are in than
// there are places, and in the end no place is lost.
func TestPlacesAreNeitherLostNorInvented(t *testing.T) {
	const places, clients, rounds = 3, 16, 400
	gate := New(queue.Policy{Objective: time.Microsecond})
	gate.Grant(places)
	var in atomic.Int64
	var crowd sync.WaitGroup
	for c := range clients {
		crowd.Go(func() {
			dice := rand.New(rand.NewPCG(uint64(c), 7))
			p := new(Place)
			for range rounds {
				ctx, cancel := context.WithCancel(context.Background())
				if dice.IntN(3) == 0 {
					go cancel()
				}
				p.Arrived = time.Now()
				p.Deadline = time.Time{}
				if dice.IntN(3) == 0 {
					p.Deadline = p.Arrived.Add(time.Duration(dice.IntN(50)) * time.Microsecond)
				}
				if gate.Enter(ctx, p) == nil {
					if in.Add(1) > places {
						t.Error("more in than places")
					}
					if dice.IntN(10) == 0 {
						time.Sleep(time.Microsecond)
					}
					in.Add(-1)
					gate.Grant(1)
				}
				cancel()
			}
		})
	}
	crowd.Wait()
	if gate.Free() != places || gate.Waiting() != 0 {
		t.Errorf("%d free, %d wait", gate.Free(), gate.Waiting())
	}
}

func TestEnteringAllocatesNothing(t *testing.T) {
	gate := New(queue.Policy{})
	p := new(Place)
	ctx := context.Background()
	gate.Grant(1)
	if n := testing.AllocsPerRun(100, func() {
		if gate.Enter(ctx, p) == nil {
			gate.Grant(1)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEnter(b *testing.B) {
	b.ReportAllocs()
	gate := New(queue.Policy{})
	gate.Grant(1)
	p := new(Place)
	ctx := context.Background()
	for b.Loop() {
		if err := gate.Enter(ctx, p); err != nil {
			b.Fatal(err)
		}
		gate.Grant(1)
	}
}

func BenchmarkEnterAndWait(b *testing.B) {
	b.ReportAllocs()
	gate := New(queue.Policy{Objective: time.Second})
	gate.Grant(1)
	b.RunParallel(func(pb *testing.PB) {
		p := new(Place)
		for pb.Next() {
			p.Arrived = time.Time{}
			if err := gate.Enter(context.Background(), p); err != nil {
				b.Error(err)
				return
			}
			gate.Grant(1)
		}
	})
}

// While more come than can be served, whoever waits in vain is told so, and
// places go on being used.
func TestOverloadIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(queue.Policy{Objective: 100 * time.Millisecond, Overtake: time.Second, Shed: true})
		gate.Service = func() (mean, tail time.Duration) { return 10 * time.Millisecond, 10 * time.Millisecond }
		gate.Grant(1)
		var served, busy atomic.Int64
		var crowd sync.WaitGroup
		for range 3000 { // three for each that can be served, for ten seconds
			crowd.Go(func() {
				began := time.Now()
				switch err := gate.Enter(t.Context(), new(Place)); {
				case err == nil:
					time.Sleep(10 * time.Millisecond)
					if time.Since(began) <= 100*time.Millisecond {
						served.Add(1)
					}
					gate.Grant(1)
				case errors.Is(err, serving.Busy):
					busy.Add(1)
				default:
					t.Error(err)
				}
			})
			time.Sleep(10 * time.Millisecond / 3)
		}
		crowd.Wait()
		if served.Load() < 950 || served.Load()+busy.Load() < 2950 {
			t.Errorf("%d served in time, %d refused, of 3000 where 1000 can be", served.Load(), busy.Load())
		}
		if gate.Free() != 1 || gate.Waiting() != 0 {
			t.Errorf("%d free, %d wait", gate.Free(), gate.Waiting())
		}
	})
}

package gateway

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/gateway/balance"
	"loadline.dev/loadline/internal/admit"
	"loadline.dev/loadline/internal/queue"
)

// However replicas are set aside, recalled, granted and used: what the gate
// gives away and what the replicas hold stays the same number, and in the end
// nothing is lost.
func TestPlacesSurviveSettingAside(t *testing.T) {
	e := &entity{g: &Gateway{epoch: time.Now()}, gate: admit.New(queue.Policy{})}
	var list []*replica
	for range 4 {
		list = append(list, &replica{e: e, known: true, stop: func() {}})
	}
	e.replicas.Store(&list)
	const places = 3
	for _, r := range list {
		r.granted(places)
	}
	var inside atomic.Int64
	var crowd sync.WaitGroup
	for c := range 16 {
		crowd.Go(func() {
			dice := rand.New(rand.NewPCG(uint64(c), 5))
			var p admit.Place
			for range 400 {
				p.Arrived = time.Now()
				if err := e.gate.Enter(t.Context(), &p); err != nil {
					t.Error(err)
					return
				}
				r := e.pick(time.Now())
				if r == nil {
					e.gate.Grant(1)
					continue
				}
				if inside.Add(1) > places*int64(len(list)) {
					t.Error("more inside than places")
				}
				var tr trip
				tr.start(r, time.Now())
				switch dice.IntN(4) {
				case 0: // slow, or failing
					time.Sleep(200 * time.Microsecond)
					tr.failed = r == list[0]
				case 1: // never answered
					inside.Add(-1)
					tr.end()
					r.granted(1)
					continue
				}
				tr.hear(time.Now(), true)
				inside.Add(-1)
				tr.end()
				r.granted(1)
				if dice.IntN(20) == 0 { // a recall, and the place back
					r.granted(-1)
					r.granted(1)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { // somebody judges all the time, as harshly as it gets
		defer close(done)
		var j balance.Judgement
		for now := time.Now(); ; now = now.Add(balance.Period) {
			var healths []*balance.Health
			for _, r := range list {
				r.mu.Lock()
				healths = append(healths, &r.health)
			}
			j.Judge(healths, time.Microsecond, now)
			over := true
			for _, r := range list {
				r.settleLocked()
				over = over && r.inFlight.Load() == 0 && e.gate.Waiting() == 0
				r.mu.Unlock()
			}
			if now.Sub(e.g.epoch) > time.Hour && over {
				return
			}
		}
	}()
	crowd.Wait()
	<-done
	sum := 0
	for _, r := range list {
		r.mu.Lock()
		r.health = balance.Health{}
		r.settleLocked()
		sum += int(r.held.Load())
		r.mu.Unlock()
	}
	if sum != places*len(list) || e.gate.Free() != sum {
		t.Errorf("%d places held and %d free, want %d", sum, e.gate.Free(), places*len(list))
	}
}

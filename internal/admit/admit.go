// Package admit lets requests in up to a capacity that may change while they
// wait. It is the thin locking shell around [queue.Queue], which decides who is
// next; gateway and agent share it.
//
// It does not know what a place is good for, and never throws out who is in.
package admit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/internal/queue"
	"loadline.dev/loadline/serving"
)

// A Place is one request's claim. Its owner sets Arrived, Deadline and Bytes
// before each Enter and keeps it for the next request afterwards: then entering
// allocates nothing.
type Place struct {
	queue.Place

	turn  chan struct{} // one token: the wait is over
	timer *time.Timer
	err   error // why it is over, when not by admission
}

// A Gate admits as many as it was granted places for; whoever leaves grants
// one again. While nobody waits, entering is one atomic operation.
type Gate struct {
	// Waits is called, if set, after somebody began to wait. It must not block.
	Waits func()

	// Service says, if set, how long requests take once they have a place, on
	// average and nearly all of them; the queue judges by it who could still be
	// answered in time. It must not block.
	Service func() (mean, tail time.Duration)

	free    atomic.Int64 // below zero while a withdrawn place is still in use
	waiting atomic.Int64 // how many are in queue, or are just being chosen

	mu      sync.Mutex
	queue   queue.Queue
	refusal error // for whoever would have to wait
}

// New returns a gate without any places.
func New(p queue.Policy) *Gate { return &Gate{queue: queue.Queue{Policy: p}} }

// Waiting is how many wait.
func (g *Gate) Waiting() int { return int(g.waiting.Load()) }

// Free is how many could enter now.
func (g *Gate) Free() int { return max(0, int(g.free.Load())) }

// Oldest is when the one who has waited longest arrived; zero when nobody waits.
func (g *Gate) Oldest() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue.Oldest()
}

// Expect is how long those who wait now need to be gone, by the pace at which
// places have come free; zero is unknown.
func (g *Gate) Expect() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue.Wait()
}

// Enter takes a place, waiting for one if it must. It fails with
// [serving.Busy] when the queue is full or could not serve it in time, with [serving.TimedOut] at the
// deadline of p, with the reason given to [Gate.Refuse], and with ctx.
func (g *Gate) Enter(ctx context.Context, p *Place) error {
	if g.take() {
		return nil
	}
	return g.wait(ctx, p, (*queue.Queue).Push)
}

// Again is Enter for one whose place came to nothing: it goes ahead of those
// who came after it. The place is not granted back.
func (g *Gate) Again(ctx context.Context, p *Place) error {
	return g.wait(ctx, p, (*queue.Queue).Return)
}

// take is the whole of Enter while nobody waits.
func (g *Gate) take() bool {
	for {
		n := g.free.Load()
		if n <= 0 || g.waiting.Load() > 0 {
			return false
		}
		if g.free.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (g *Gate) wait(ctx context.Context, p *Place, enter func(*queue.Queue, *queue.Place, time.Time) error) error {
	if p.turn == nil {
		p.turn = make(chan struct{}, 1)
	}
	p.Owner, p.err = p, nil
	now := time.Now()
	if p.Arrived.IsZero() {
		p.Arrived = now
	}
	g.mu.Lock()
	if g.Service != nil {
		g.queue.Service, g.queue.Tail = g.Service()
	}
	err := g.refusal
	if err == nil {
		err = enter(&g.queue, &p.Place, now)
	}
	if err == nil {
		// Counted before the free places are looked at: a grant does it the other
		// way round, so one of the two sees the other.
		g.waiting.Store(int64(g.queue.Len()))
		g.dispatchLocked(now)
	}
	g.shedLocked(now)
	waits := p.Waiting()
	g.mu.Unlock()
	if err != nil {
		return err
	}
	if !waits {
		<-p.turn
		return p.err
	}
	if g.Waits != nil {
		g.Waits()
	}
	return g.sit(ctx, p, now)
}

// sit waits for the turn of p, its deadline, or ctx.
func (g *Gate) sit(ctx context.Context, p *Place, now time.Time) error {
	var late <-chan time.Time
	if !p.Deadline.IsZero() {
		if p.timer == nil {
			p.timer = time.NewTimer(p.Deadline.Sub(now))
		} else {
			p.timer.Reset(p.Deadline.Sub(now))
		}
		defer p.timer.Stop()
		late = p.timer.C
	}
	select {
	case <-p.turn:
		return p.err
	case <-late:
		return g.giveUp(p, serving.TimedOut)
	case <-ctx.Done():
		return g.giveUp(p, ctx.Err())
	}
}

// giveUp withdraws p. If it was admitted in the same instant, its place passes
// to the next rather than being lost.
func (g *Gate) giveUp(p *Place, why error) error {
	g.mu.Lock()
	g.queue.Remove(&p.Place)
	g.waiting.Store(int64(g.queue.Len()))
	g.mu.Unlock()
	select {
	case <-p.turn:
		if p.err == nil {
			g.Grant(1)
		}
	default:
	}
	return why
}

// Grant adds n places, or takes places away when n is negative: then whoever
// is in stays, and as many who leave make no room.
func (g *Gate) Grant(n int) {
	g.free.Add(int64(n))
	if n > 0 && g.waiting.Load() > 0 {
		g.mu.Lock()
		now := time.Now()
		g.dispatchLocked(now)
		g.shedLocked(now)
		g.mu.Unlock()
	}
}

// dispatchLocked gives free places to those who wait. It requires g.mu.
func (g *Gate) dispatchLocked(now time.Time) {
	for g.queue.Len() > 0 && g.takeForWaiter() {
		next := g.queue.Pop(now)
		if next == nil { // all who were left had passed their deadlines
			g.free.Add(1)
			break
		}
		next.Owner.(*Place).turn <- struct{}{}
	}
	g.waiting.Store(int64(g.queue.Len()))
}

// shedLocked turns away those who wait in vain. It requires g.mu.
func (g *Gate) shedLocked(now time.Time) {
	for p := g.queue.Refused(now); p != nil; p = g.queue.Refused(now) {
		place := p.Owner.(*Place)
		place.err = serving.Busy
		place.turn <- struct{}{}
	}
	g.waiting.Store(int64(g.queue.Len()))
}

// takeForWaiter is take, but for somebody who waited for it.
func (g *Gate) takeForWaiter() bool {
	for {
		n := g.free.Load()
		if n <= 0 {
			return false
		}
		if g.free.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// Refuse turns away with why all who wait and, until it is called with nil,
// all who would have to.
func (g *Gate) Refuse(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusal = why
	if why == nil {
		return
	}
	now := time.Now()
	for p := g.queue.Pop(now); p != nil; p = g.queue.Pop(now) {
		place := p.Owner.(*Place)
		place.err = why
		place.turn <- struct{}{}
	}
	g.waiting.Store(0)
}

// SetPolicy changes what the queue holds and its order, for those in it too.
func (g *Gate) SetPolicy(p queue.Policy) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue.Policy = p
}

package gateway

import (
	"context"
	"time"
)

// drainPause is how long idle connections stay open once a drain began: a
// client may just be sending on one, and gets its answer, with a
// "Connection: close" on it.
const drainPause = 500 * time.Millisecond

// Drain takes no new connections, finishes what is in flight and waits until
// every connection has ended, or for ctx. Then it closes what is left.
func (g *Gateway) Drain(ctx context.Context) error { return g.DrainAfter(ctx, drainPause) }

// DrainAfter is Drain with another pause: who has time leaves clients more of it
// to send once more, and to be told then.
func (g *Gateway) DrainAfter(ctx context.Context, pause time.Duration) error {
	g.draining.Store(true)
	g.leave.Do(func() { close(g.leaving) })
	g.mu.Lock()
	for l := range g.listeners {
		l.Close()
	}
	g.mu.Unlock()
	started := g.now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	pausing := true
	for {
		if pausing && g.now()-started > int64(pause) {
			pausing = false
			g.front.goAway()
		}
		if g.endIdle(!pausing) == 0 {
			return g.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.Close()
			return ctx.Err()
		}
	}
}

// endIdle ends idle connections if it may, and counts those that are left.
func (g *Gateway) endIdle(may bool) int {
	crowd := g.crowd()
	for _, c := range crowd {
		if may {
			c.endIdle()
		}
	}
	return len(crowd)
}

// Linked reports whether every replica that was published is connected.
func (g *Gateway) Linked() bool {
	for ep := range g.table.Load().All {
		for _, e := range ep.entities {
			for _, r := range *e.replicas.Load() {
				if r.conn.Load() == nil {
					return false
				}
			}
		}
	}
	return true
}

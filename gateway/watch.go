package gateway

import "time"

// How often the watch looks. A client that leaves must be noticed within
// 100 ms while its answer is awaited; patience is measured in seconds.
const (
	lookBusy  = 40 * time.Millisecond
	lookQuiet = 250 * time.Millisecond
	noticed   = 20 * time.Millisecond // answers younger than this are not worth a look
)

// watch looks at all connections now and then: for clients that took too long,
// for requests past their deadline, and for clients that have left while their
// answer is awaited. So none of these costs a request a timer or a system call.
func (g *Gateway) watch() {
	timer := time.NewTimer(lookBusy)
	defer timer.Stop()
	slow := time.Duration(0)
	for {
		select {
		case <-g.closing:
			return
		case <-timer.C:
		}
		g.look()
		pause := lookBusy
		if g.busy.Load() == 0 {
			pause = lookBusy + slow
			slow = min(2*slow+lookBusy/4, lookQuiet-lookBusy)
		} else {
			slow = 0
		}
		timer.Reset(pause)
	}
}

func (g *Gateway) look() {
	now := g.now()
	for _, c := range g.crowd() {
		c.look(now)
	}
	if g.wanting.Load() {
		g.unwant()
	}
}

// unwant tells agents that nobody waits any more.
func (g *Gateway) unwant() {
	still := false
	for ep := range g.table.Load().All {
		for _, e := range ep.entities {
			if e.wanting.Load() && e.gate.Waiting() == 0 {
				e.wanting.Store(false)
				if e.gate.Waiting() > 0 {
					e.wanting.Store(true) // somebody came in between
				}
				e.want()
			}
			still = still || e.wanting.Load()
		}
	}
	g.wanting.Store(still)
}

func (c *conn) look(now int64) {
	if d := c.deadline.Load(); d != 0 && now >= d {
		c.interrupt(overdue, d)
	}
	if since := c.awaiting.Load(); since != 0 && now-since > int64(noticed) && hasLeft(c.raw) {
		c.interrupt(left, 0)
	}
	past := time.Unix(1, 0)
	if u := c.readUntil.Load(); u != 0 && now >= u {
		c.sock.SetReadDeadline(past)
	}
	if u := c.writeUntil.Load(); u != 0 && now >= u {
		c.sock.SetWriteDeadline(past)
	}
}

package gateway

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/gateway/balance"
	"loadline.dev/loadline/link"
)

// This file is about the other gateways before the same replicas. Where an
// entity has few places for all of them, many queues before these would each
// know only their part; so such an entity, while it is quiet, has a home, and
// the others pass its requests on to that. Whoever gets a passed request serves
// it, so gateways that disagree for a moment do no harm.

const (
	// fewPlaces is how many places there are for each gateway up to which an
	// entity has a home. Beyond, some are idle at each gateway most of the time
	// below full load, and a queue of its own costs little.
	fewPlaces = 4

	// quietRate is how many requests a second one gateway may get of an entity
	// that has a home. Passing a request costs some tens of microseconds of
	// processor time; beyond, the home would become a bottleneck.
	quietRate = 1000

	asideEvery = 500 * time.Millisecond // how often it is looked who is at home where
)

// A Peer is a gateway before the same replicas.
type Peer struct {
	ID   string
	Addr string // what [Config.DialPeer] dials
}

// A company is all gateways, this one among them. It never changes.
type company struct {
	ids   []string
	peers map[string]*peer // the others
}

// A peer is another gateway: a connection that is dialled again as long as it
// is in the company.
type peer struct {
	Peer
	g    *Gateway
	conn atomic.Pointer[link.Conn]
	ctx  context.Context
	stop context.CancelFunc
}

// Join says which gateways there are now, this one being self.
func (g *Gateway) Join(self string, all []Peer) {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	if g.closed() || g.DialPeer == nil {
		return
	}
	old, next := g.company.Load(), &company{peers: map[string]*peer{}}
	for _, p := range all {
		next.ids = append(next.ids, p.ID)
		if p.ID == self {
			continue
		}
		if old != nil && old.peers[p.ID] != nil && old.peers[p.ID].Addr == p.Addr {
			next.peers[p.ID] = old.peers[p.ID]
			continue
		}
		next.peers[p.ID] = g.meet(p)
	}
	if !slices.Contains(next.ids, self) {
		next.ids = nil // it leaves, or is not known yet: nobody's home is asked for
	}
	g.company.Store(next)
	if old == nil {
		g.running.Go(g.keepAside)
		return
	}
	for id, p := range old.peers {
		if next.peers[id] != p {
			p.stop()
		}
	}
}

func (g *Gateway) meet(who Peer) *peer {
	p := &peer{Peer: who, g: g}
	p.ctx, p.stop = context.WithCancel(context.Background())
	g.running.Go(func() {
		defer p.stop()
		pause := redialFirst
		for p.ctx.Err() == nil && !g.closed() {
			began := time.Now()
			if err := p.connect(); err != nil {
				g.Log.Debug("no link to a gateway", "gateway", who.ID, "why", err)
			}
			if time.Since(began) > time.Second {
				pause = redialFirst
			}
			select {
			case <-p.ctx.Done():
			case <-g.closing:
			case <-time.After(pause):
				pause = min(2*pause, redialLast)
			}
		}
	})
	return p
}

// connect dials and stays until the connection is over, or not wanted any more
// and unused.
func (p *peer) connect() error {
	dialling, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	nc, err := p.g.DialPeer(dialling, p.Addr, p.ID)
	if err != nil {
		return err
	}
	drained := make(chan struct{})
	conn, err := link.NewConn(dialling, nc, link.Hooks{Relay: true, Draining: func() { close(drained) }})
	if err != nil {
		return err
	}
	p.conn.Store(conn)
	defer p.conn.Store(nil)
	select {
	case <-conn.Done():
		return nil
	case <-drained:
		p.conn.Store(nil) // nothing new; what is there ends by itself
		<-conn.Done()
		return nil
	case <-p.ctx.Done(): // it left: what was passed to it is finished by it
		p.conn.Store(nil)
		select {
		case <-conn.Done():
		case <-p.g.closing:
		case <-time.After(p.g.Timeout):
		}
	case <-p.g.closing:
	}
	conn.Close()
	<-conn.Done()
	return nil
}

// home is the other gateway that e lives at, or nil: it lives here, it has none,
// or its home cannot be reached.
func (e *entity) home() *peer {
	c := e.g.company.Load()
	if c == nil || len(c.ids) < 2 || e.g.draining.Load() || !e.few(len(c.ids)) {
		return nil
	}
	p := c.peers[balance.Home(e.key, c.ids)]
	if p == nil || p.conn.Load() == nil {
		return nil
	}
	return p
}

// few says whether e has so few places that gateways should not each have a
// queue for them.
func (e *entity) few(gateways int) bool {
	list, places := *e.replicas.Load(), 0
	for _, r := range list {
		places += max(1, int(r.line.Load()))
		if places > fewPlaces*gateways {
			return false
		}
	}
	return true
}

// keepAside tells the replicas of entities that live elsewhere that this
// gateway goes without idle places.
func (g *Gateway) keepAside() {
	tick := time.NewTicker(asideEvery)
	defer tick.Stop()
	for {
		select {
		case <-g.closing:
			return
		case <-tick.C:
		}
		for ep := range g.table.Load().All {
			for _, e := range ep.entities {
				e.standAside()
			}
		}
	}
}

func (e *entity) standAside() {
	is := e.home() != nil && !e.flow.busy(e.g.now())
	for _, r := range *e.replicas.Load() {
		if conn := r.conn.Load(); conn != nil {
			conn.Aside(is)
		}
	}
}

// A flow counts requests by the second.
type flow struct {
	second      atomic.Int64
	count, last atomic.Int64 // of this second, and of the one before
}

// arrive counts one, and reports whether there are too many for a home.
func (f *flow) arrive(now int64) bool {
	f.turn(now)
	return max(f.count.Add(1), f.last.Load()) > quietRate
}

func (f *flow) busy(now int64) bool {
	f.turn(now)
	return max(f.count.Load(), f.last.Load()) > quietRate
}

func (f *flow) turn(now int64) {
	second := now / int64(time.Second)
	was := f.second.Load()
	if was == second || !f.second.CompareAndSwap(was, second) {
		return
	}
	n := f.count.Swap(0)
	if second-was > 1 {
		n = 0
	}
	f.last.Store(n)
}

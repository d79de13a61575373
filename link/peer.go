package link

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A peer is the agent's end of a connection to one gateway.
type peer struct {
	server *Server
	nc     net.Conn
	out    *sender
	heard  atomic.Bool

	holder   holder // guarded by server.mu
	reported bool   // since the last beat; guarded by server.mu

	mu      sync.Mutex
	streams map[uint32]*Incoming // nil when the connection is over
	free    []*Incoming          // carry nothing
}

func newPeer(s *Server, nc net.Conn) *peer {
	p := &peer{server: s, nc: nc, out: newSender(nc), streams: map[uint32]*Incoming{}}
	p.holder.peer = p
	return p
}

// serve handles frames until the connection ends. Its requests are cancelled then.
func (p *peer) serve(in *reader) error {
	quit := make(chan struct{})
	var tending sync.WaitGroup
	tending.Go(func() { p.tend(quit) })
	err := in.each(func(h header, payload []byte) error {
		p.heard.Store(true)
		return p.handle(h, payload)
	})
	if cause := p.out.failed(); cause != nil {
		err = cause
	}
	close(quit)
	p.nc.Close()
	p.out.stop(net.ErrClosed)
	tending.Wait()
	p.mu.Lock()
	left, free := p.streams, p.free
	p.streams, p.free = nil, nil
	p.mu.Unlock()
	for _, in := range free {
		close(in.turn)
	}
	for id, s := range left {
		s.end(id, &BrokenError{Taken: true, Why: "the gateway is gone"})
		s.life.end(ErrCancelled)
	}
	p.server.part(p)
	return err
}

func (p *peer) handle(h header, payload []byte) error {
	switch h.kind {
	case kindOpen:
		return p.open(h, payload)
	case kindData, kindWindow, kindCancel:
		if s := p.stream(h.stream); s != nil {
			return s.handle(h, payload)
		}
		return nil // answered here; the gateway does not know yet
	case kindWant:
		var n int
		if err := parseNumbers(payload, &n); err != nil {
			return err
		}
		p.server.want(p, n)
	case kindLine:
		var n int
		if err := parseNumbers(payload, &n); err != nil {
			return err
		}
		if p.server.Lined != nil && n > 0 {
			p.server.Lined(n)
		}
	case kindAside:
		var n int
		if err := parseNumbers(payload, &n); err != nil {
			return err
		}
		p.server.aside(p, n > 0)
	case kindReturn:
		var asked, given int
		if err := parseNumbers(payload, &asked, &given); err != nil {
			return err
		}
		return p.server.give(p, asked, given)
	case kindPing:
		var n int
		if err := parseNumbers(payload, &n); err != nil {
			return err
		}
		p.out.commit(appendNumbers(p.out.begin(), kindPong, 0, uint64(n)), true)
	default:
		if h.kind < optional {
			return malformed("kind %d", h.kind)
		}
	}
	return nil
}

func (p *peer) stream(id uint32) *Incoming {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.streams[id]
}

func (p *peer) forget(id uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, id)
	p.out.others.Store(int32(len(p.streams))) // whose answers may be about to go
}

func (p *peer) open(h header, payload []byte) error {
	s := p.vacant()
	body, err := parseRequest(payload, &s.Request, &s.head)
	switch {
	case err != nil:
	case h.stream == 0:
		err = malformed("a request on stream 0")
	case p.stream(h.stream) != nil:
		err = malformed("a request on a stream that is open")
	case p.server.enter(p):
		s.begin(h, body)
		return nil
	default:
		p.out.commit(appendWhy(p.out.begin(), kindRefuse, 0, h.stream, "no place is granted"), true)
	}
	p.mu.Lock()
	p.free = append(p.free, s)
	p.mu.Unlock()
	return err
}

// begin hands the request to the goroutine of in.
func (in *Incoming) begin(h header, body []byte) {
	in.reset(h.stream)
	in.replied, in.over = false, false
	in.deliver(h.stream, body, h.flags&flagEnd != 0)
	p := in.peer
	in.life.begin(p.server.limit(in.Timeout))
	p.mu.Lock()
	p.streams[h.stream] = in
	p.out.others.Store(int32(len(p.streams) - 1))
	p.mu.Unlock()
	in.turn <- struct{}{}
}

// vacant returns one that carries nothing.
func (p *peer) vacant() *Incoming {
	p.mu.Lock()
	n := len(p.free)
	if n == 0 {
		p.mu.Unlock()
		return newIncoming(p)
	}
	defer p.mu.Unlock()
	in := p.free[n-1]
	p.free[n-1] = nil
	p.free = p.free[:n-1]
	return in
}

// maxVacant bounds how many are kept with each connection.
const maxVacant = 256

// keep takes in back for another request, if it can.
func (p *peer) keep(in *Incoming) bool {
	if !in.clean() {
		return false
	}
	if cap(in.head) > 8<<10 {
		in.head = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == nil || len(p.free) >= maxVacant {
		return false
	}
	p.free = append(p.free, in)
	return true
}

// tend reports the load, and ends a connection whose gateway is silent or does
// not read.
func (p *peer) tend(quit <-chan struct{}) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var w watch
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
		}
		if err := w.look(p.heard.Swap(false), absentEnd, p.out); err != nil {
			hangUp(p.nc)
			return
		}
		p.server.beat(p)
	}
}

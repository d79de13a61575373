package link

import (
	"context"
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
	streams map[uint32]*Incoming
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
	left := p.streams
	p.streams = nil
	p.mu.Unlock()
	for id, s := range left {
		s.end(id, &BrokenError{Taken: true, Why: "the gateway is gone"})
		s.cancel(ErrCancelled)
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
	p.out.inside.Store(int32(len(p.streams)))
}

func (p *peer) open(h header, payload []byte) error {
	s := &Incoming{peer: p}
	body, err := parseRequest(payload, &s.Request)
	switch {
	case err != nil:
		return err
	case h.stream == 0:
		return malformed("a request on stream 0")
	case p.stream(h.stream) != nil:
		return malformed("a request on a stream that is open")
	case !p.server.enter(p):
		p.out.commit(appendWhy(p.out.begin(), kindRefuse, 0, h.stream, "no place is granted"), true)
		return nil
	}
	s.init(p.out)
	s.reset(h.stream)
	s.deliver(h.stream, body, h.flags&flagEnd != 0)
	ctx := s.context(p.server.base)
	p.mu.Lock()
	p.streams[h.stream] = s
	p.out.inside.Store(int32(len(p.streams)))
	p.mu.Unlock()
	go func() {
		defer p.server.leave(p)
		defer s.cancel(nil)
		defer s.conclude()
		p.server.handler(ctx, s)
	}()
	return nil
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

// context is what the handler of in gets.
func (in *Incoming) context(base context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(base)
	in.cancel = cancel
	if in.Timeout > 0 {
		timed, stop := context.WithTimeout(ctx, in.Timeout)
		in.cancel = func(cause error) { cancel(cause); stop() }
		return timed
	}
	return ctx
}

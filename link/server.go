package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// A Handler carries one request. Its context ends when the client leaves, at
// the request's deadline, and when the connection breaks; it is not to be used
// after the handler's return, nor is what was derived from it. Its return frees
// the place; an answer it has not begun by then is a broken one.
type Handler func(ctx context.Context, in *Incoming)

// A Server is the agent's end: it owns the load line and takes requests from
// any number of connections.
type Server struct {
	// Admit refuses a connection with an error; nil admits all. It is set
	// before Serve.
	Admit func(net.Conn) error

	// Limit bounds how long a request may take, whatever it says itself; zero
	// does not. It is set before Serve.
	Limit time.Duration

	// Lined is called with the load line that a gateway asks for; nil ignores it.
	// It is set before Serve, must be quick, and may call SetLine.
	Lined func(n int)

	handler Handler
	report  func(*Load)

	closing  chan struct{}
	handlers sync.WaitGroup
	serving  sync.WaitGroup // connections and listeners

	mu        sync.Mutex
	places    places
	peers     map[*peer]struct{}
	open      map[net.Conn]struct{} // peers and those not yet greeted
	listeners map[net.Listener]struct{}
	carriers  map[*Incoming]struct{} // with or without a request
	dirty     []*peer                // whose queue holds something to be flushed; see unlock
	sequence  uint64
	load      Load // scratch for a report
	draining  bool
	settled   bool          // draining, and nothing is inside
	idle      chan struct{} // closed once settled
	parted    chan struct{} // a peer has left; holds one
	closed    bool
}

// NewServer makes a server with a load line of zero: it grants no places until
// [Server.SetLine]. report fills in what the server does not know of the load;
// it may be nil, must be quick and must not call the server.
func NewServer(h Handler, report func(*Load)) *Server {
	s := &Server{handler: h, report: report, peers: map[*peer]struct{}{}, open: map[net.Conn]struct{}{},
		listeners: map[net.Listener]struct{}{}, carriers: map[*Incoming]struct{}{}, closing: make(chan struct{}), idle: make(chan struct{}), parted: make(chan struct{}, 1)}
	return s
}

// Serve takes connections until the listener fails or the server is closed; it
// returns nil for the latter. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.serving.Add(1)
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer s.serving.Done()
	for {
		nc, err := l.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
			select {
			case <-time.After(50 * time.Millisecond): // others may close theirs
			case <-s.closing:
			}
			continue
		}
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if delete(s.listeners, l); s.closed {
				return nil
			}
			return err
		}
		go func() { _ = s.ServeConn(nc) }()
	}
}

// ServeConn speaks the agent's side on nc until it ends, and closes it.
func (s *Server) ServeConn(nc net.Conn) error {
	defer nc.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.serving.Add(1)
	s.open[nc] = struct{}{}
	s.mu.Unlock()
	defer s.serving.Done()
	defer func() {
		s.mu.Lock()
		delete(s.open, nc)
		s.mu.Unlock()
	}()
	if s.Admit != nil {
		if err := s.Admit(nc); err != nil {
			return err
		}
	}
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	in := newReader(nc)
	h, payload, err := in.next()
	if err == nil {
		err = checkHello(h, payload)
	}
	if err != nil {
		return err
	}
	nc.SetDeadline(time.Time{})
	mine := own(nc)
	if mine != nc {
		defer mine.Close()
		s.mu.Lock()
		delete(s.open, nc)
		s.open[mine] = struct{}{}
		if nc = mine; s.closed {
			hangUp(nc)
		}
		s.mu.Unlock()
	}
	in.src = nc
	p := newPeer(s, nc)
	s.join(p)
	return p.serve(in)
}

// join greets p, lets it share the places and tells it how the agent does.
func (s *Server) join(p *peer) {
	s.mu.Lock()
	defer s.unlock()
	s.peers[p] = struct{}{}
	queue := appendHello(p.out.begin())
	if s.draining {
		queue = appendNumbers(queue, kindDrain, 0)
	}
	p.out.commit(queue, false)
	s.reportLocked(p)
	s.places.holders = append(s.places.holders, &p.holder)
	s.divideLocked()
}

// part forgets p, whose connection is over.
func (s *Server) part(p *peer) {
	s.mu.Lock()
	defer s.unlock()
	delete(s.peers, p)
	select {
	case s.parted <- struct{}{}:
	default:
	}
	s.places.part(&p.holder)
	s.divideLocked()
}

// unlock releases the lock and then flushes what was queued under it: nobody
// waits for a slow gateway with the lock held.
func (s *Server) unlock() {
	var few [4]*peer
	dirty := append(few[:0], s.dirty...)
	s.dirty = s.dirty[:0]
	s.mu.Unlock()
	for i, p := range dirty {
		if i == 0 || dirty[i-1] != p {
			p.out.flush()
		}
	}
}

// divideLocked tells the connections what a new division of places changes.
func (s *Server) divideLocked() {
	for _, m := range s.places.divide() {
		p := m.to.peer
		queue := p.out.begin()
		if m.grant > 0 {
			queue = appendNumbers(queue, kindGrant, 0, uint64(m.grant))
		}
		if m.recall > 0 {
			queue = appendNumbers(queue, kindRecall, 0, uint64(m.recall))
		}
		p.out.commit(queue, false)
		s.dirty = append(s.dirty, p)
	}
}

// reportLocked queues a load report for p.
func (s *Server) reportLocked(p *peer) {
	s.sequence++
	s.load = Load{Sequence: s.sequence, InFlight: s.places.inside(), Line: s.places.line}
	if s.report != nil {
		s.report(&s.load)
	}
	p.out.commit(appendLoad(p.out.begin(), &s.load), false)
	p.reported = true
	s.dirty = append(s.dirty, p)
}

// SetLine sets the load line. A lower one turns nobody out: granted places are
// asked back, requests inside end in their own time.
func (s *Server) SetLine(n int) {
	s.mu.Lock()
	defer s.unlock()
	if !s.draining {
		s.places.line = max(0, n)
		s.divideLocked()
	}
}

// Announce reports the load to every connection now.
func (s *Server) Announce() {
	s.mu.Lock()
	defer s.unlock()
	for p := range s.peers {
		s.reportLocked(p)
	}
}

// InFlight is how many requests hold a place.
func (s *Server) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.places.inside()
}

// Drain takes nothing new from now on, says so to every gateway, and waits
// until what is inside has ended and the gateways have left, or for ctx. It
// cannot be undone.
func (s *Server) Drain(ctx context.Context) error {
	s.drain()
	select {
	case <-s.idle:
		return s.seeOff(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// farewell is how long a gateway may take to leave an agent that drains.
const farewell = 2 * time.Second

// seeOff waits for the gateways to leave. A request may have been on its way
// when its gateway was told of the drain: it has to be refused, so that it is
// sent elsewhere; a connection that only breaks would leave its fate unknown.
func (s *Server) seeOff(ctx context.Context) error {
	late := time.NewTimer(farewell)
	defer late.Stop()
	for {
		s.mu.Lock()
		left := len(s.peers)
		s.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-s.parted:
		case <-late.C:
			return nil // it speaks, but has nothing to send
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) drain() {
	s.mu.Lock()
	defer s.unlock()
	if s.draining {
		return
	}
	s.draining = true
	s.places.void()
	for p := range s.peers {
		p.out.commit(appendNumbers(p.out.begin(), kindDrain, 0), false)
		s.reportLocked(p)
	}
	s.settleLocked()
}

// settleLocked notices that a draining server has nothing left inside.
func (s *Server) settleLocked() {
	if s.draining && !s.settled && s.places.inside() == 0 {
		s.settled = true
		close(s.idle)
	}
}

// Close ends all connections and the contexts of their requests, and waits for
// the handlers.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	for l := range s.listeners {
		l.Close()
	}
	for nc := range s.open {
		hangUp(nc)
	}
	for in := range s.carriers {
		in.life.end(context.Canceled)
	}
	s.mu.Unlock()
	s.serving.Wait()
	s.handlers.Wait()
	return nil
}

// take keeps in mind who may carry requests, until drop.
func (s *Server) take(in *Incoming) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.carriers[in] = struct{}{}
}

func (s *Server) drop(in *Incoming) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.carriers, in)
}

// limit is how long a request may take that asks for timeout; zero is for ever.
func (s *Server) limit(timeout time.Duration) time.Duration {
	if timeout <= 0 || s.Limit > 0 && timeout > s.Limit {
		return s.Limit
	}
	return timeout
}

// enter spends the place of a request that p sent; false means that it must be
// refused. From then on leave is owed.
func (s *Server) enter(p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || !s.places.open(&p.holder) {
		return false
	}
	s.handlers.Add(1)
	return true
}

// leave frees the place of a request of p. The end of the answer, if it is
// still queued, the load and the next grant go out in one write.
func (s *Server) leave(p *peer) {
	defer s.handlers.Done()
	s.mu.Lock()
	defer s.unlock()
	s.places.leave(&p.holder)
	s.reportLocked(p)
	s.divideLocked()
	s.settleLocked()
}

func (s *Server) want(p *peer, n int) {
	s.mu.Lock()
	defer s.unlock()
	if !s.draining {
		p.holder.want = n
		s.divideLocked()
	}
}

func (s *Server) aside(p *peer, is bool) {
	s.mu.Lock()
	defer s.unlock()
	if p.holder.aside = is; !s.draining {
		s.divideLocked()
	}
}

func (s *Server) give(p *peer, asked, given int) error {
	s.mu.Lock()
	defer s.unlock()
	if s.draining {
		return nil // all places are void
	}
	if !s.places.give(&p.holder, asked, given) {
		return errors.New("places given back that were not asked for")
	}
	s.divideLocked()
	return nil
}

// beat reports to p unless an answer did since the last beat.
func (s *Server) beat(p *peer) {
	s.mu.Lock()
	defer s.unlock()
	if !p.reported {
		s.reportLocked(p)
	}
	p.reported = false
}

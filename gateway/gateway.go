// Package gateway carries requests from clients to replicas and the answers
// back. It speaks strict HTTP/1.1 on sockets of its own, asks who is there,
// holds requests until a replica has a place for them, and streams both ways.
// What is not data plane it hands to an ordinary [http.Handler].
//
// It decides little: gateway/route knows which entity is meant, gateway/balance
// which replica is best, internal/queue who is next, gateway/http1 what is a
// request at all. It does not start replicas, does not know what bodies mean,
// and keeps no record of who may do what.
//
// One goroutine serves one client connection. It reads, executes and writes in
// turn, so a client that does not read its answers is not executed any further.
package gateway

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/gateway/route"
	"loadline.dev/loadline/internal/queue"
)

// Config is what a gateway is made of. Zero values are the defaults told.
type Config struct {
	// Judge says who a caller is and whether it may come in. It is asked before
	// anything of the body is read. Nil lets everybody in as [auth.Anonymous].
	Judge func(*Caller) auth.Verdict

	// API answers whatever is not data plane. Nil answers 404.
	API http.Handler

	// Root is the endpoint that is answered at /invocations, /ping, /health and
	// /version too, as MLflow's own server does; empty is none.
	Root string

	MaxBody     int64         // bytes of a request body; 16 MiB
	Memory      int64         // bytes of request bodies held at once; 512 MiB
	Timeout     time.Duration // longest time from a request's head to the end of its answer; 297 s
	Connections int           // of clients, at once; 20,000
	Patience    Patience
	Queue       queue.Policy // of each entity

	// Dial opens a connection to a replica whose address is no path of a socket.
	// Both sides must have proven who they are when it returns. Nil knows paths only.
	Dial func(ctx context.Context, addr, replica string) (net.Conn, error)

	// DialPeer opens a connection to another gateway; see [Gateway.Join].
	DialPeer func(ctx context.Context, addr, gateway string) (net.Conn, error)

	// TLS is what clients are answered with that begin to speak it, over HTTP/1.1
	// or HTTP/2 as they like. Nil speaks plain HTTP/1.1 only.
	TLS *tls.Config

	// Clear lets other machines in without TLS although there is one. This machine
	// always may.
	Clear bool

	// Wake is told the endpoint's ID and the entity's name when somebody begins
	// to wait where there is no replica. It must not block; nil tells nobody.
	Wake func(id, entity string)

	Log     *slog.Logger
	Metrics prometheus.Registerer // nil registers nowhere
}

// Patience is how long a client may take. Zero values are the defaults told.
type Patience struct {
	Head  time.Duration // to send a head, once it has begun; 10 s
	Idle  time.Duration // between two requests; 2 min
	Body  time.Duration // to send a body, besides one second for each 16 KiB; 20 s
	Write time.Duration // to take 64 KiB of an answer; 30 s
}

func orElse[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	c.MaxBody = orElse(c.MaxBody, 16<<20)
	c.Memory = orElse(c.Memory, 512<<20)
	c.Timeout = orElse(c.Timeout, 297*time.Second)
	c.Connections = orElse(c.Connections, 20_000)
	c.Patience.Head = orElse(c.Patience.Head, 10*time.Second)
	c.Patience.Idle = orElse(c.Patience.Idle, 2*time.Minute)
	c.Patience.Body = orElse(c.Patience.Body, 20*time.Second)
	c.Patience.Write = orElse(c.Patience.Write, 30*time.Second)
	c.Queue.Objective = orElse(c.Queue.Objective, 200*time.Millisecond)
	c.Queue.Overtake = orElse(c.Queue.Overtake, 5*time.Second)
	c.Queue.Bytes = orElse(c.Queue.Bytes, 256<<20)
	c.TLS = withALPN(c.TLS)
	c.Log = orElse(c.Log, slog.New(slog.DiscardHandler))
	if c.API == nil {
		c.API = http.NotFoundHandler()
	}
	if c.Judge == nil {
		c.Judge = func(*Caller) auth.Verdict { return auth.Verdict{Caller: auth.Anonymous} }
	}
	return c
}

// A Gateway is made by [New] and published to by control.
type Gateway struct {
	Config
	epoch   time.Time // what now counts from
	table   atomic.Pointer[route.Table[*endpoint]]
	metrics *metrics
	memory  atomic.Int64 // bytes of bodies held
	inside  atomic.Int64 // requests to endpoints, from their heads to the end of their answers
	busy    atomic.Int64 // requests whose answer is awaited
	front   *front
	wanting atomic.Bool // some entity told agents that requests wait
	lines   logLimit
	dated   atomic.Pointer[dateText]
	company atomic.Pointer[company] // nil before Join
	leaving chan struct{}           // closed by Drain
	leave   sync.Once

	publishing sync.Mutex // guards changes of table and what hangs on it

	mu        sync.Mutex
	conns     map[*conn]struct{}
	streams   map[*conn]struct{} // of HTTP/2, each as if it had a connection of its own
	listeners map[net.Listener]struct{}
	draining  atomic.Bool
	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	running   sync.WaitGroup // connections, their watch, replicas' dialers
	watching  bool
}

// New returns a gateway that knows no endpoints yet. Close it when done.
func New(c Config) *Gateway {
	g := &Gateway{Config: c.withDefaults(), epoch: time.Now(), conns: map[*conn]struct{}{}, streams: map[*conn]struct{}{},
		listeners: map[net.Listener]struct{}{}, closing: make(chan struct{}), leaving: make(chan struct{})}
	g.table.Store(new(route.Table[*endpoint]))
	g.metrics = newMetrics(g)
	g.front = newFront(g)
	return g
}

// now is a reading of a clock that never goes back, in nanoseconds.
func (g *Gateway) now() int64 { return int64(time.Since(g.epoch)) }

// Ready reports whether new requests are welcome: false once Drain was called.
func (g *Gateway) Ready() bool { return !g.draining.Load() }

// Serve takes connections from l until ctx ends or the gateway drains; it
// returns nil then, and the listener's error otherwise. Connections under way
// go on. It may be called for several listeners.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if !g.listen(l) {
		return nil
	}
	defer g.unlisten(l)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			g.take(nc)
		case ctx.Err() != nil || g.draining.Load() || g.closed():
			return nil
		case isExhausted(err):
			// Out of descriptors: existing connections end, and then there are some.
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		default:
			return err
		}
	}
}

func (g *Gateway) listen(l net.Listener) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining.Load() || g.closed() {
		return false
	}
	g.listeners[l] = struct{}{}
	return true
}

func (g *Gateway) unlisten(l net.Listener) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.listeners, l)
}

func (g *Gateway) closed() bool {
	select {
	case <-g.closing:
		return true
	default:
		return false
	}
}

// take serves a new connection, or turns it away.
func (g *Gateway) take(nc net.Conn) {
	c := newConn(g, nc)
	g.mu.Lock()
	full := len(g.conns) >= g.Connections
	if full || g.closed() {
		g.mu.Unlock()
		g.metrics.crowded.Inc()
		nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
		nc.Close()
		return
	}
	g.conns[c] = struct{}{}
	g.running.Add(1)
	if !g.watching {
		g.watching = true
		g.running.Go(g.watch)
	}
	g.mu.Unlock()
	go func() {
		defer g.running.Done()
		c.serve()
		g.mu.Lock()
		delete(g.conns, c)
		g.mu.Unlock()
	}()
}

// crowd lists the connections, so that whoever goes through them may take
// longer with one than others should wait for the lock.
func (g *Gateway) crowd() []*conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*conn, 0, len(g.conns)+len(g.streams))
	for c := range g.conns {
		list = append(list, c)
	}
	for c := range g.streams {
		list = append(list, c)
	}
	return list
}

// Close ends everything at once and waits until it has ended.
func (g *Gateway) Close() error {
	g.closeOnce.Do(func() {
		g.mu.Lock()
		close(g.closing)
		for l := range g.listeners {
			l.Close()
		}
		g.mu.Unlock()
		for _, c := range g.crowd() {
			c.abort()
		}
		g.front.close()
		g.publishing.Lock()
		last := g.table.Swap(new(route.Table[*endpoint]))
		for e := range last.All {
			e.retire()
		}
		g.publishing.Unlock()
	})
	g.running.Wait()
	return nil
}

package gateway

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"loadline.dev/loadline/gateway/http1"
)

// What one HTTP/2 connection may have under way. The limits on frames, resets
// and the state of compression are net/http's own.
const (
	maxStreams  = 250
	sendPing    = 30 * time.Second // into silence
	awaitPing   = 15 * time.Second
	listOfHeads = 2 * http1.MaxHead // bytes of a header list; our parser measures what is below
)

// A front is net/http's HTTP/2 server, fed with connections on which h2 was
// agreed. It takes apart frames; each stream is then a request like any other.
type front struct {
	g      *Gateway
	server *http.Server
	conns  chan net.Conn
	start  sync.Once
	ended  chan struct{} // closed when no more connections are wanted
	end    sync.Once
}

func newFront(g *Gateway) *front {
	f := &front{g: g, conns: make(chan net.Conn), ended: make(chan struct{})}
	f.server = &http.Server{
		Handler: http.HandlerFunc(g.serveStream), ErrorLog: log.New(io.Discard, "", 0),
		MaxHeaderBytes: listOfHeads, IdleTimeout: g.Patience.Idle,
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: sendPing, PingTimeout: awaitPing, WriteByteTimeout: g.Patience.Write},
		ConnState: closed,
	}
	return f
}

// closed tells the goroutine that brought the connection.
func closed(nc net.Conn, state http.ConnState) {
	if state != http.StateClosed {
		return
	}
	if t, ok := nc.(*tls.Conn); ok {
		if r, ok := t.NetConn().(*replay); ok {
			close(r.over)
		}
	}
}

// carry serves HTTP/2 on a connection until over is closed.
func (f *front) carry(t *tls.Conn, over <-chan struct{}) {
	f.start.Do(func() {
		f.g.mu.Lock()
		defer f.g.mu.Unlock()
		if !f.g.closed() {
			f.g.running.Go(func() { _ = f.server.Serve(f) }) // its end is always ours
		}
	})
	select {
	case f.conns <- t:
		<-over
	case <-f.ended:
	}
}

// Accept implements [net.Listener].
func (f *front) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.ended:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (f *front) Close() error {
	f.end.Do(func() { close(f.ended) })
	return nil
}

// Addr implements [net.Listener].
func (f *front) Addr() net.Addr { return &net.UnixAddr{Name: "h2"} }

// goAway tells the clients of all connections to send nothing new on them; each
// ends after what is under way.
func (f *front) goAway() {
	f.Close()
	now, cancel := context.WithCancel(context.Background())
	cancel() // it is said, not waited for: Drain does the waiting
	_ = f.server.Shutdown(now)
}

func (f *front) close() {
	f.Close()
	_ = f.server.Close()
}

// serveStream carries out one request of an HTTP/2 connection, as if it had a
// connection of its own.
func (g *Gateway) serveStream(w http.ResponseWriter, r *http.Request) {
	c := newStream(g, w, r)
	if !g.enroll(c) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer g.dismiss(c)
	defer c.leave()
	defer context.AfterFunc(r.Context(), func() { c.interrupt(left, 0) })()
	started := time.Now()
	refusal := c.compose(r)
	if refusal == nil {
		var n int
		n, refusal = c.head.Read(c.in[:c.w])
		c.r, c.floor = n, n
	}
	if refusal != nil {
		c.refuse(refusal)
	} else {
		c.begin(started)
		c.dispatch(started)
		c.end()
	}
	if !c.stream2.close() {
		panic(http.ErrAbortHandler) // the reset tells the client that the answer is not whole
	}
}

func (g *Gateway) enroll(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed() {
		return false
	}
	g.streams[c] = struct{}{}
	g.running.Add(1)
	return true
}

func (g *Gateway) dismiss(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.streams, c)
	g.running.Done()
}

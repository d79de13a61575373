package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"loadline.dev/loadline/gateway/http1"
	"loadline.dev/loadline/gateway/limit"
	"loadline.dev/loadline/internal/admit"
	"loadline.dev/loadline/link"
)

const (
	firstBuffer = 4 << 10 // of a connection; it grows for large heads
	largeBuffer = http1.MaxHead + 4096
	wholeAnswer = 64 << 10 // answers up to this size are written at once, head and body
)

// A conn is one client connection. One goroutine reads, executes and writes.
type conn struct {
	g      *Gateway
	nc     net.Conn        // what requests are read from; only the serving goroutine uses it
	sock   net.Conn        // what is below it: for deadlines, from wherever
	raw    syscall.RawConn // nil where leaving cannot be seen
	fd     int             // of the socket while poll holds it, else -1
	remote string
	secure bool

	stream2 *stream2 // of HTTP/2; nil where requests are text

	in    []byte // what was read; in[r:w] is not consumed yet
	r, w  int
	floor int    // in[:floor] holds the head in use and must not be overwritten
	out   []byte // what is to be written
	ahead int    // requests executed in a row that were there before the answer to the one before
	spent bool   // after the last request that was executed none may follow

	head    http1.Head
	caller  Caller
	asked   request // of the data plane; not on the stack, which then stays at 4 KiB
	body    body
	answer  answer
	place   admit.Place
	guard   *guard    // of the endpoint that the request is for
	id      [128]byte // of the request
	idLen   int
	idOurs  bool // made here
	traced  trace
	fields  []link.Field // scratch for a request's head
	request link.Request // scratch

	left     []limit.State // of each rate of the endpoint
	leftText []byte        // scratch

	// ctx ends when the client has left, which ends the connection too.
	ctx   context.Context
	leave context.CancelFunc

	// What the watch looks at. Times are the gateway's; zero is none.
	readUntil  atomic.Int64
	writeUntil atomic.Int64
	deadline   atomic.Int64 // of the request
	awaiting   atomic.Int64 // since when the answer is awaited with the whole request read
	idle       atomic.Bool  // between two requests, nothing read
	halted     atomic.Bool  // reads end at once: an upload is being stopped

	mu     sync.Mutex
	stream *link.Stream // what interrupt cancels; nil when there is none
	cause  cause
}

// A cause is why a request was interrupted.
type cause uint8

const (
	undisturbed cause = iota
	left              // the client
	overdue           // the deadline passed
)

func newConn(g *Gateway, nc net.Conn) *conn {
	c := &conn{g: g, nc: nc, sock: nc, fd: -1, remote: nc.RemoteAddr().String()}
	if t, ok := nc.(*tls.Conn); ok {
		c.sock, c.secure = t.NetConn(), true
	}
	if s, ok := c.sock.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
		limitUnsent(c.raw)
	}
	c.ctx, c.leave = context.WithCancel(context.Background())
	c.borrow()
	return c
}

// serve reads and executes requests until the connection is of no more use.
func (c *conn) serve() {
	defer func() { c.nc.Close() }() // what it is by then
	defer c.leave()
	if c.g.TLS != nil && !c.secure && !c.greet() {
		return
	}
	for c.poll() && c.readHead() {
		if !c.execute() {
			c.spent = true
			break
		}
	}
	if c.spent {
		c.linger()
	}
}

// abort closes the connection under whoever uses it.
func (c *conn) abort() {
	c.leave()
	c.interrupt(left, 0)
	c.hangUp()
}

// endIdle closes the connection if it is between two requests.
func (c *conn) endIdle() {
	if c.idle.Load() {
		c.sock.SetReadDeadline(time.Unix(1, 0))
	}
}

// readHead reads the next head, and answers what is none.
func (c *conn) readHead() bool {
	c.head.Reset()
	c.floor = 0
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	began := false
	for {
		if c.w > c.r {
			n, refusal := c.head.Read(c.in[c.r:c.w])
			if refusal != nil {
				c.refuse(refusal)
				return false
			}
			if n > 0 {
				c.r += n
				c.floor = c.r
				c.readUntil.Store(0)
				return true
			}
		}
		if !began {
			began = c.w > c.r
			c.await(began)
		}
		if err := c.fill(); err != nil {
			return c.headFailed(err)
		}
	}
}

// await sets how long the next bytes of a head may take.
func (c *conn) await(began bool) {
	patience := c.g.Patience.Idle
	if began {
		patience = c.g.Patience.Head
	}
	c.idle.Store(!began)
	c.readUntil.Store(c.g.now() + int64(patience))
}

// headFailed decides what a client hears that sent no whole head.
func (c *conn) headFailed(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) && c.w > c.r {
		c.refuse(&http1.Refusal{Status: 408, Why: "the head did not arrive in time"})
	}
	return false
}

// fill reads more bytes behind what is there, making room if it must.
func (c *conn) fill() error {
	c.makeRoom()
	for {
		n, err := c.nc.Read(c.in[c.w:])
		c.w += n
		if c.idle.Load() && n > 0 {
			c.await(true)
		}
		if n > 0 {
			return nil
		}
		if err == nil {
			continue
		}
		if !c.early(err, &c.readUntil, c.sock.SetReadDeadline) {
			return err
		}
	}
}

// early reports whether err is a deadline that was meant for something else:
// the watch may have looked at the clock just before the connection moved on.
func (c *conn) early(err error, until *atomic.Int64, set func(time.Time) error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.ctx.Err() != nil || c.halted.Load() {
		return false
	}
	if c.idle.Load() && !c.g.Ready() {
		return false // endIdle
	}
	if u := until.Load(); u != 0 && c.g.now() >= u {
		return false
	}
	return set(time.Time{}) == nil
}

// firstBuffers are those that no connection reads into now. One that is idle holds
// none: ten thousand of them would be most of the gateway's memory.
var firstBuffers = sync.Pool{New: func() any { return new([firstBuffer]byte) }}

// borrow sees to it that there is a buffer to read into.
func (c *conn) borrow() {
	if c.in == nil {
		c.in = firstBuffers.Get().(*[firstBuffer]byte)[:]
		c.r, c.w, c.floor = 0, 0, 0
	}
}

// giveBack parts with an empty buffer until there is something to read. Only
// poll may, which borrows one again.
func (c *conn) giveBack() {
	if c.r == c.w && len(c.in) == firstBuffer {
		firstBuffers.Put((*[firstBuffer]byte)(c.in))
		c.in, c.r, c.w, c.floor = nil, 0, 0, 0
	}
}

// makeRoom makes sure that in has room behind w, without touching in[:floor].
func (c *conn) makeRoom() {
	if c.r == c.w && c.floor > 0 {
		c.r, c.w = c.floor, c.floor
	}
	if c.w < len(c.in) {
		return
	}
	unread := c.in[c.r:c.w]
	if c.floor == 0 && c.r > 0 {
		c.w = copy(c.in, unread) // nothing points into what is overwritten
		c.r = 0
		return
	}
	// The head in use keeps the old buffer alive as long as it needs it.
	size := min(2*len(c.in), largeBuffer)
	if len(unread) >= size {
		size = 2 * len(unread)
	}
	bigger := make([]byte, size)
	c.w = copy(bigger, unread)
	c.in, c.r, c.floor = bigger, 0, 0
}

// execute carries out the request whose head was read. It reports whether
// another may follow on this connection.
func (c *conn) execute() bool {
	started := time.Now()
	c.begin(started)
	keep := c.dispatch(started)
	c.end()
	// Behind a body that nobody wanted, there is no telling where a request begins.
	if !keep || c.answer.closing || !c.skip() {
		return false
	}
	if !c.inStep() {
		return false
	}
	if cap(c.out) > 2*firstBuffer {
		c.out = nil // an idle connection holds little
	}
	if len(c.in) > firstBuffer && c.r == c.w {
		c.in = nil
		c.borrow()
	}
	return true
}

func (c *conn) begin(started time.Time) {
	c.idle.Store(false)
	c.body.begin(&c.head)
	c.answer.begin()
	c.chooseID()
	c.traced.sampled = false // until the trace is known
	if c.head.Dropped > 0 {
		c.g.metrics.dropped.Add(float64(c.head.Dropped))
	}
	c.mu.Lock()
	c.cause = undisturbed
	c.mu.Unlock()
}

func (c *conn) end() {
	c.deadline.Store(0)
	c.awaiting.Store(0)
}

// interrupt ends what the request waits for. A deadline must still be the one
// that was seen to have passed.
func (c *conn) interrupt(why cause, deadline int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why == overdue && c.deadline.Load() != deadline {
		return
	}
	if c.cause == undisturbed {
		c.cause = why
	}
	if why == left {
		c.leave()
	}
	if c.stream != nil {
		c.stream.Cancel()
	}
}

// follow makes s what interrupt cancels; nil ends that. It returns why the
// request was interrupted before, if it was.
func (c *conn) follow(s *link.Stream) cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream = s
	if s != nil && c.cause != undisturbed {
		s.Cancel()
	}
	return c.cause
}

func (c *conn) interrupted() cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// lingerFor is how long bytes that nobody wants are still read, so that the
// answer is not lost to a reset.
const lingerFor = time.Second

// linger closes the connection's sending half, and throws away what the client
// is still sending until it has read the answer.
func (c *conn) linger() {
	if !c.body.unread() && c.r == c.w || c.ctx.Err() != nil {
		return
	}
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.readUntil.Store(0)
	c.sock.SetReadDeadline(time.Now().Add(lingerFor))
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{c.nc})
}

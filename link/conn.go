package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// How long a side that says nothing, or reads nothing, is believed to be alive.
const (
	beat      = time.Second // an agent reports at least that often
	quietEnd  = 10          // beats without a frame from the agent
	absentEnd = 30          // beats without a frame from the gateway, which pings
	pingEvery = 5           // beats
	stuckEnd  = 30          // beats that one write may take
)

// A Conn is the gateway's end of a connection to one agent.
type Conn struct {
	nc    net.Conn
	out   *sender
	hooks Hooks

	heard  atomic.Bool // a frame came since the last beat
	places atomic.Int32
	load   Load          // as last reported; the reader's own
	quit   chan struct{} // closed when the connection is over
	done   chan struct{} // closed after Hooks.Closed

	mu       sync.Mutex
	streams  map[uint32]*Stream
	free     []*Stream // closed ones, to be used again
	lastID   uint32
	want     int
	line     int // last asked for
	aside    bool
	draining bool
	err      error
}

// Dial connects to the agent that listens on the Unix socket at path.
func Dial(ctx context.Context, path string, h Hooks) (*Conn, error) {
	nc, err := dialUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	return NewConn(ctx, nc, h)
}

// NewConn speaks the gateway's side on nc, which it owns from here on. It
// returns when the agent has answered, or with ctx. Hooks may be called before.
func NewConn(ctx context.Context, nc net.Conn, h Hooks) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	c := &Conn{nc: nc, hooks: h, streams: map[uint32]*Stream{}, quit: make(chan struct{}), done: make(chan struct{})}
	in, err := c.greet()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("greet agent: %w", err)
	}
	c.nc = own(nc)
	in.src = c.nc
	c.out = newSender(c.nc)
	var tending sync.WaitGroup
	tending.Go(c.tend)
	go func() {
		err := c.receive(in)
		c.finish(err)
		tending.Wait()
		if c.hooks.Closed != nil {
			c.hooks.Closed(err)
		}
		close(c.done)
	}()
	return c, nil
}

func (c *Conn) greet() (*reader, error) {
	if _, err := c.nc.Write(appendHello(nil)); err != nil {
		return nil, err
	}
	in := newReader(c.nc)
	h, payload, err := in.next()
	if err != nil {
		return nil, err
	}
	return in, checkHello(h, payload)
}

// Places is how many requests could be opened now.
func (c *Conn) Places() int { return int(c.places.Load()) }

// Done is closed when the connection is over and the last hook has returned.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close ends the connection and all its streams. It does not wait; see Done.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

// fail makes the reader end with err.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	hangUp(c.nc)
}

// SetLine asks the agent to grant n places in all, over every connection. Zero
// leaves its own. An agent of an older version keeps its own in any case.
func (c *Conn) SetLine(n int) {
	c.mu.Lock()
	same := c.line == n || n <= 0 || c.draining || c.err != nil
	if !same {
		c.line = n
		c.out.commit(appendNumbers(c.out.begin(), kindLine, 0, uint64(n)), false)
	}
	c.mu.Unlock()
	if !same {
		c.out.flush()
	}
}

// Aside says whether this side goes without places that it does not want: they
// are then granted to others, who need not ask for them.
func (c *Conn) Aside(is bool) {
	c.mu.Lock()
	same := c.aside == is || c.draining || c.err != nil
	c.aside = is
	if !same {
		n := uint64(0)
		if is {
			n = 1
		}
		c.out.commit(appendNumbers(c.out.begin(), kindAside, 0, n), false)
	}
	c.mu.Unlock()
	if !same {
		c.out.flush()
	}
}

// Want says how many places this side could use in all, in flight and waiting.
// The agent serves those first who want more than they have.
func (c *Conn) Want(n int) {
	c.mu.Lock()
	same := c.want == n || c.draining || c.err != nil
	c.want = n
	if !same {
		// Queued under the lock, so that the last one said is the last one sent.
		c.out.commit(appendNumbers(c.out.begin(), kindWant, 0, uint64(max(0, n))), false)
	}
	c.mu.Unlock()
	if !same {
		c.out.flush()
	}
}

// Open spends a place and sends the request with the first bytes of its body;
// end says that they are all. It waits only where body is longer than [Window].
func (c *Conn) Open(r *Request, body []byte, end bool) (*Stream, error) {
	s, err := c.newStream()
	if err != nil {
		return nil, err
	}
	first := body[:min(len(body), maxChunk)]
	var flags uint8
	if end && len(first) == len(body) {
		flags = flagEnd
	}
	s.mu.Lock()
	s.window -= len(first)
	s.closed = flags == flagEnd
	s.mu.Unlock()
	queue := c.out.begin()
	s.opened.Store(c.out.mark())
	queue, err = appendRequest(queue, s.id, r, first, flags)
	if err != nil {
		c.out.commit(queue, false)
		c.unspend(s)
		return nil, err
	}
	// A connection that breaks here is said by the stream, as any later break.
	if c.out.commit(queue, true) == nil && flags == 0 && (end || len(body) > len(first)) {
		s.Write(body[len(first):], end)
	}
	return s, nil
}

func (c *Conn) newStream() (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, &BrokenError{Why: c.err.Error()}
	case c.places.Load() == 0:
		return nil, ErrNoPlace
	}
	c.places.Add(-1)
	for c.lastID++; c.lastID == 0 || c.streams[c.lastID] != nil; c.lastID++ {
	}
	var s *Stream
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	} else {
		s = &Stream{conn: c}
		s.init(c.out)
	}
	s.begin(c.lastID)
	c.streams[c.lastID] = s
	c.out.others.Store(int32(len(c.streams) - 1))
	return s, nil
}

// unspend undoes newStream for a request that could not be written down.
func (c *Conn) unspend(s *Stream) {
	c.mu.Lock()
	delete(c.streams, s.id)
	c.out.others.Store(int32(len(c.streams) - 1))
	kept := !c.draining && c.err == nil
	if kept {
		c.places.Add(1)
	}
	c.mu.Unlock()
	c.leave()
}

// forget makes later frames of the stream fall on the floor.
func (c *Conn) forget(id uint32) {
	c.mu.Lock()
	delete(c.streams, id)
	c.out.others.Store(int32(len(c.streams) - 1))
	c.mu.Unlock()
	c.leave()
}

// leave ends the connection once the agent drains and nothing is under way:
// the agent waits for that.
func (c *Conn) leave() {
	c.mu.Lock()
	over := c.draining && len(c.streams) == 0 && c.err == nil
	c.mu.Unlock()
	if over {
		c.fail(errDrained)
	}
}

var errDrained = errors.New("the agent has drained")

// recycle keeps a closed stream for another request.
func (c *Conn) recycle(s *Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.free) < 64 {
		c.free = append(c.free, s)
	}
}

func (c *Conn) stream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// receive handles frames until the connection ends.
func (c *Conn) receive(in *reader) error {
	err := in.each(func(h header, payload []byte) error {
		c.heard.Store(true)
		return c.handle(h, payload)
	})
	if cause := c.out.failed(); cause != nil {
		err = cause // the reader only sees that the connection was closed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	return c.err
}

func (c *Conn) handle(h header, payload []byte) error {
	switch h.kind {
	case kindAnswer, kindData, kindWindow, kindRefuse, kindBroken, kindGiven:
		if s := c.stream(h.stream); s != nil {
			return s.handle(h, payload)
		}
		return nil // cancelled here; the agent does not know yet
	case kindGrant:
		var n int
		if err := parseNumbers(payload, &n); err != nil {
			return err
		}
		c.grant(n)
	case kindRecall:
		var n int
		if err := parseNumbers(payload, &n); err != nil {
			return err
		}
		return c.giveBack(n)
	case kindLoad:
		if err := parseLoad(payload, &c.load); err != nil {
			return err
		}
		if c.hooks.Load != nil {
			c.hooks.Load(c.load)
		}
	case kindDrain:
		c.drain()
	case kindPong:
	default:
		if h.kind < optional {
			return malformed("kind %d", h.kind)
		}
	}
	return nil
}

func (c *Conn) grant(n int) {
	c.mu.Lock()
	if c.draining {
		n = 0
	}
	// More than this no agent means; the sum must not run over.
	n = min(n, 1<<20-int(c.places.Load()))
	c.places.Add(int32(n))
	c.mu.Unlock()
	c.granted(n)
}

func (c *Conn) granted(delta int) {
	if delta != 0 && c.hooks.Granted != nil {
		c.hooks.Granted(delta)
	}
}

// giveBack returns up to n unused places.
func (c *Conn) giveBack(n int) error {
	given := c.takePlaces(n)
	c.granted(-given)
	return c.out.commit(appendNumbers(c.out.begin(), kindReturn, 0, uint64(n), uint64(given)), true)
}

func (c *Conn) takePlaces(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = min(n, int(c.places.Load()))
	c.places.Add(int32(-n))
	return n
}

func (c *Conn) drain() {
	c.mu.Lock()
	first := !c.draining
	c.draining = true
	c.mu.Unlock()
	if !first {
		return
	}
	c.granted(-c.takePlaces(1 << 30))
	if c.hooks.Draining != nil {
		c.hooks.Draining()
	}
	c.leave()
}

// finish ends everything after the reader has ended.
func (c *Conn) finish(err error) {
	c.out.stop(err)
	c.nc.Close()
	c.mu.Lock()
	left := c.streams
	c.streams = map[uint32]*Stream{}
	c.mu.Unlock()
	why := "the connection to the replica broke"
	if !errors.Is(err, io.EOF) {
		why += ": " + err.Error()
	}
	for id, s := range left {
		// What never left this process was seen by nobody.
		s.end(id, &BrokenError{Taken: c.out.passed(s.opened.Load()) && s.goneOn(), Why: why})
	}
	c.granted(-c.takePlaces(1 << 30))
	close(c.quit)
}

// tend pings, and ends a connection whose agent is silent or does not read.
func (c *Conn) tend() {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var w watch
	for n := 1; ; n++ {
		select {
		case <-c.quit:
			return
		case <-tick.C:
		}
		if err := w.look(c.heard.Swap(false), quietEnd, c.out); err != nil {
			c.fail(err)
			return
		}
		if n%pingEvery == 0 {
			c.out.commit(appendNumbers(c.out.begin(), kindPing, 0, uint64(n)), true)
		}
	}
}

// A watch notices, beat by beat, that the other side is gone.
type watch struct {
	quiet  int
	stuck  int
	writes uint64
}

func (w *watch) look(heard bool, patience int, out *sender) error {
	w.quiet++
	if heard {
		w.quiet = 0
	}
	writing, writes := out.progress()
	w.stuck++
	if !writing || writes != w.writes {
		w.stuck = 0
	}
	w.writes = writes
	switch {
	case w.quiet >= patience:
		return fmt.Errorf("nothing was heard for %v", time.Duration(w.quiet)*beat)
	case w.stuck >= stuckEnd:
		return errUnread
	}
	return nil
}

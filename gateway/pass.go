package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"loadline.dev/loadline/internal/admit"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// Fields of a passed request that gateways tell each other. No client's field
// of such a name gets that far.
const (
	passedKey = "x-loadline-entity" // tenant/endpoint/entity
	passedAge = "x-loadline-age"    // nanoseconds since the request came to the first gateway
)

// keyOf names an entity to other gateways.
func keyOf(tenant, endpoint, entity string) string { return tenant + "/" + endpoint + "/" + entity }

// pass has the entity's home answer. It reports whether that is the end of it:
// else not one byte was taken, and the request is to be served here.
func (r *request) pass() (f *fault, over bool) {
	c := r.c
	if c.g.company.Load() == nil || r.e.flow.arrive(c.g.now()) || c.body.unread() {
		return nil, false
	}
	home := r.e.home()
	if home == nil {
		return nil, false
	}
	conn := home.conn.Load()
	if conn == nil {
		return nil, false
	}
	out := c.forEngine(r.place, r.re.Raw, int64(len(r.whole)))
	out.Header = append(out.Header, link.Field{Name: passedKey, Value: r.e.key},
		link.Field{Name: passedAge, Value: strconv.FormatInt(int64(time.Since(r.started)), 10)})
	c.fields = out.Header // the room is used again
	out.Timeout = time.Until(c.place.Deadline)
	first, rest := r.whole, []byte(nil)
	if len(first) > rawWindow { // an answer must be heard that comes before all was read
		first, rest = first[:rawWindow], first[rawWindow:]
	}
	s, err := conn.Open(out, first, rest == nil)
	if err != nil {
		return nil, false
	}
	r.passed = true
	defer s.Close()
	defer c.follow(nil)
	c.follow(s)
	if rest != nil {
		go s.Write(rest, true) // ends with the stream; the answer's side knows what happened
	}
	a, err := s.Answer(context.Background())
	if err != nil {
		if errors.Is(err, link.ErrNotTaken) && c.interrupted() == undisturbed {
			r.passed = false
			return nil, false
		}
		return r.broken(err, nil), true
	}
	r.release()
	return r.relay(s, a, nil), true
}

// ServePeers answers the other gateways, which connect to l and have proven
// that they are such. A drain finishes what was passed here, while l fails.
func (g *Gateway) ServePeers(l net.Listener) error {
	s := link.NewServer(g.carry, nil)
	s.SetLine(passable)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g.running.Go(func() {
		defer s.Close()
		select {
		case <-g.closing:
			return
		case <-ctx.Done():
			return
		case <-g.leaving:
		}
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_ = s.Drain(ctx) // cancelled below at the latest
		}()
		select {
		case <-drained:
			<-g.closing
		case <-g.closing:
			cancel()
			<-drained
		}
	})
	return s.Serve(l)
}

// passable is how many passed requests may be here at once.
const passable = 16 << 10

// carry serves a request that another gateway passed on.
func (g *Gateway) carry(ctx context.Context, in *link.Incoming) {
	p := passage{g: g, in: in, ctx: ctx, began: time.Now()}
	defer func() { g.memory.Add(-p.held) }()
	if !p.read() {
		in.Refuse("this gateway does not serve it")
		return
	}
	p.e.inFlight.Add(1)
	defer p.e.inFlight.Add(-1)
	if f := p.forward(); f != nil {
		p.say(f)
	}
}

// A passage is a request on its way through its home.
type passage struct {
	g      *Gateway
	e      *entity
	in     *link.Incoming
	ctx    context.Context
	began  time.Time
	place  admit.Place
	body   []byte
	held   int64
	out    link.Request
	failed bool // by the replica's doing
	given  bool // its sender knows that it must not send it elsewhere
}

// read finds the entity and reads the body; false is that it is not for here.
func (p *passage) read() bool {
	p.out = p.in.Request
	p.out.Header = make([]link.Field, 0, len(p.in.Header))
	key, age := "", time.Duration(0)
	for _, f := range p.in.Header {
		switch f.Name {
		case passedKey:
			key = f.Value
		case passedAge:
			n, _ := strconv.ParseInt(f.Value, 10, 64) // none is none
			age = time.Duration(max(0, n))
		default:
			p.out.Header = append(p.out.Header, f)
		}
	}
	parts := strings.Split(key, "/")
	if len(parts) != 3 || p.g.draining.Load() {
		return false
	}
	ep, ok := p.g.table.Load().Find(parts[0], []byte(parts[1]))
	if !ok {
		return false
	}
	i := slices.IndexFunc(ep.entities, func(e *entity) bool { return e.name == parts[2] })
	size := max(p.in.Size, 0)
	if i < 0 || size > p.g.MaxBody {
		return false
	}
	p.e, p.held = ep.entities[i], size
	if p.g.memory.Add(size) > p.g.Memory {
		return false
	}
	p.body = make([]byte, size)
	if _, err := io.ReadFull(p.in, p.body); err != nil {
		return false
	}
	p.place = admit.Place{}
	p.place.Arrived, p.place.Bytes = p.began.Add(-age), size+firstBuffer
	if p.in.Timeout > 0 {
		p.place.Deadline = p.began.Add(p.in.Timeout)
	}
	return true
}

// forward waits for a place and sends the request there, again when it was not
// taken. It returns what to say instead of an answer.
func (p *passage) forward() *fault {
	e := p.e
	e.tally.arrivals.Add(1)
	placed := time.Time{}
	defer func() {
		now := time.Now()
		e.tally.observe(!placed.IsZero(), placed.Sub(p.began), now.Sub(placed), e.patience.Load(), p.failed)
		if !placed.IsZero() {
			e.meters.wait.Observe(placed.Sub(p.began).Seconds())
			e.took.add(now.Sub(placed))
		}
	}()
	for again, n := false, 0; n < tries; n++ {
		rep, f := p.claim(again)
		if rep == nil {
			return f
		}
		placed = time.Now()
		if again, f = p.try(rep, placed); !again {
			return f
		}
		placed = time.Time{}
		e.meters.retries.Inc()
	}
	return &fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", retry: 1, why: "no replica of " + e.name + " took the request"}
}

// claim waits for a place on some replica. Nil with no fault is that nobody
// waits any more.
func (p *passage) claim(again bool) (*replica, *fault) {
	for {
		enter := p.e.gate.Enter
		if again {
			enter = p.e.gate.Again
		}
		err := enter(p.ctx, &p.place)
		if err == nil {
			if rep := p.e.pick(time.Now()); rep != nil {
				return rep, nil
			}
			p.e.gate.Grant(1)
			again = true
			continue
		}
		if errors.Is(err, errMoved) {
			if !p.given { // its sender looks again where to go
				p.in.Refuse("its entity is gone")
				return nil, nil
			}
			return nil, &fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", retry: 1, why: p.e.name + " is served no more"}
		}
		if p.ctx.Err() != nil && !errors.Is(err, serving.TimedOut) {
			return nil, nil
		}
		return nil, p.e.refused(err)
	}
}

// try sends the request to rep and relays the answer. It reports whether it may
// be sent again.
func (p *passage) try(rep *replica, now time.Time) (again bool, f *fault) {
	conn := rep.conn.Load()
	if conn == nil {
		rep.unclaim()
		return true, nil
	}
	if !p.given {
		if p.in.Given() != nil {
			rep.unclaim()
			return false, nil // whoever asked is gone
		}
		p.given = true
	}
	if p.in.Timeout > 0 {
		p.out.Timeout = max(1, time.Until(p.place.Deadline))
	}
	p.out.Size = int64(len(p.body))
	s, err := conn.Open(&p.out, p.body[:min(len(p.body), rawWindow)], len(p.body) <= rawWindow)
	if err != nil {
		rep.unclaim()
		if errors.Is(err, link.ErrNotTaken) {
			if !errors.Is(err, link.ErrNoPlace) {
				select {
				case <-conn.Done(): // its places are about to go
				case <-p.ctx.Done():
				}
			}
			return true, nil
		}
		return false, &fault{status: 431, code: "BAD_REQUEST", why: err.Error()}
	}
	var t trip
	t.start(rep, now)
	defer func() {
		p.failed = t.failed
		t.end()
	}()
	defer s.Close()
	defer context.AfterFunc(p.ctx, s.Cancel)()
	if len(p.body) > rawWindow {
		go s.Write(p.body[rawWindow:], true) // ends with the stream
	}
	a, err := s.Answer(context.Background())
	if err != nil {
		if errors.Is(err, link.ErrNotTaken) && p.ctx.Err() == nil {
			return true, nil
		}
		if p.ctx.Err() != nil {
			return false, nil
		}
		t.failed = true
		return false, badGateway("the replica of " + p.e.name + " ended while it had the request: " + err.Error())
	}
	t.hear(time.Now(), true)
	t.failed = a.Status >= 500 && a.Status != 504 // a deadline is the caller's choice
	if p.relay(s, a) != nil && p.ctx.Err() == nil {
		t.failed = true
	}
	return false, nil
}

// relay passes the answer back; the gateway that talks to the client judges it.
func (p *passage) relay(s *link.Stream, a *link.Answer) error {
	if err := p.in.Reply(a); err != nil {
		p.in.Fail(err.Error())
		return err
	}
	buf := relayBuffers.Get().(*[]byte)
	defer relayBuffers.Put(buf)
	for {
		n, err := s.Read(*buf)
		if n > 0 {
			if _, gone := p.in.Write((*buf)[:n]); gone != nil {
				return nil //nolint:nilerr // whoever asked has left
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			p.in.Fail(err.Error())
			return err
		case a.Size < 0:
			_ = p.in.Flush() // the next write says what became of it
		}
	}
}

// say answers with f in place of an engine.
func (p *passage) say(f *fault) {
	body, kind := []byte(f.why), "text/plain; charset=utf-8"
	if f.code != "" {
		body, _ = json.Marshal(map[string]string{"error_code": f.code, "message": f.why})
		kind = "application/json"
	}
	a := &link.Answer{Status: f.status, Size: int64(len(body)), Header: []link.Field{{Name: "Content-Type", Value: kind}}}
	if f.retry > 0 {
		a.Header = append(a.Header, link.Field{Name: "Retry-After", Value: strconv.Itoa(f.retry)})
	}
	_ = p.in.Reply(a) // whoever asked may have left
	_, _ = p.in.Write(body)
}

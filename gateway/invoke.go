package gateway

import (
	"context"
	"errors"
	"io"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/gateway/http1"
	"loadline.dev/loadline/gateway/route"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// dispatch finds out who asks for what and answers it. It reports whether
// another request may follow.
func (c *conn) dispatch(started time.Time) bool {
	v := c.judge()
	switch v.Answer {
	case auth.Yes:
	case auth.No:
		c.say(&fault{status: 403, code: "PERMISSION_DENIED", why: v.Why})
		return true
	default:
		c.say(&fault{status: 401, code: "UNAUTHENTICATED", why: v.Why})
		return true
	}
	p := route.Read(c.head.Path, c.g.Root != "")
	if p.Kind == route.Elsewhere {
		return c.callAPI(v.Caller)
	}
	name := p.Endpoint
	if len(name) == 0 {
		name = []byte(c.g.Root)
	}
	r := &c.asked
	r.c, r.place, r.caller, r.name, r.started = c, p, v.Caller, name, started
	keep := r.answer()
	*r = request{} // an idle connection keeps nothing of it alive
	return keep
}

// A request is one data plane request on its way.
type request struct {
	c       *conn
	place   route.Place
	caller  auth.Principal
	name    []byte
	started time.Time

	endpoint *endpoint
	re       *serving.RouteEntity
	e        *entity

	whole    []byte // the body, or the first of it when more is streamed
	held     int64  // bytes of the gateway's memory in use for it
	refusals int    // how often nobody took it
	passed   bool   // another gateway has it
	trip     trip
	times    times
}

// find finds the entity; false says that it answered already.
func (r *request) find() bool {
	ep, ok := r.c.g.table.Load().Find(orElse(r.caller.Tenant, auth.Anonymous.Tenant), r.name)
	if !ok {
		r.c.say(notFound("endpoint " + shown(r.name) + " does not exist"))
		return false
	}
	i, ok := ep.at(r.place)
	if !ok && len(r.place.Entity) > 0 {
		r.c.say(notFound("endpoint " + ep.route.Endpoint + " has no served entity " + shown(r.place.Entity)))
		return false
	}
	if !ok {
		r.c.say(&fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", retry: 5, why: "endpoint " + ep.route.Endpoint + " has no served entity with traffic yet"})
		return false
	}
	r.endpoint, r.re, r.e = ep, &ep.route.Entities[i], ep.entities[i]
	r.c.answer.entity = r.e.name
	return true
}

// shown quotes at most as much of a name as a name may have.
func shown(name []byte) string { return string(name[:min(len(name), 64)]) }

// answer carries the request out. It reports whether another may follow.
func (r *request) answer() bool {
	if !r.find() {
		r.c.g.metrics.unrouted(r.c.answer.status)
		return true
	}
	r.e.inFlight.Add(1)
	defer func() {
		r.release()
		r.exit()
		r.e.inFlight.Add(-1)
		r.e.meters.observe(r)
	}()
	f := r.enter()
	if f == nil {
		f = r.serve()
	}
	if f != nil {
		r.c.say(f)
	}
	return r.c.interrupted() != left && !r.c.answer.closing
}

// release gives back the memory of the body.
func (r *request) release() {
	r.c.unreserve(r.held)
	r.whole, r.held = nil, 0
}

// serve answers the request, or returns what to say instead. Nil with nothing
// said means that nobody is there to hear it.
func (r *request) serve() *fault {
	if f := r.admissible(); f != nil {
		return f
	}
	if r.place.Kind == route.Ping || r.place.Kind == route.Version {
		if !r.re.Raw {
			return r.rooted()
		}
		r.place.Path = r.c.head.Path // the engine's own
	}
	limit, f := r.c.timeout(r.c.g.Timeout)
	if f != nil {
		return f
	}
	r.c.place.Arrived = r.started
	r.c.place.Deadline = r.started.Add(limit)
	r.c.deadline.Store(int64(r.c.place.Deadline.Sub(r.c.g.epoch)))
	if f := r.readBody(); f != nil || r.c.interrupted() != undisturbed {
		return r.orOverdue(f)
	}
	r.times.ready = time.Now()
	return r.forward()
}

// orOverdue is f, or that the deadline has passed.
func (r *request) orOverdue(f *fault) *fault {
	if r.c.interrupted() == overdue {
		return errDeadline
	}
	return f
}

// admissible judges what can be judged without the body.
func (r *request) admissible() *fault {
	h := &r.c.head
	if !r.re.Raw {
		switch {
		case r.place.Kind == route.Engine:
			return notFound("endpoint " + r.e.endpoint + " has no path " + shown(r.place.Path) + "; it answers POST /serving-endpoints/" + r.e.endpoint + "/invocations")
		case r.place.Kind == route.Invoke && h.Method != "POST":
			return r.wrongMethod("POST")
		case r.place.Kind != route.Invoke && h.Method != "GET":
			return r.wrongMethod("GET")
		}
	}
	if r.re.Down != "" && len(r.re.Replicas) == 0 && r.place.Kind != route.Version {
		var f *fault
		errors.As(downError(r.re.Down), &f)
		return f
	}
	if limit := r.limit(); h.Length > limit {
		return tooLarge(limit)
	}
	return nil
}

func (r *request) limit() int64 {
	if r.re.Limits.Body > 0 {
		return min(r.re.Limits.Body, r.c.g.MaxBody)
	}
	return r.c.g.MaxBody
}

// rawWindow is how much of a body an engine of a user's own gets before its
// answer is listened to.
const rawWindow = 64 << 10

// readBody reads the body before the request waits: whoever sends slowly must
// not hold a place meanwhile. Engines of a user's own may talk back while they
// are talked to, so of their chunked bodies only the first bytes are read.
func (r *request) readBody() *fault {
	c := r.c
	var err error
	if r.re.Raw && c.body.chunked {
		r.whole, err = c.next()
		if errors.Is(err, io.EOF) {
			err = nil
		}
		r.whole = append([]byte(nil), r.whole...) // more is read behind it, while it may be sent twice
	} else {
		r.whole, r.held, err = c.readBody(r.limit())
	}
	return r.bodyFault(err)
}

func (r *request) bodyFault(err error) *fault {
	if err == nil {
		return nil
	}
	var refusal *http1.Refusal
	switch {
	case errors.Is(err, errTooLarge):
		return tooLarge(r.limit())
	case errors.Is(err, errCrowded):
		return r.e.crowded("request bodies")
	case errors.As(err, &refusal):
		r.c.g.metrics.refused(refusal.Status)
		return refusalFault(refusal)
	}
	r.c.interrupt(left, 0)
	return nil
}

// tries bounds how often a request is sent on after nobody took it: replicas
// that refuse for ever must not keep it going round.
const tries = 16

// forward waits for a place and sends the request there, again when it was not taken.
func (r *request) forward() *fault {
	c := r.c
	c.place.Bytes = int64(len(r.whole)) + firstBuffer
	c.awaiting.Store(c.g.now())
	c.g.busy.Add(1)
	defer c.g.busy.Add(-1)
	if f, over := r.pass(); over {
		return f
	}
	r.e.tally.arrivals.Add(1)
	if len(*r.e.replicas.Load()) == 0 {
		r.e.meters.cold.Inc()
	}
	for again := false; r.refusals < tries; {
		rep, f := r.claim(again)
		if rep == nil {
			return f
		}
		again, f = r.try(rep)
		if !again {
			return f
		}
		if c.interrupted() != undisturbed {
			return r.orOverdue(nil)
		}
		r.e.meters.retries.Inc()
		r.pause()
	}
	return &fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", retry: 1, why: "no replica of " + r.e.name + " took the request"}
}

// pause gives replicas that refuse a moment to change, and others one to come:
// a refusal grants its place anew at once.
func (r *request) pause() {
	if r.refusals < 3 {
		return
	}
	select {
	case <-time.After(min(10*time.Millisecond, 50*time.Microsecond<<r.refusals)):
	case <-r.c.ctx.Done():
	}
}

// claim waits for a place on some replica. Whoever had one before goes first.
func (r *request) claim(again bool) (*replica, *fault) {
	c := r.c
	for {
		var err error
		if again {
			err = r.e.gate.Again(c.ctx, &c.place)
		} else {
			err = r.e.gate.Enter(c.ctx, &c.place)
		}
		if err == nil {
			now := time.Now()
			if now.Sub(c.place.Arrived) > noticed && hasLeft(c.raw) { // no work for nobody
				r.e.gate.Grant(1)
				c.interrupt(left, 0)
				return nil, nil
			}
			if rep := r.e.pick(now); rep != nil {
				r.times.placed = now
				return rep, nil
			}
			r.e.gate.Grant(1)
			again = true
			continue
		}
		if !errors.Is(err, errMoved) {
			return nil, r.e.refused(err)
		}
		if f, ok := r.move(); !ok {
			return nil, f
		}
		again = false
	}
}

// move looks again where the request should go, after its entity has left the route.
func (r *request) move() (*fault, bool) {
	r.e.inFlight.Add(-1)
	found := r.find()
	r.e.inFlight.Add(1) // of the new one, or again of the old
	if !found {
		return nil, false
	}
	f := r.admissible()
	return f, f == nil
}

// try sends the request to rep and relays the answer. It reports whether the
// request may be sent again: not one byte of it was taken.
func (r *request) try(rep *replica) (again bool, f *fault) {
	c := r.c
	conn := rep.conn.Load()
	if conn == nil {
		rep.unclaim()
		return true, nil
	}
	streamed := c.body.unread()
	size := int64(len(r.whole))
	if streamed {
		size = c.head.Length
	}
	out := c.forEngine(r.place, r.re.Raw, size)
	out.Timeout = time.Until(c.place.Deadline)
	first, rest := r.whole, []byte(nil)
	if r.re.Raw && len(first) > rawWindow { // it may answer before it has read all, and must then be heard
		first, rest = first[:rawWindow], first[rawWindow:]
	}
	s, err := conn.Open(out, first, !streamed && rest == nil)
	if err != nil {
		rep.unclaim()
		switch {
		case errors.Is(err, link.ErrNoPlace): // the agent asked for it back a moment ago
			return true, nil
		case errors.Is(err, link.ErrNotTaken): // the connection broke; its places are about to go
			select {
			case <-conn.Done():
			case <-c.ctx.Done():
			}
			return true, nil
		}
		return false, &fault{status: 431, code: "BAD_REQUEST", why: err.Error()}
	}
	trip := &r.trip
	trip.start(rep, r.times.placed)
	defer trip.end()
	defer s.Close()
	defer c.follow(nil)
	c.follow(s)
	if rest != nil {
		go s.Write(rest, true) // ends with the stream; the answer's side knows what happened
	}
	var up *upload
	if streamed {
		up = c.upload(s, r.limit())
		c.answer.uploading = true
		defer func() {
			_ = up.stop()
			c.answer.uploading = false
		}()
	}
	a, err := s.Answer(context.Background())
	if err != nil {
		if errors.Is(err, link.ErrNotTaken) && (!streamed || up.untouched()) && c.interrupted() == undisturbed {
			r.refusals++
			return true, nil
		}
		f = r.broken(err, up)
		trip.failed = f != nil && f.status == 502
		return false, f
	}
	r.times.answered = time.Now()
	trip.hear(r.times.answered, true)
	trip.failed = a.Status >= 500 && a.Status != 504 // a deadline is the caller's choice
	r.release()                                      // it is not sent again
	f = r.relay(s, a, up)
	trip.failed = (trip.failed || r.times.torn || f != nil && f.status == 502) && c.interrupted() == undisturbed
	return false, f
}

// broken says why there is no answer.
func (r *request) broken(err error, up *upload) *fault {
	switch r.c.interrupted() {
	case left:
		return nil
	case overdue:
		return errDeadline
	}
	if up != nil {
		if f := r.bodyFault(up.stop()); f != nil {
			return f
		}
	}
	if !time.Now().Before(r.c.place.Deadline) {
		return errDeadline
	}
	if errors.Is(err, link.ErrNotTaken) {
		return &fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", retry: 1, why: "no replica of " + r.e.name + " took the request"}
	}
	return badGateway("the replica of " + r.e.name + " ended while it had the request: " + err.Error())
}

// rooted answers what MLflow's server answers beside invocations.
func (r *request) rooted() *fault {
	c := r.c
	body := "\n"
	if r.place.Kind == route.Version {
		if body = r.re.MLflow; body == "" {
			return notFound("there is no MLflow in the environment of " + r.e.name)
		}
	} else if len(*r.e.replicas.Load()) == 0 && r.e.coming.Load() {
		return &fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", why: "no replica of " + r.e.name + " is ready yet", retry: 1}
	}
	c.startHead(200)
	c.addField("Content-Type", "application/json")
	c.endHead(int64(len(body)))
	_ = c.writeBody([]byte(body))
	_ = c.finish()
	return nil
}

// wrongMethod answers in MLflow's words at the root, and in ours elsewhere.
func (r *request) wrongMethod(allow string) *fault {
	f := &fault{status: 405, code: "METHOD_NOT_ALLOWED", why: "only " + allow + " is answered here", allow: allow}
	if len(r.place.Endpoint) > 0 {
		return f
	}
	r.c.sayBody(f, "application/json", []byte(`{"detail":"Method Not Allowed"}`))
	return nil
}

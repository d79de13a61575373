package gateway

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/gateway/limit"
	"loadline.dev/loadline/serving"
)

// A guard is what one endpoint holds of the gateway, and what its callers may
// use of it. It lives as long as the endpoint, through changes of its route.
type guard struct {
	inFlight atomic.Int64 // requests in the gateway
	memory   atomic.Int64 // bytes of bodies
	asked    atomic.Int64 // requests that a rate was asked for, since Calls last told
	limits   atomic.Pointer[limits]
}

// limits are the quota of an endpoint and how much of it is used.
type limits struct {
	quota  serving.Quota
	rates  []rate
	policy string // the RateLimit-Policy field; empty when there is nothing to tell
}

// A rate is one limit, with a bucket for each of those it counts.
type rate struct {
	says serving.Rate
	name string // in the RateLimit fields
	rate limit.Rate
	part *atomic.Pointer[limit.Rate] // of it, that this gateway may use

	all  *limit.Bucket
	mu   *sync.Mutex
	each *limit.Book
}

// guardOf is the guard of a route's endpoint: the one it had before, with the
// limits that it has now. A changed limit starts afresh.
func guardOf(old *endpoint, r serving.Route) *guard {
	g := new(guard)
	if old != nil && old.route.ID == r.ID {
		g = old.guard
	}
	if now := g.limits.Load(); now == nil || !now.quota.Equal(r.Quota) {
		g.limits.Store(newLimits(r.Quota))
	}
	return g
}

func newLimits(q serving.Quota) *limits {
	l := &limits{quota: q}
	var policy []string
	for _, r := range q.Rates {
		name := r.Per
		if r.Period != time.Minute {
			name += "-" + serving.PeriodName(r.Period)
		}
		made := rate{says: r, name: name, rate: limit.Every(r.Calls, r.Period), part: new(atomic.Pointer[limit.Rate]),
			all: new(limit.Bucket), mu: new(sync.Mutex), each: new(limit.Book)}
		made.part.Store(&made.rate)
		l.rates = append(l.rates, made)
		policy = append(policy, fmt.Sprintf(`"%s";q=%d;w=%d`, name, r.Calls, int(r.Period.Seconds())))
	}
	if q.InFlight > 0 {
		policy = append(policy, fmt.Sprintf(`"in-flight";q=%d;qu="concurrent-requests"`, q.InFlight))
	}
	l.policy = strings.Join(policy, ", ")
	return l
}

// bucket is what the caller's calls are taken from.
func (r *rate) bucket(who auth.Principal, now int64) *limit.Bucket {
	key := who.Name
	switch r.says.Per {
	case serving.PerEndpoint:
		return r.all
	case serving.PerToken:
		key = orElse(who.Token, who.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.each.Bucket(key, now)
}

// enter lets the request into its endpoint, or says why not. Whatever it says,
// exit is owed.
func (r *request) enter() *fault {
	c, g := r.c, r.endpoint.guard
	c.guard = g
	mine, all := g.inFlight.Add(1), c.g.inside.Add(1)
	l := g.limits.Load()
	if l.policy != "" {
		c.answer.limits = l
		c.left = c.left[:0]
	}
	if most := l.quota.InFlight; most > 0 && mine > int64(most) {
		c.g.metrics.limit(r.endpoint, "in-flight")
		return &fault{status: 429, code: "REQUEST_LIMIT_EXCEEDED", retry: 1,
			why: "endpoint " + r.e.endpoint + " takes " + strconv.Itoa(most) + " requests at once, and has them"}
	}
	if f := r.take(l); f != nil {
		c.g.metrics.limit(r.endpoint, "rate")
		return f
	}
	if mine > c.g.leastShare() && !limit.Fair(mine, all, int64(c.g.Connections)) {
		c.g.metrics.limit(r.endpoint, "share")
		c.answer.closing = true
		return r.e.crowded("requests")
	}
	return nil
}

// take asks every rate for one call, and gives back what it got when one refuses.
func (r *request) take(l *limits) *fault {
	if len(l.rates) == 0 {
		return nil
	}
	c, now := r.c, int64(r.started.Sub(r.c.g.epoch))
	c.guard.asked.Add(1)
	for i := range l.rates {
		rate := &l.rates[i]
		s := rate.bucket(r.caller, now).Take(*rate.part.Load(), now)
		c.left = append(c.left, s)
		if s.OK {
			continue
		}
		for j := range l.rates[:i] {
			before := &l.rates[j]
			before.bucket(r.caller, now).Undo(*before.part.Load())
			c.left[j].Left++
		}
		return &fault{status: 429, code: "REQUEST_LIMIT_EXCEEDED", retry: seconds(s.Again), why: rate.refusal(r)}
	}
	return nil
}

func (r *rate) refusal(q *request) string {
	who := "endpoint " + q.e.endpoint
	switch r.says.Per {
	case serving.PerUser:
		who = "user " + q.caller.Name + " of " + who
	case serving.PerToken:
		who = "this token at " + who
	}
	return who + " may make " + strconv.Itoa(r.says.Calls) + " calls a " + serving.PeriodName(r.says.Period) + ", and has"
}

// seconds rounds up to whole ones, of which there is at least one.
func seconds(d time.Duration) int { return max(1, int(math.Ceil(d.Seconds()))) }

// exit ends what enter began.
func (r *request) exit() {
	r.c.guard.inFlight.Add(-1)
	r.c.g.inside.Add(-1)
}

// Calls appends to list how many requests asked each endpoint that has rate
// limits since the last call, here.
func (g *Gateway) Calls(list []serving.Calls) []serving.Calls {
	for ep := range g.table.Load().All {
		if len(ep.guard.limits.Load().rates) > 0 {
			list = append(list, serving.Calls{Tenant: ep.route.Tenant, Endpoint: ep.route.Endpoint, Mine: int(ep.guard.asked.Swap(0))})
		}
	}
	return list
}

// Share has this gateway use only its part of an endpoint's rates, for c.Mine of
// the c.All requests of the last second came to it and there are c.Gateways of
// them. What callers have left stays what it is.
func (g *Gateway) Share(c serving.Calls) {
	ep, ok := g.table.Load().Find(c.Tenant, []byte(c.Endpoint))
	if !ok {
		return
	}
	now := g.now()
	l := ep.guard.limits.Load()
	for i := range l.rates {
		l.rates[i].share(c, now)
	}
}

func (r *rate) share(c serving.Calls, now int64) {
	old := *r.part.Load()
	next := limit.Share(r.rate, float64(c.Mine), float64(c.All), c.Gateways)
	if next == old {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.part.Store(&next)
	r.all.Change(old, next, now)
	r.each.Change(old, next, now)
}

// leastShare is what an endpoint may always have of the gateway's requests: a
// share is worth disputing only where there is a crowd.
func (g *Gateway) leastShare() int64 { return int64(min(64, max(1, g.Connections/4))) }

// reserve takes n bytes of the gateway's memory for the request's body, if
// that leaves enough for other endpoints.
func (c *conn) reserve(n int64) bool {
	mine, all := c.guard.memory.Add(n), c.g.memory.Add(n)
	if all <= c.g.Memory && (mine <= max(c.g.MaxBody, c.g.Memory/16) || limit.Fair(mine, all, c.g.Memory)) {
		return true
	}
	c.unreserve(n)
	return false
}

func (c *conn) unreserve(n int64) {
	if n != 0 {
		c.guard.memory.Add(-n)
		c.g.memory.Add(-n)
	}
}

// addLimits tells the caller how much is left, in the fields of
// draft-ietf-httpapi-ratelimit-headers-11.
func (c *conn) addLimits() {
	l := c.answer.limits
	if l == nil {
		return
	}
	c.addField("RateLimit-Policy", l.policy)
	if len(c.left) == 0 {
		return
	}
	b := c.leftText[:0]
	for i := range c.left {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, '"')
		b = append(b, l.rates[i].name...)
		b = append(b, `";r=`...)
		b = strconv.AppendInt(b, int64(c.left[i].Left), 10)
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, int64(seconds(c.left[i].Full)), 10)
	}
	c.leftText = b
	c.addField("RateLimit", text(b))
}

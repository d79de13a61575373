package gateway

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/gateway/balance"
	"loadline.dev/loadline/gateway/route"
	"loadline.dev/loadline/internal/admit"
	"loadline.dev/loadline/internal/queue"
	"loadline.dev/loadline/serving"
)

// An endpoint is one published route. It never changes; its entities live on
// in the next one.
type endpoint struct {
	route    serving.Route
	entities []*entity // beside route.Entities
	guard    *guard
}

// retire ends all that hangs on the endpoint. It requires g.publishing.
func (e *endpoint) retire() {
	for _, en := range e.entities {
		en.g.metrics.limited.DeletePartialMatch(prometheus.Labels{"endpoint": en.endpoint})
		en.retire()
		en.g.metrics.forget(en)
	}
}

// An entity is one queue and the replicas that serve it. It lives as long as
// routes of its endpoint name it, through changes of its revision.
type entity struct {
	g        *Gateway
	endpoint string
	name     string
	gate     *admit.Gate
	replicas atomic.Pointer[[]*replica] // those that may take requests
	coming   atomic.Bool                // a replica is on its way
	meters   *meters
	tally    tally
	id       string       // the endpoint's
	key      string       // to other gateways
	flow     flow         // while there are others
	asked    atomic.Int64 // the load line that agents are asked to keep; zero leaves them theirs
	patience atomic.Int64 // nanoseconds that a request may wait without being late

	took     smoothed     // how long requests hold their place
	usual    atomic.Int64 // nanoseconds: the median of the replicas' times of service
	judged   atomic.Int64 // when replicas were compared last; the gateway's time
	judging  sync.Mutex   // guards judge's work space
	bench    balance.Judgement
	healths  []*balance.Health
	inFlight atomic.Int64
	wanting  atomic.Bool // agents were told that requests wait
	telling  sync.Mutex  // held while agents are told, so that the newest count is told last
	gone     bool        // no route names it any more; guarded by g.publishing
}

// errMoved ends the wait in the queue of an entity that no route names any
// more: whoever waited looks again where to go.
var errMoved = serving.Conflict

func newEntity(g *Gateway, endpoint, name string) *entity {
	e := &entity{g: g, endpoint: endpoint, name: name, gate: admit.New(g.Queue)}
	e.replicas.Store(new([]*replica))
	e.gate.Service = e.took.read
	e.gate.Waits = func() {
		e.wanting.Store(true)
		g.wanting.Store(true)
		e.wake()
		e.want()
	}
	e.meters = g.metrics.entity(e)
	return e
}

// Publish makes r what the gateway serves under its name, at once.
func (g *Gateway) Publish(r serving.Route) {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	if g.closed() {
		return
	}
	old, had := g.table.Load().Find(r.Tenant, []byte(r.Endpoint))
	if had && old.route.ID == r.ID && old.route.Generation > r.Generation {
		return // late news
	}
	next := &endpoint{route: r, guard: guardOf(old, r)}
	for _, re := range r.Entities {
		e := newcomer(old, r.ID, re.Name)
		if e == nil {
			e = newEntity(g, r.Endpoint, re.Name)
			e.key = keyOf(r.Tenant, r.Endpoint, re.Name)
			e.id = r.ID
		}
		e.follow(re)
		next.entities = append(next.entities, e)
	}
	g.table.Store(g.table.Load().With(r.Tenant, r.Endpoint, next))
	if had {
		retireMissing(old, next)
	}
}

// newcomer finds the entity of that name in the route before.
func newcomer(old *endpoint, id, name string) *entity {
	if old == nil || old.route.ID != id {
		return nil
	}
	for _, e := range old.entities {
		if e.name == name {
			return e
		}
	}
	return nil
}

// retireMissing ends the entities that next does not name. Those who wait there
// look again and find next, which is in the table already.
func retireMissing(old, next *endpoint) {
	for _, e := range old.entities {
		if slices.Contains(next.entities, e) {
			continue
		}
		e.retire()
		if !slices.ContainsFunc(next.entities, func(n *entity) bool { return n.name == e.name }) {
			e.g.metrics.forget(e)
		}
	}
}

// Withdraw forgets an endpoint: requests get 404 from now on.
func (g *Gateway) Withdraw(tenant, name string) {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	old, had := g.table.Load().Find(tenant, []byte(name))
	if !had {
		return
	}
	g.table.Store(g.table.Load().Without(tenant, name))
	old.retire()
}

// follow takes over what the route says of the entity. It requires g.publishing.
func (e *entity) follow(re serving.RouteEntity) {
	old := *e.replicas.Load()
	next := make([]*replica, 0, len(re.Replicas))
	known := func(seen serving.Replica) int {
		return slices.IndexFunc(old, func(r *replica) bool { return r.id == seen.ID && r.addr == seen.Addr })
	}
	// A new version comes all at once: nobody else is there to carry the load
	// while its replicas start slowly.
	beside := slices.ContainsFunc(re.Replicas, func(seen serving.Replica) bool { return known(seen) >= 0 })
	for _, seen := range re.Replicas {
		if i := known(seen); i >= 0 {
			next = append(next, old[i])
		} else {
			next = append(next, startReplica(e, seen, beside))
		}
	}
	policy := e.g.Queue
	policy.Objective = orElse(re.Objective, policy.Objective)
	if re.FIFO {
		policy.Order = queue.FIFO
	}
	policy.Shed = len(next) > 0 && !re.Coming
	e.gate.SetPolicy(policy)
	e.patience.Store(int64(policy.Objective))
	e.coming.Store(re.Coming)
	e.replicas.Store(&next)
	for _, r := range old {
		if !slices.Contains(next, r) {
			r.retire()
		}
	}
	if len(next) == 1 {
		next[0].unleash()
	}
	if re.Down != "" && len(next) == 0 {
		e.gate.Refuse(downError(re.Down))
	} else {
		e.gate.Refuse(nil)
	}
}

// retire ends the entity: those who wait move on, those in flight finish.
func (e *entity) retire() {
	if e.gone {
		return
	}
	e.gone = true
	none := []*replica{}
	old := *e.replicas.Swap(&none)
	for _, r := range old {
		r.retire()
	}
	e.gate.Refuse(errMoved)
}

// few is how many replicas are compared for one request. Among more, as many
// are looked at, chosen by chance: the best of eight of those with room is
// nearly the best of all.
const few = 8

// pick claims a place on the best replica, or returns nil when the place that
// the gate gave was withdrawn in the same moment.
func (e *entity) pick(now time.Time) *replica {
	list := *e.replicas.Load()
	if len(list) == 1 {
		if list[0].claim() {
			return list[0]
		}
		return nil
	}
	e.judge(list, now)
	for len(list) > 0 {
		var choice balance.Choice
		first, room := rand.IntN(len(list)), 0
		for i := range list {
			j := first + i
			if j >= len(list) {
				j -= len(list)
			}
			if list[j].held.Load() <= 0 {
				continue
			}
			choice.Offer(j, list[j].seen(now))
			if room++; room == few && len(list) > 2*few {
				break
			}
		}
		best, ok := choice.Best()
		if !ok {
			return nil
		}
		if list[best].claim() {
			return list[best]
		}
	}
	return nil
}

// judge compares the replicas, if that has not been done for a while.
func (e *entity) judge(list []*replica, now time.Time) {
	at, last := int64(now.Sub(e.g.epoch)), e.judged.Load()
	if at-last < int64(balance.Period) || !e.judged.CompareAndSwap(last, at) || !e.judging.TryLock() {
		return
	}
	defer e.judging.Unlock()
	e.healths = e.healths[:0]
	for _, r := range list {
		r.mu.Lock()
		e.healths = append(e.healths, &r.health)
	}
	_, tail := e.took.read()
	e.bench.Judge(e.healths, tail, now)
	e.usual.Store(int64(e.bench.Usual))
	for _, r := range list {
		r.settleLocked()
		r.mu.Unlock()
	}
}

// want tells the agents how many places would be used, so that they ask other
// gateways' idle ones back. The number is rounded up: a growing queue must not
// send a frame for each who joins it.
func (e *entity) want() {
	e.telling.Lock()
	defer e.telling.Unlock()
	list := *e.replicas.Load()
	if len(list) == 0 {
		return
	}
	each := (e.gate.Waiting() + len(list) - 1) / len(list)
	rounded := 0
	if each > 0 {
		for rounded = 1; rounded < each; rounded *= 2 {
		}
	}
	for _, r := range list {
		r.want(rounded)
	}
}

// at finds the entity a path names or, unnamed, draws one by weight.
func (e *endpoint) at(p route.Place) (int, bool) {
	if len(p.Entity) == 0 {
		i := route.Draw(e.route.Entities, rand.Uint64())
		return i, i >= 0
	}
	for i := range e.route.Entities {
		if e.route.Entities[i].Name == string(p.Entity) {
			return i, true
		}
	}
	return 0, false
}

// A smoothed duration and how far off it single ones are. Two that add at once
// may lose one of the two; it is a mean all the same.
type smoothed struct{ mean, off atomic.Int64 }

func (s *smoothed) add(d time.Duration) {
	mean := s.mean.Load()
	if mean == 0 {
		s.mean.Store(max(1, int64(d)))
		s.off.Store(int64(d) / 2)
		return
	}
	off := int64(d) - mean
	s.mean.Store(max(1, mean+off/16))
	old := s.off.Load()
	s.off.Store(old + (max(off, -off)-old)/16)
}

// read returns the mean and what nearly all stay below: the mean and five times
// the mean deviation. Of exponential times that is the 99th percentile and a
// little; of even ones hardly more than the mean.
func (s *smoothed) read() (mean, tail time.Duration) {
	m, off := s.mean.Load(), s.off.Load()
	return time.Duration(m), time.Duration(m + 5*off)
}

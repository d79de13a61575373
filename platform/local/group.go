package local

import (
	"cmp"
	"slices"
	"time"

	"loadline.dev/loadline/serving"
)

const (
	steady    = 10 * time.Second // ready for this long, a replica has proven that it can run
	maxFailed = 5                // deaths in a row after which a revision's replicas count as failed

	// drainDefault is how long a request may run where the recipe says nothing,
	// and drainMargin what an agent gets beyond its longest request.
	drainDefault = 297 * time.Second
	drainMargin  = 5 * time.Second
)

// A group is the replicas of one revision.
type group struct {
	rev        serving.Revision
	assignment serving.Assignment
	size       int
	wished     bool // somebody said a size in this process's life

	replicas []*replica
	failures int       // deaths in a row before anybody was ready for long
	retryAt  time.Time // no replica is started before
}

// backoff is how long to wait after that many failures: 1 s, doubled up to 60 s.
func backoff(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return min(time.Second<<min(failures-1, 6), time.Minute)
}

// grace is how long a replica of the group may take to leave.
func (g *group) grace() time.Duration {
	return cmp.Or(g.assignment.Recipe.Limits.Request, drainDefault) + drainMargin
}

// busy says whether something is under way that is worth a frequent look.
func (g *group) busy() bool {
	return slices.ContainsFunc(g.replicas, func(r *replica) bool {
		return r.seen.State != serving.Ready || r.leaving
	})
}

// settleLocked requires p.mu. It lets go what is too much and starts what is
// missing, unless the group has to wait after failures.
func (p *Platform) settleLocked(g *group, now time.Time) {
	if !g.wished || p.end.stopped() {
		return
	}
	var live []*replica
	for _, r := range g.replicas {
		if !r.leaving {
			live = append(live, r)
		}
	}
	if surplus := len(live) - g.size; surplus > 0 {
		slices.SortStableFunc(live, leastLoss)
		for _, r := range live[:surplus] {
			p.letGoLocked(g, r, now)
		}
		live = live[surplus:]
	}
	if now.Before(g.retryAt) {
		return
	}
	for _, r := range live {
		if r.dead {
			p.buryLocked(g, r)
			p.startLocked(g, now)
		}
	}
	for n := len(live); n < g.size; n++ {
		p.startLocked(g, now)
	}
}

// leastLoss orders replicas by how little is lost with them: first what is not
// ready, then the newest.
func leastLoss(a, b *replica) int {
	rank := func(r *replica) int {
		return slices.Index([]serving.State{serving.Failed, serving.Backoff, serving.Starting, serving.Draining, serving.Ready}, r.seen.State)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), b.seen.Started.Compare(a.seen.Started), cmp.Compare(b.id, a.id))
}

// letGoLocked requires p.mu. It has a replica finish and leave.
func (p *Platform) letGoLocked(g *group, r *replica, now time.Time) {
	if r.dead {
		p.buryLocked(g, r)
		return
	}
	r.leave(now.Add(g.grace()))
	p.changes.Tell(g.rev.Endpoint)
}

// startLocked requires p.mu. A replica that cannot even be started takes its
// place as a dead one, so that its reason is seen.
func (p *Platform) startLocked(g *group, now time.Time) {
	r, err := p.spawn(g)
	if err != nil {
		p.Log.Error("replica does not start", "endpoint", g.assignment.Endpoint, "why", err)
		r.dead = true
		g.failed(now)
		r.seen.State, r.seen.Why, r.seen.Since = g.deadState(), err.Error(), now
	}
	g.replicas = append(g.replicas, r)
	p.changes.Tell(g.rev.Endpoint)
}

// failed counts a death and sets the time of the next start.
func (g *group) failed(now time.Time) {
	g.failures++
	g.retryAt = now.Add(backoff(g.failures))
}

func (g *group) deadState() serving.State {
	if g.failures >= maxFailed {
		return serving.Failed
	}
	return serving.Backoff
}

// lookAtLocked requires p.mu. It takes in what a replica's agent wrote, and
// whether its process still runs.
func (p *Platform) lookAtLocked(g *group, r *replica, now time.Time) {
	if r.dead {
		return
	}
	before := r.seen
	r.readState()
	if err := p.vouch(r, now); err != nil {
		p.Log.Error("the link's credential is not renewed", "replica", r.id, "why", err)
	}
	switch {
	case r.seen.State != serving.Ready || !r.readyAt.IsZero():
	case r.adopted:
		r.readyAt = r.seen.Since
	default:
		r.readyAt = now
		p.metrics.starts.Observe(now.Sub(r.seen.Started).Seconds())
		p.Log.Info("replica ready", "endpoint", g.assignment.Endpoint, "replica", r.id, "pid", r.pid)
	}
	if !r.readyAt.IsZero() && now.Sub(r.readyAt) >= steady && r.seen.State == serving.Ready {
		g.failures = 0
	}
	if r.ended() {
		p.endedLocked(g, r, now)
		return
	}
	if r.seen.State == serving.Failed && !r.leaving && r.killAt.IsZero() {
		r.terminate(now.Add(drainMargin)) // it gave up; its place is needed for the next try
	}
	if !r.killAt.IsZero() && now.After(r.killAt) {
		r.kill()
	}
	if r.seen.State != before.State || r.seen.Restarts != before.Restarts || r.seen.Why != before.Why {
		p.changes.Tell(g.rev.Endpoint)
	}
}

// endedLocked requires p.mu. It deals with a replica whose agent has ended.
func (p *Platform) endedLocked(g *group, r *replica, now time.Time) {
	killSession(r.pid, r.birth, r.dir) // what an engine started may outlive both
	if r.leaving {
		p.buryLocked(g, r)
		return
	}
	p.metrics.deaths.Inc()
	gaveUp := r.seen.State == serving.Failed
	if !gaveUp && !r.readyAt.IsZero() && now.Sub(r.readyAt) >= steady {
		g.failures, g.retryAt = 0, now
	} else {
		g.failed(now)
	}
	r.dead = true
	r.seen.Why = cmp.Or(r.seen.Why, r.lastWords())
	r.seen.Since = now
	if r.seen.State = g.deadState(); gaveUp {
		r.seen.State = serving.Failed
	}
	p.Log.Warn("replica died", "endpoint", g.assignment.Endpoint, "replica", r.id, "why", r.seen.Why)
	p.changes.Tell(g.rev.Endpoint)
}

// buryLocked requires p.mu. It removes what is left of a replica but its log.
func (p *Platform) buryLocked(g *group, r *replica) {
	g.replicas = slices.DeleteFunc(g.replicas, func(x *replica) bool { return x == r })
	p.keepLog(r)
	p.removeFolder(r.dir)
	p.changes.Tell(g.rev.Endpoint)
}

// Package fake is a platform, a store and a preparer in memory, for tests,
// demonstrations and the simulator. It passes the same exams as the real ones.
//
// # What it does not do
//
// It starts nothing, keeps nothing, and answers no requests: a replica of it is
// a record that becomes ready after a while.
package fake

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

// A Platform runs replicas that are only records. The zero value is ready for
// use: its replicas are ready at once and leave at once.
type Platform struct {
	StartDelay time.Duration // from start to ready
	DrainDelay time.Duration // from told to leave to gone

	mu       sync.Mutex
	replicas []*serving.Replica
	want     map[serving.Revision]int
	broken   map[string]string // digest → why its replicas fail
	made     int
	changes  control.Listeners[string]
}

var (
	_ control.Platform = (*Platform)(nil)
	_ control.Watcher  = (*Platform)(nil)
)

// Apply implements [control.Platform].
func (p *Platform) Apply(_ context.Context, rev serving.Revision, a serving.Assignment, size int) error {
	if size > 0 && a.Revision != rev {
		return fmt.Errorf("assignment is of revision %v, not %v", a.Revision, rev)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.want == nil {
		p.want = map[serving.Revision]int{}
	}
	p.want[rev] = size
	if size == 0 {
		delete(p.want, rev)
	}
	p.settleLocked(rev)
	return nil
}

// settleLocked requires p.mu. It starts what is missing and lets go what is
// too much: first what is not ready, then the newest.
func (p *Platform) settleLocked(rev serving.Revision) {
	var live []*serving.Replica
	for _, r := range p.replicas {
		if r.Revision == rev && r.State != serving.Draining {
			live = append(live, r)
		}
	}
	for n := len(live); n < p.want[rev]; n++ {
		p.startLocked(rev)
	}
	if surplus := len(live) - p.want[rev]; surplus > 0 {
		slices.SortStableFunc(live, func(a, b *serving.Replica) int {
			return cmp.Or(cmp.Compare(rank(a.State), rank(b.State)), b.Started.Compare(a.Started), cmp.Compare(b.ID, a.ID))
		})
		for _, r := range live[:surplus] {
			p.drainLocked(r)
		}
	}
}

// rank orders states by how little is lost with a replica in it.
func rank(s serving.State) int {
	return slices.Index([]serving.State{serving.Failed, serving.Backoff, serving.Starting, serving.Ready}, s)
}

func (p *Platform) startLocked(rev serving.Revision) {
	p.made++
	now := time.Now()
	id := fmt.Sprintf("fake-%06d", p.made)
	r := &serving.Replica{ID: id, Revision: rev, State: serving.Starting, PID: 1000 + p.made,
		Addr: "/fake/" + id + ".sock", Started: now, Since: now}
	p.replicas = append(p.replicas, r)
	p.changes.Tell(rev.Endpoint)
	p.laterLocked(p.StartDelay, func() {
		if r.State != serving.Starting {
			return
		}
		if why, bad := p.broken[rev.Digest]; bad {
			p.turnLocked(r, serving.Failed, why)
			return
		}
		p.turnLocked(r, serving.Ready, "")
	})
}

func (p *Platform) drainLocked(r *serving.Replica) {
	p.turnLocked(r, serving.Draining, r.Why)
	p.laterLocked(p.DrainDelay, func() { p.dropLocked(r) })
}

func (p *Platform) dropLocked(r *serving.Replica) {
	p.replicas = slices.DeleteFunc(p.replicas, func(x *serving.Replica) bool { return x == r })
	p.changes.Tell(r.Revision.Endpoint)
}

func (p *Platform) turnLocked(r *serving.Replica, s serving.State, why string) {
	r.State, r.Why, r.Since = s, why, time.Now()
	p.changes.Tell(r.Revision.Endpoint)
}

// laterLocked does something under p.mu after a while; at once for no while.
func (p *Platform) laterLocked(d time.Duration, do func()) {
	if d == 0 {
		do()
		return
	}
	time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		do()
	})
}

// Replicas implements [control.Platform].
func (p *Platform) Replicas(_ context.Context, endpointID string) ([]serving.Replica, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []serving.Replica
	for _, r := range p.replicas {
		if endpointID == "" || r.Revision.Endpoint == endpointID {
			list = append(list, *r)
		}
	}
	return list, nil
}

// Changes implements [control.Watcher].
func (p *Platform) Changes(ctx context.Context) <-chan string { return p.changes.Listen(ctx) }

// Kill ends a replica as a crash would; another takes its place if it is wanted.
func (p *Platform) Kill(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.replicas, func(r *serving.Replica) bool { return r.ID == id })
	if i < 0 {
		return
	}
	r := p.replicas[i]
	p.dropLocked(r)
	p.settleLocked(r.Revision)
}

// Turn gives a replica a state, as its agent would.
func (p *Platform) Turn(id string, s serving.State, restarts int, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.replicas {
		if r.ID == id {
			r.Restarts = restarts
			p.turnLocked(r, s, why)
		}
	}
}

// Break makes replicas of a digest that start from now on fail with why; an
// empty why mends it.
func (p *Platform) Break(digest, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken == nil {
		p.broken = map[string]string{}
	}
	p.broken[digest] = why
	if why == "" {
		delete(p.broken, digest)
	}
}

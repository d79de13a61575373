package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

// Config is what a [Platform] needs to know.
type Config struct {
	Dir   string   // the data folder, locked by its owner
	Agent []string // command of an agent; the replica's folder is appended

	// Credential makes what a replica proves itself with to gateways that reach
	// it over TLS, and says when it is to be renewed. It is asked for new replicas
	// if Secured is set, and for those that have one already.
	Credential func(id string, now time.Time) (text []byte, renew time.Time, err error)
	Secured    bool

	// Vars are added to the few variables that agents inherit.
	Vars map[string]string

	Log      *slog.Logger
	Registry prometheus.Registerer // nil declares no metrics
}

// A Platform runs replicas as processes. It is safe for concurrent use.
type Platform struct {
	Config
	changes control.Listeners[string]
	metrics *metrics
	end     *stopper
	nudge   chan struct{}
	work    sync.WaitGroup

	mu     sync.Mutex
	groups map[serving.Revision]*group
}

var (
	_ control.Platform  = (*Platform)(nil)
	_ control.Watcher   = (*Platform)(nil)
	_ control.LogSource = (*Platform)(nil)
)

const (
	lookOften  = 50 * time.Millisecond  // while something starts or leaves
	lookSeldom = 500 * time.Millisecond // otherwise; ends of processes are heard of at once
)

// New adopts the replicas that an earlier process left running and removes what
// is left of those that are gone. Replicas that nobody wishes go on running
// until somebody says so by Apply with size zero.
func New(c Config) (*Platform, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	c.Dir = dir
	p := &Platform{Config: c, groups: map[serving.Revision]*group{}, nudge: make(chan struct{}, 1), metrics: newMetrics(c.Registry)}
	if err := p.checkFolders(); err != nil {
		return nil, err
	}
	if p.end, err = newStopper(); err != nil {
		return nil, err
	}
	if err := p.adopt(); err != nil {
		p.Release()
		return nil, err
	}
	p.forgetOldLogs(time.Now())
	p.work.Go(p.keep)
	return p, nil
}

// longestAddr is what fits into a Unix socket's address on every system.
const longestAddr = 103

func (p *Platform) checkFolders() error {
	if n := len(filepath.Join(p.replicas(), newID(), socketName)); n > longestAddr {
		return &serving.Error{Op: "data folder", Subject: p.Dir, Kind: serving.Invalid,
			Err: fmt.Errorf("its path is %d bytes too long for the sockets of replicas", n-longestAddr),
			Fix: "choose a folder with a shorter path: --data DIR"}
	}
	// DIR/tmp is not cleared: downloads are resumed from it, and other processes hold locks there.
	for _, dir := range []string{p.Dir, p.replicas(), filepath.Join(p.Dir, "tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return &serving.Error{Op: "data folder", Subject: dir, Kind: serving.Unavailable, Err: err,
				Fix: "choose a folder that can be written: --data DIR"}
		}
	}
	return nil
}

func (p *Platform) replicas() string { return filepath.Join(p.Dir, "replicas") }

// Apply implements [control.Platform].
func (p *Platform) Apply(ctx context.Context, rev serving.Revision, a serving.Assignment, size int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if size > 0 && a.Revision != rev {
		return &serving.Error{Op: "apply", Subject: rev.Digest, Kind: serving.Internal,
			Err: fmt.Errorf("the assignment is of revision %v", a.Revision)}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end.stopped() {
		return &serving.Error{Op: "apply", Subject: rev.Digest, Kind: serving.Unavailable, Err: errors.New("the platform is closed")}
	}
	g := p.groups[rev]
	if g == nil {
		if size == 0 {
			return nil
		}
		g = &group{rev: rev}
		p.groups[rev] = g
	}
	g.size, g.wished = size, true
	if size > 0 {
		g.assignment = a
	}
	p.settleLocked(g, time.Now())
	p.hurry()
	return nil
}

// Replicas implements [control.Platform].
func (p *Platform) Replicas(_ context.Context, endpointID string) ([]serving.Replica, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []serving.Replica
	for _, g := range p.groups {
		for _, r := range g.replicas {
			if endpointID == "" || g.rev.Endpoint == endpointID {
				list = append(list, r.shown(g))
			}
		}
	}
	slices.SortFunc(list, func(a, b serving.Replica) int { return a.Started.Compare(b.Started) })
	return list, nil
}

// Changes implements [control.Watcher].
func (p *Platform) Changes(ctx context.Context) <-chan string { return p.changes.Listen(ctx) }

// keep looks at the replicas again and again, until Close.
func (p *Platform) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.end.done:
			return
		case <-p.nudge:
		case <-timer.C:
		}
		timer.Reset(p.look())
	}
}

// look takes one look at every replica, does what is due, and says when to look
// again.
func (p *Platform) look() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, again := time.Now(), lookSeldom
	for rev, g := range p.groups {
		for _, r := range slices.Clone(g.replicas) { // looking may remove one
			p.lookAtLocked(g, r, now)
		}
		p.settleLocked(g, now)
		if g.busy() {
			again = lookOften
		}
		if len(g.replicas) == 0 && g.size == 0 {
			delete(p.groups, rev)
		}
	}
	return again
}

// hurry has keep look at once.
func (p *Platform) hurry() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// Release ends the supervision and leaves every replica running, for the next
// process to adopt.
func (p *Platform) Release() {
	p.mu.Lock()
	p.end.stop()
	p.mu.Unlock()
	p.work.Wait()
	p.end.close()
}

// Stop lets every replica finish what it has, for at most the given time, then
// ends what is left and the supervision.
func (p *Platform) Stop(within time.Duration) {
	deadline := time.Now().Add(within)
	p.mu.Lock()
	if p.end.stopped() {
		p.mu.Unlock()
		return
	}
	for _, g := range p.groups {
		g.size, g.wished = 0, true
		for _, r := range g.replicas {
			r.leave(deadline)
		}
		p.settleLocked(g, time.Now())
	}
	p.mu.Unlock()
	for p.running() {
		p.hurry()
		time.Sleep(lookOften) // the supervision kills what is still there at the deadline
	}
	p.Release()
}

func (p *Platform) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.groups) > 0
}

// Package cockpit brings what gateways and replicas report to the autopilot, on
// time, and what it decides to those who act: sizes to control, load lines to
// the gateways and through them to the agents. It is the only ticker of the
// signal river.
//
// # What it does not do
//
// It decides nothing: how many replicas there should be and how much each may
// carry is package autopilot's. It starts and stops nothing either; control asks
// it for sizes whenever it likes, and is woken when one has changed.
package cockpit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

// Parts are what a [Cockpit] works with.
type Parts struct {
	Gateway  Gateway
	Platform Platform
	Keeper   Keeper
	Drawer   Drawer // profiles, kept across restarts; nil forgets them
	Dir      string // where decisions and traffic are kept; empty keeps them in memory only

	// Processors bounds how many replicas an entity may have whose user gave no
	// maximum. Hardware names the machine in profiles.
	Processors int
	Hardware   string

	Log     *slog.Logger
	Metrics *Metrics // nil counts nothing
}

// A Gateway reports what entities do and keeps their replicas to a load line.
type Gateway interface {
	// Reports appends what was seen of each entity since the last call.
	Reports(list []autopilot.Report) []autopilot.Report
	SetLine(tenant, endpoint, entity string, n int)
}

// A Platform says which replicas there are. An empty id asks for all.
type Platform interface {
	Replicas(ctx context.Context, endpointID string) ([]serving.Replica, error)
}

// A Keeper looks at an endpoint again when it is woken, and knows its recipes.
type Keeper interface {
	Wake(tenant, name string)
	Recipe(ctx context.Context, digest string) serving.Recipe // zero when unknown
}

// A Drawer keeps small values by key.
type Drawer interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
}

// Tick is how often samples are taken and decisions made.
const Tick = time.Second

// A key names a craft: an entity of an endpoint.
type key struct{ id, entity string }

// A Cockpit flies every entity. It is safe for concurrent use.
type Cockpit struct {
	Parts
	woken chan key

	mu      sync.Mutex
	crafts  map[key]*craft
	reports []autopilot.Report // scratch
	ticked  time.Time
}

// New returns a cockpit that knows no entities yet. Parts may still be filled in
// before Run.
func New(p Parts) *Cockpit {
	if p.Metrics == nil {
		p.Metrics = NewMetrics(nil)
	}
	return &Cockpit{Parts: p, woken: make(chan key, 1024), crafts: map[key]*craft{}}
}

// Woken says that a request waits for an entity without a replica. It never blocks.
func (c *Cockpit) Woken(id, entity string) {
	select {
	case c.woken <- key{id, entity}:
	default: // so many others wake up that the next tick is as soon
	}
}

// Run takes samples and decides until ctx ends. What was learned is then kept.
func (c *Cockpit) Run(ctx context.Context) error {
	tick := time.NewTicker(Tick)
	defer tick.Stop()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		c.remember(last, time.Now(), true)
		c.closeFiles()
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case k := <-c.woken:
			c.wake(ctx, k, time.Now())
		case <-tick.C:
			now := time.Now()
			c.tick(ctx, now)
			c.remember(ctx, now, false)
		}
	}
}

// A named endpoint is to be looked at again by its keeper.
type named struct{ tenant, endpoint string }

// tick takes one sample of everything and decides.
func (c *Cockpit) tick(ctx context.Context, now time.Time) {
	seen, err := c.Platform.Replicas(ctx, "")
	if err != nil {
		c.Log.Warn("the sizes stay as they are", "why", err)
		return
	}
	fleets := fleetsOf(seen)
	var changed []named
	type lined struct {
		named
		entity string
		line   int
	}
	var lines []lined

	c.mu.Lock()
	over := now.Sub(c.ticked)
	if c.ticked.IsZero() || over <= 0 {
		over = Tick
	}
	c.ticked = now
	c.reports = c.Gateway.Reports(c.reports[:0])
	c.settle(ctx, now)
	shared := map[serving.Revision]int{}
	for i := range c.reports {
		shared[c.reports[i].Revision]++
	}
	for i := range c.reports {
		r := &c.reports[i]
		f := c.crafts[key{r.ID, r.Entity}]
		have := fleets[r.Revision]
		if shared[r.Revision] > 1 { // each sees its own part of what all have together
			have.ready = min(have.ready, f.want)
			have.alive = min(have.alive, f.want)
		}
		if f.fly(c, r, have, now, over) {
			changed = append(changed, named{r.Tenant, r.Endpoint})
		}
		if line := f.carry(c, r, now, over); line > 0 {
			lines = append(lines, lined{named{r.Tenant, r.Endpoint}, r.Entity, line})
		}
		f.write(c, r, have, now, over)
	}
	c.mu.Unlock()

	// Others are called without the lock: they may ask for sizes meanwhile.
	for _, l := range lines {
		c.Gateway.SetLine(l.tenant, l.endpoint, l.entity, l.line)
	}
	for _, n := range changed {
		c.Keeper.Wake(n.tenant, n.endpoint)
	}
}

// settle makes a craft for each entity that is new to the reports, and drops
// those that no report names. What replaces an entity goes on where it was. It
// requires c.mu.
func (c *Cockpit) settle(ctx context.Context, now time.Time) {
	reported := map[key]bool{}
	for i := range c.reports {
		reported[key{c.reports[i].ID, c.reports[i].Entity}] = true
	}
	gone := map[string][]*craft{}
	for k, f := range c.crafts {
		if !reported[k] {
			gone[k.id] = append(gone[k.id], f)
			delete(c.crafts, k)
			c.Metrics.forget(f)
		}
	}
	for i := range c.reports {
		r := &c.reports[i]
		k := key{r.ID, r.Entity}
		f := c.crafts[k]
		if f == nil {
			f = &craft{key: k, began: now, want: -1}
			if before := gone[k.id]; len(before) == 1 { // an update has replaced it
				f.inherit(before[0])
			}
			c.crafts[k] = f
		}
		f.tenant, f.endpoint = r.Tenant, r.Endpoint
		if f.rev != r.Revision || f.line == nil {
			f.follow(ctx, c, r.Revision)
		}
	}
	for _, list := range gone {
		for _, f := range list {
			f.file.close()
		}
	}
}

// wake decides at once for an entity whose first request waits.
func (c *Cockpit) wake(ctx context.Context, k key, now time.Time) {
	seen, err := c.Platform.Replicas(ctx, k.id)
	if err != nil {
		return // the next tick looks again
	}
	c.mu.Lock()
	f := c.crafts[k]
	woke := f != nil && f.wake(c, fleetsOf(seen)[f.rev], now)
	var who named
	if woke {
		who = named{f.tenant, f.endpoint}
	}
	c.mu.Unlock()
	if woke {
		c.Keeper.Wake(who.tenant, who.endpoint)
	}
}

// Size says how many replicas an entity should have, as last decided. It is
// what control asks.
func (c *Cockpit) Size(rev serving.Revision, e serving.Entity, ready int, now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.crafts[key{rev.Endpoint, e.Name}]
	if f != nil && f.rev == rev {
		f.obey(c, e.Scale)
		if f.want >= 0 {
			return c.within(e.Scale, f.want)
		}
	}
	// Of an entity that is to replace another, the demand of the other counts.
	for _, f := range c.crafts {
		if f.id == rev.Endpoint && f.rev == rev && rev.Digest != "" && f.want >= 0 {
			return c.within(e.Scale, f.want)
		}
	}
	// Nothing is known: what runs goes on running.
	return c.within(e.Scale, max(ready, c.alive(rev)))
}

// alive counts what runs of a revision, before anything else is known of it.
func (c *Cockpit) alive(rev serving.Revision) int {
	if rev.Digest == "" {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), Tick)
	defer cancel()
	seen, err := c.Platform.Replicas(ctx, rev.Endpoint)
	if err != nil {
		return 0
	}
	return fleetsOf(seen)[rev].alive
}

// within keeps a size inside what the user allows.
func (c *Cockpit) within(s serving.Scale, size int) int {
	return min(max(size, s.Min), c.most(s))
}

// most is how many replicas an entity may have: what the user said or, without,
// as many as there are processors, since beyond that they only share them.
func (c *Cockpit) most(s serving.Scale) int {
	if s.Max > 0 {
		return s.Max
	}
	return max(1, s.Min, c.Processors)
}

// Why says why the size of an entity was last changed; empty when it was not.
func (c *Cockpit) Why(rev serving.Revision, entity string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.crafts[key{rev.Endpoint, entity}]
	if f == nil || f.rev != rev {
		return ""
	}
	return f.why
}

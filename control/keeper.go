package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"loadline.dev/loadline/control/plan"
	"loadline.dev/loadline/serving"
)

// Parts are what a [Keeper] works with.
type Parts struct {
	Store    Store
	Platform Platform
	Preparer Preparer
	Router   Router
	Sizer    Sizer  // nil is [AsWritten]
	Drawer   Drawer // for recipes and events
	Log      *slog.Logger
	Metrics  *Metrics // nil counts nothing
	Sandbox  bool     // whether engines are isolated
}

// A Keeper keeps endpoints as they should be. It is safe for concurrent use:
// rounds of one endpoint follow each other, those of different endpoints do not
// wait for each other.
type Keeper struct {
	Parts
	journal journal
	recipes shelf

	life context.Context // of preparations, which outlive the round that began them
	end  context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex
	files map[string]*file      // by endpoint id
	ids   map[string]Key        // by endpoint id
	bells map[Key]chan struct{} // of the loop's workers
}

// A file is what the keeper remembers of one endpoint. Losing it loses nothing
// but time.
type file struct {
	round   sync.Mutex // one round at a time; guards all below but jobs and health
	applied map[serving.Revision]int
	route   serving.Route // last published; Generation 0 when none is
	lastly  map[string]serving.Replica
	news    []serving.Event // of this round

	jobs   jobs
	health health
}

// New returns a keeper. Close it when done.
func New(p Parts) *Keeper {
	if p.Sizer == nil {
		p.Sizer = AsWritten{}
	}
	if p.Metrics == nil {
		p.Metrics = NewMetrics(nil)
	}
	k := &Keeper{Parts: p, files: map[string]*file{}, bells: map[Key]chan struct{}{}, ids: map[string]Key{}}
	k.journal.drawer = p.Drawer
	k.recipes.drawer = p.Drawer
	k.life, k.end = context.WithCancel(context.Background())
	return k
}

// Close cancels what is being prepared and waits until it has stopped.
func (k *Keeper) Close() {
	k.end()
	k.work.Wait()
}

func (k *Keeper) file(e serving.Endpoint) *file {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.files[e.ID]
	if f == nil {
		f = &file{applied: map[serving.Revision]int{}, lastly: map[string]serving.Replica{}}
		k.files[e.ID] = f
		k.ids[e.ID] = Key{e.Tenant, e.Name}
	}
	return f
}

func (k *Keeper) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.files[id]; f != nil {
		f.jobs.cancelAll()
	}
	delete(k.files, id)
	delete(k.ids, id)
}

// maxRounds bounds how often one Tend looks again after a step that changed the
// record: promoted, then routed, then shrunk.
const maxRounds = 5

// Tend takes one look at an endpoint and one round of steps toward what it
// should be. Calling it again is always safe. An endpoint that is not there is
// no error.
func (k *Keeper) Tend(ctx context.Context, tenant, name string, now time.Time) error {
	for range maxRounds {
		e, err := k.Store.Get(ctx, tenant, name)
		if errors.Is(err, serving.NotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tend %s: %w", name, err)
		}
		again, err := k.round(ctx, e, now)
		if errors.Is(err, serving.Conflict) {
			continue // somebody wrote the record meanwhile: look again
		}
		if err != nil {
			return fmt.Errorf("tend %s: %w", name, err)
		}
		if !again {
			return nil
		}
	}
	k.Wake(tenant, name)
	return nil
}

// round looks once and acts once. It says whether the record changed, so that
// looking again is worth while.
func (k *Keeper) round(ctx context.Context, e serving.Endpoint, now time.Time) (again bool, err error) {
	f := k.file(e)
	f.round.Lock()
	defer f.round.Unlock()
	defer func() {
		if !again { // what a promotion changes is done first: writing an event waits for the disk
			k.tell(ctx, e, f)
		}
	}()

	// Trouble with one step, as when the store takes no writes, keeps none of the
	// others from being taken: traffic follows the replicas whatever happens.
	var trouble []error
	if e.Deleting {
		f.jobs.cancelAll()
		k.withdraw(e, f)
	} else {
		changed, err := k.settleRevisions(ctx, e, f)
		if changed || errors.Is(err, serving.Conflict) {
			return changed, err
		}
		trouble = append(trouble, err)
		k.ensureJobs(e, f, now)
	}
	seen, err := k.Platform.Replicas(ctx, e.ID)
	if err != nil {
		return false, errors.Join(append(trouble, fmt.Errorf("look: %w", err))...)
	}
	k.notice(e, f, seen)
	wish := k.wish(e, f, seen, now)
	if !e.Deleting {
		k.publish(ctx, e, f, seen, now)
	}
	world := plan.World{Applied: f.applied, Routed: routed(f.route), Seen: seen}
	for _, step := range plan.Next(wish, world) {
		changed, err := k.do(ctx, e, f, step)
		again = again || changed && err == nil
		trouble = append(trouble, err)
	}
	return again, errors.Join(trouble...)
}

// do takes one step and says whether it changed the record.
func (k *Keeper) do(ctx context.Context, e serving.Endpoint, f *file, s plan.Step) (bool, error) {
	switch s.Verb {
	case plan.Resize:
		return false, k.resize(ctx, e, f, s)
	case plan.Promote:
		return true, k.promote(ctx, e, f)
	case plan.Fail:
		return true, k.fail(ctx, e, f, s)
	case plan.Remove:
		return false, k.remove(ctx, e)
	}
	return false, fmt.Errorf("plan asks to %q, which the keeper cannot do", s.Verb)
}

func (k *Keeper) resize(ctx context.Context, e serving.Endpoint, f *file, s plan.Step) error {
	a := serving.Assignment{Endpoint: e.Name, Entity: s.Entity, Revision: s.Revision, Sandbox: k.Sandbox}
	if s.Size > 0 {
		recipe, ok := k.recipes.cached(s.Revision.Digest)
		if !ok {
			return fmt.Errorf("revision %.12s: its recipe is not at hand", s.Revision.Digest)
		}
		a.Recipe = recipe
	}
	if err := k.Platform.Apply(ctx, s.Revision, a, s.Size); err != nil {
		return fmt.Errorf("revision %.12s: %w", s.Revision.Digest, err)
	}
	if old, ever := f.applied[s.Revision]; !ever || old != s.Size {
		k.Log.Info("resize", "endpoint", e.Name, "revision", shortDigest(s.Revision.Digest), "size", s.Size)
		k.tellSize(e, f, s, old)
	}
	f.applied[s.Revision] = s.Size
	if s.Size == 0 {
		delete(f.applied, s.Revision)
	}
	return nil
}

// tellSize makes an event of a size that the autopilot has changed. The sizes of
// a rollout have events of their own.
func (k *Keeper) tellSize(e serving.Endpoint, f *file, s plan.Step, old int) {
	sizer, can := k.Sizer.(Reasoner)
	i := slices.IndexFunc(e.Active.Entities, func(x serving.Entity) bool { return x.Revision == s.Revision.Digest })
	if !can || i < 0 || e.Pending != nil || e.Deleting {
		return
	}
	if why := sizer.Why(s.Revision, e.Active.Entities[i].Name); why != "" {
		f.add(e, e.Active.Entities[i].Name, "Scaled", fmt.Sprintf("%d → %d replicas: %s", old, s.Size, why))
	}
}

// promote makes the pending config the active one. Traffic moves in the next
// round, and what only the old config wanted stops in that round or later.
func (k *Keeper) promote(ctx context.Context, e serving.Endpoint, f *file) error {
	next := e
	next.History = remember(e.History, e.Active)
	next.Active, next.Pending, next.Failed = *e.Pending, nil, nil
	if _, err := k.Store.Update(ctx, next); err != nil {
		return err
	}
	k.Metrics.updates.WithLabelValues("done").Inc()
	f.add(e, "", "UpdateDone", fmt.Sprintf("config %d is ready and answers", next.Active.Version))
	k.Log.Info("config ready", "endpoint", e.Name, "config", next.Active.Version)
	return nil
}

// fail gives the pending config up; what answered before goes on answering.
func (k *Keeper) fail(ctx context.Context, e serving.Endpoint, f *file, s plan.Step) error {
	next := e
	fix := strings.ReplaceAll(f.jobs.fix(jobKey{e.Pending.Version, s.Entity}), "NAME", e.Name)
	next.Failed = &serving.Failure{Config: *e.Pending, At: time.Now().UTC(), Entity: s.Entity, Why: s.Why,
		Fix: cmp.Or(fix, "loadline logs "+e.Name)}
	next.Pending = nil
	if _, err := k.Store.Update(ctx, next); err != nil {
		return err
	}
	f.jobs.cancelVersion(e.Pending.Version)
	k.Metrics.updates.WithLabelValues("failed").Inc()
	serves := "nothing answers yet"
	if e.Active.Version > 0 {
		serves = fmt.Sprintf("config %d goes on answering", e.Active.Version)
	}
	f.add(e, s.Entity, "UpdateFailed", fmt.Sprintf("config %d: %s; %s", e.Pending.Version, s.Why, serves))
	k.Log.Warn("update failed", "endpoint", e.Name, "config", e.Pending.Version, "entity", s.Entity, "why", s.Why)
	return nil
}

// remove ends an endpoint that has nothing left.
func (k *Keeper) remove(ctx context.Context, e serving.Endpoint) error {
	if err := k.Store.Delete(ctx, e.Tenant, e.Name, e.Version); err != nil {
		return err
	}
	k.Log.Info("endpoint gone", "endpoint", e.Name)
	k.forget(e.ID)
	return errors.Join(k.journal.forget(ctx, e.ID), k.recipes.sweep(ctx, k.Store, e))
}

// wish states what the plan needs to know of a record.
func (k *Keeper) wish(e serving.Endpoint, f *file, seen []serving.Replica, now time.Time) plan.Wish {
	w := plan.Wish{Deleting: e.Deleting, Active: k.goals(e.ID, e.Active, f, seen, now)}
	if e.Pending == nil {
		return w
	}
	w.Pending = k.goals(e.ID, *e.Pending, f, seen, now)
	heirs := plan.Predecessors(e.Active, *e.Pending)
	for i, is := range e.Pending.Entities {
		// The newcomer must carry what its predecessor carries, within its own bounds.
		if was, ok := heirs[is.Name]; ok && was.Revision != "" {
			rev := serving.Revision{Endpoint: e.ID, Digest: was.Revision}
			w.Pending[i].Size = max(w.Pending[i].Size, k.Sizer.Size(rev, is, plan.Ready(seen, rev), now))
		}
	}
	return w
}

func (k *Keeper) goals(id string, c serving.Config, f *file, seen []serving.Replica, now time.Time) []plan.Goal {
	var goals []plan.Goal
	for _, entity := range c.Entities {
		g := plan.Goal{Entity: entity.Name}
		held, why := f.jobs.state(jobKey{c.Version, entity.Name})
		if entity.Revision != "" {
			g.Revision = serving.Revision{Endpoint: id, Digest: entity.Revision}
			_, known := k.recipes.cached(entity.Revision)
			g.Held = held || !known
		}
		g.Trouble = why
		g.Size = k.Sizer.Size(g.Revision, entity, plan.Ready(seen, g.Revision), now)
		goals = append(goals, g)
	}
	return goals
}

// notice turns what changed about the replicas since the last look into events.
func (k *Keeper) notice(e serving.Endpoint, f *file, seen []serving.Replica) {
	now := map[string]serving.Replica{}
	for _, r := range seen {
		now[r.ID] = r
		was, known := f.lastly[r.ID]
		if known && was.State == r.State && was.Restarts == r.Restarts {
			continue
		}
		entity := entityOf(e, r.Revision.Digest)
		if known && r.Restarts > was.Restarts && r.State != serving.Backoff {
			// It was back before anybody looked.
			f.add(e, entity, "ReplicaDied", fmt.Sprintf("the engine of replica %s ended and was started again: %s", r.ID,
				cmp.Or(r.Why, "see loadline logs "+e.Name)))
		}
		switch {
		case r.State == serving.Ready:
			f.add(e, entity, "ReplicaReady", "replica "+r.ID+" is ready")
		case r.State == serving.Backoff:
			f.add(e, entity, "ReplicaDied", fmt.Sprintf("replica %s died and will be started again: %s", r.ID, r.Why))
		case r.State == serving.Failed:
			f.add(e, entity, "ReplicaFailed", fmt.Sprintf("replica %s: %s", r.ID, r.Why))
		}
	}
	for id, was := range f.lastly {
		if _, there := now[id]; !there && was.State == serving.Ready {
			f.add(e, entityOf(e, was.Revision.Digest), "ReplicaDied", "replica "+id+" is gone")
		}
	}
	f.lastly = now
	f.health.see(seen)
	k.Metrics.see(e.ID, seen)
}

// entityOf names the entity that runs a revision, or "".
func entityOf(e serving.Endpoint, digest string) string {
	configs := []serving.Config{e.Active}
	if e.Pending != nil {
		configs = append(configs, *e.Pending)
	}
	if e.Failed != nil {
		configs = append(configs, e.Failed.Config)
	}
	for _, c := range configs {
		i := slices.IndexFunc(c.Entities, func(x serving.Entity) bool { return x.Revision == digest })
		if i >= 0 {
			return c.Entities[i].Name
		}
	}
	return ""
}

// Recipe returns what is known of a revision; zero when nothing is.
func (k *Keeper) Recipe(ctx context.Context, digest string) serving.Recipe {
	return k.recipes.known(ctx, digest)
}

func shortDigest(d string) string { return d[:min(len(d), 12)] }

package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"loadline.dev/loadline/serving"
)

// A jobKey names the preparation of one entity of one config.
type jobKey struct {
	config int
	entity string
}

// A job is one preparation, under way or ended.
type job struct {
	cancel    context.CancelFunc
	cancelled bool
	phases    []serving.Phase // in the order they began
	recipe    serving.Recipe
	err       error
	ended     bool
	at        time.Time // when it ended
	tries     int       // failures so far
}

// jobs are the preparations of one endpoint.
type jobs struct {
	mu    sync.Mutex
	byKey map[jobKey]*job
}

// state says whether a preparation is under way or has to be repeated, and why
// it failed.
func (j *jobs) state(key jobKey) (held bool, why string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	one := j.byKey[key]
	switch {
	case one == nil:
		return false, ""
	case !one.ended:
		return true, ""
	case one.err != nil:
		return true, one.err.Error()
	}
	return false, ""
}

// fix returns the advice that a failed preparation left.
func (j *jobs) fix(key jobKey) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if one := j.byKey[key]; one != nil && one.err != nil {
		return serving.FixOf(one.err)
	}
	return ""
}

func (j *jobs) phases(key jobKey) []serving.Phase {
	j.mu.Lock()
	defer j.mu.Unlock()
	if one := j.byKey[key]; one != nil {
		return slices.Clone(one.phases)
	}
	return nil
}

// done lists the recipes of the preparations of a config that went well.
func (j *jobs) done(config int) map[string]serving.Recipe {
	j.mu.Lock()
	defer j.mu.Unlock()
	recipes := map[string]serving.Recipe{}
	for key, one := range j.byKey {
		if key.config == config && one.ended && one.err == nil {
			recipes[key.entity] = one.recipe
		}
	}
	return recipes
}

func (j *jobs) cancelAll() {
	j.cancelIf(func(jobKey) bool { return true })
}

func (j *jobs) cancelVersion(config int) {
	j.cancelIf(func(k jobKey) bool { return k.config == config })
}

func (j *jobs) cancelIf(which func(jobKey) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for key, one := range j.byKey {
		if which(key) {
			one.cancelled = true
			one.cancel()
		}
	}
}

// due says whether a preparation has to be begun: for the first time, or after
// it failed and the back-off has passed.
func (j *jobs) due(key jobKey, now time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	one := j.byKey[key]
	return one == nil || one.ended && one.err != nil && now.Sub(one.at) >= patience(one.tries)
}

// patience is how long to wait after that many failures: 1 s, doubled up to 60 s.
func patience(tries int) time.Duration {
	return min(time.Second<<min(max(tries-1, 0), 6), time.Minute)
}

// begin records that a preparation starts.
func (j *jobs) begin(key jobKey, cancel context.CancelFunc) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.byKey == nil {
		j.byKey = map[jobKey]*job{}
	}
	one := &job{cancel: cancel}
	if was := j.byKey[key]; was != nil {
		one.tries = was.tries
	}
	j.byKey[key] = one
	return one
}

// report takes news of a phase and says whether the phase ended with it.
func (j *jobs) report(one *job, p serving.Phase) (ended bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range one.phases {
		if one.phases[i].Name == p.Name {
			ended = one.phases[i].State == serving.PhaseRunning && p.State != serving.PhaseRunning
			one.phases[i] = p
			return ended
		}
	}
	one.phases = append(one.phases, p)
	return p.State != serving.PhaseRunning
}

// end records how a preparation went. One that was cancelled did not fail: it
// is forgotten, and begins anew if it is still wanted.
func (j *jobs) end(key jobKey, one *job, recipe serving.Recipe, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil && one.cancelled && j.byKey[key] == one {
		delete(j.byKey, key)
		return
	}
	one.ended, one.recipe, one.err, one.at = true, recipe, err, time.Now()
	if err != nil {
		one.tries++
	}
}

// prune forgets the preparations of configs that the record no longer holds.
func (j *jobs) prune(keep func(config int) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for key, one := range j.byKey {
		if !keep(key.config) && one.ended {
			delete(j.byKey, key)
		}
	}
}

// ensureJobs begins what has to be prepared: pending entities once, and those
// of the active config whose recipe this process has not vouched for yet, again
// and again until that succeeds.
func (k *Keeper) ensureJobs(e serving.Endpoint, f *file, now time.Time) {
	f.jobs.prune(func(config int) bool {
		return config == e.Active.Version || e.Pending != nil && config == e.Pending.Version ||
			e.Failed != nil && config == e.Failed.Config.Version
	})
	if k.life.Err() != nil {
		return
	}
	for _, entity := range e.Active.Entities {
		key := jobKey{e.Active.Version, entity.Name}
		if _, vouched := k.recipes.cached(entity.Revision); !vouched && f.jobs.due(key, now) {
			k.prepare(e, f, key, entity)
		}
	}
	if e.Pending == nil {
		return
	}
	for _, entity := range e.Pending.Entities {
		key := jobKey{e.Pending.Version, entity.Name}
		_, vouched := k.recipes.cached(entity.Revision)
		if _, why := f.jobs.state(key); !vouched && why == "" && f.jobs.due(key, now) {
			k.prepare(e, f, key, entity)
		}
	}
}

// prepare runs the preparation of one entity beside the rounds.
func (k *Keeper) prepare(e serving.Endpoint, f *file, key jobKey, entity serving.Entity) {
	ctx, cancel := context.WithCancel(k.life)
	one := f.jobs.begin(key, cancel)
	k.work.Go(func() {
		defer cancel()
		began := time.Now()
		recipe, err := k.obtain(ctx, entity, func(p serving.Phase) {
			if f.jobs.report(one, p) {
				k.Metrics.phases.WithLabelValues(p.Name, string(p.State)).Observe(p.Took.Seconds())
			}
		})
		if err == nil {
			err = k.recipes.keep(ctx, recipe)
		}
		if k.life.Err() != nil {
			f.jobs.cancelAll()
		}
		f.jobs.end(key, one, recipe, err)
		outcome := "done"
		switch {
		case ctx.Err() != nil:
			outcome = "cancelled"
		case err != nil:
			outcome = "failed"
			k.note(e, entity.Name, "PreparationFailed", err.Error())
			k.Log.Warn("preparation failed", "endpoint", e.Name, "entity", entity.Name, "why", err)
		default:
			k.note(e, entity.Name, "Prepared", "revision "+shortDigest(recipe.Digest)+": "+recipe.Why)
			k.Log.Info("prepared", "endpoint", e.Name, "entity", entity.Name, "revision", shortDigest(recipe.Digest),
				"took", time.Since(began).Round(time.Millisecond))
		}
		k.Metrics.preparations.WithLabelValues(outcome).Inc()
		k.Wake(e.Tenant, e.Name)
	})
}

// obtain gets the recipe of an entity: what was promised if it was prepared
// before, otherwise by preparing it.
func (k *Keeper) obtain(ctx context.Context, entity serving.Entity, report func(serving.Phase)) (serving.Recipe, error) {
	if entity.Revision == "" {
		return prepared(k.Preparer.Prepare(ctx, entity, report))
	}
	kept, err := k.recipes.read(ctx, entity.Revision)
	if errors.Is(err, serving.NotFound) {
		return prepared(k.Preparer.Prepare(ctx, entity, report))
	}
	if err != nil {
		return serving.Recipe{}, err
	}
	renewer, ok := k.Preparer.(Renewer)
	if !ok {
		for _, p := range kept.Phases {
			report(p)
		}
		return kept, nil
	}
	return prepared(renewer.Renew(ctx, entity, kept, report))
}

// prepared refuses a recipe that names no revision: replicas of it could not be
// told apart from others.
func prepared(r serving.Recipe, err error) (serving.Recipe, error) {
	if err == nil && r.Digest == "" {
		err = &serving.Error{Op: "prepare", Subject: r.Asked, Kind: serving.Internal, Err: errors.New("the recipe names no revision")}
	}
	return r, err
}

// settleRevisions writes the revisions that preparations found into the record.
func (k *Keeper) settleRevisions(ctx context.Context, e serving.Endpoint, f *file) (changed bool, err error) {
	next := e
	settle := func(c serving.Config) serving.Config {
		recipes := f.jobs.done(c.Version)
		c = cloneConfig(c)
		for i := range c.Entities {
			r, ok := recipes[c.Entities[i].Name]
			if ok && c.Entities[i].Revision != r.Digest {
				c.Entities[i].Revision = r.Digest
				changed = true
			}
		}
		return c
	}
	next.Active = settle(e.Active)
	if e.Pending != nil {
		pending := settle(*e.Pending)
		next.Pending = &pending
	}
	if !changed {
		return false, nil
	}
	_, err = k.Store.Update(ctx, next)
	return err == nil, err
}

package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"loadline.dev/loadline/control/plan"
	"loadline.dev/loadline/serving"
)

// status says what is seen of an endpoint beside its wish.
func (k *Keeper) status(ctx context.Context, e serving.Endpoint) (serving.Status, error) {
	seen, err := k.Platform.Replicas(ctx, e.ID)
	if err != nil {
		return serving.Status{}, err
	}
	f, now := k.file(e), time.Now()
	st := serving.Status{Ready: e.Active.Version > 0, Updating: e.Pending != nil}
	for _, entity := range e.Active.Entities {
		s := k.look(ctx, e, e.Active.Version, entity, seen, f, now)
		s.State, s.Message = activeState(s, f)
		st.Ready = st.Ready && s.State == serving.Deployed
		st.Entities = append(st.Entities, s)
	}
	if e.Pending != nil {
		for _, entity := range e.Pending.Entities {
			s := k.look(ctx, e, e.Pending.Version, entity, seen, f, now)
			s.Pending = true
			s.State, s.Message = pendingState(s)
			st.Entities = append(st.Entities, s)
		}
	}
	if e.Failed != nil && e.Pending == nil {
		for _, entity := range e.Failed.Config.Entities {
			s := k.look(ctx, e, e.Failed.Config.Version, entity, nil, f, now)
			s.State, s.Message, s.Want = serving.Aborted, "given up because "+e.Failed.Entity+" failed", 0
			if entity.Name == e.Failed.Entity || e.Failed.Entity == "" {
				s.State, s.Message = serving.Broken, e.Failed.Why
			}
			st.Entities = append(st.Entities, s)
		}
	}
	return st, nil
}

// look gathers what is known of one entity of one config.
func (k *Keeper) look(ctx context.Context, e serving.Endpoint, config int, entity serving.Entity,
	seen []serving.Replica, f *file, now time.Time) serving.EntityStatus {
	s := serving.EntityStatus{Config: config, Entity: entity, Phases: f.jobs.phases(jobKey{config, entity.Name})}
	if entity.Revision != "" {
		s.Revision = serving.Revision{Endpoint: e.ID, Digest: entity.Revision}
		s.Recipe = k.recipes.known(ctx, entity.Revision)
		if len(s.Phases) == 0 {
			s.Phases = slices.Clone(s.Recipe.Phases)
		}
	}
	for _, r := range seen {
		if r.Revision == s.Revision && entity.Revision != "" {
			s.Replicas = append(s.Replicas, r)
		}
	}
	s.Want = k.Sizer.Size(s.Revision, entity, plan.Ready(seen, s.Revision), now)
	s.Phases = append(s.Phases, startPhases(s.Replicas, now)...)
	return s
}

// startPhases tells the start of an entity's first replica as two phases more.
func startPhases(replicas []serving.Replica, now time.Time) []serving.Phase {
	var first *serving.Replica
	for i, r := range replicas {
		if r.State == serving.Draining {
			continue
		}
		if first == nil || r.State == serving.Ready && first.State != serving.Ready ||
			r.State == first.State && r.Started.Before(first.Started) {
			first = &replicas[i]
		}
	}
	if first == nil {
		return nil
	}
	load := serving.Phase{Name: "load", State: serving.PhaseRunning, Started: first.Started, Took: now.Sub(first.Started)}
	switch first.State {
	case serving.Ready:
		load.State, load.Took = serving.PhaseDone, first.Since.Sub(first.Started)
		return []serving.Phase{load, {Name: "ready", State: serving.PhaseDone, Started: first.Since}}
	case serving.Failed:
		load.State, load.Took, load.Note = serving.PhaseFailed, first.Since.Sub(first.Started), first.Why
	case serving.Backoff:
		load.Note = first.Why
	}
	return []serving.Phase{load}
}

func activeState(s serving.EntityStatus, f *file) (serving.Deployment, string) {
	if ready := plan.Ready(s.Replicas, s.Revision); ready > 0 {
		return serving.Deployed, fmt.Sprintf("%d of %d replicas ready", ready, s.Want)
	}
	if s.Want == 0 && s.Revision.Digest != "" {
		return serving.Deployed, "asleep: the next request starts a replica and is answered by it"
	}
	if why := hopeless(f.health.sinceWell(s.Replicas), s.Revision); why != "" {
		return serving.Broken, why
	}
	if _, why := f.jobs.state(jobKey{s.Config, s.Entity.Name}); why != "" {
		return serving.Broken, why
	}
	return serving.Recovering, cmp.Or(lastWhy(s.Replicas), "a replica is starting")
}

func pendingState(s serving.EntityStatus) (serving.Deployment, string) {
	ready := plan.Ready(s.Replicas, s.Revision)
	switch {
	case ready > 0 && ready >= s.Want:
		return serving.Deployed, fmt.Sprintf("%d of %d replicas ready; traffic moves when every entity is", ready, s.Want)
	case len(s.Replicas) > 0:
		return serving.Creating, cmp.Or(lastWhy(s.Replicas), fmt.Sprintf("%d of %d replicas ready", ready, s.Want))
	}
	for i := len(s.Phases) - 1; i >= 0; i-- {
		if p := s.Phases[i]; p.State == serving.PhaseRunning {
			return serving.Creating, "phase " + p.Name + ": " + cmp.Or(p.Note, "running")
		}
	}
	return serving.Creating, "being prepared"
}

func lastWhy(replicas []serving.Replica) string {
	for _, r := range replicas {
		if r.Why != "" {
			return r.Why
		}
	}
	return ""
}

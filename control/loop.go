package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"loadline.dev/loadline/serving"
)

const (
	lookAgain  = 3 * time.Second // how often every endpoint is tended without a cause
	listAgain  = 10              // how many of those until the store is listed again
	noteWithin = 5 * time.Second // how long writing an event may take
)

// Run tends every endpoint until ctx ends: when its record or a replica of it
// changes, and every few seconds. Each endpoint has a worker of its own, so the
// trouble of one never holds up another. When Run returns, everything it began
// has stopped, preparations included.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer k.Close()
	defer workers.Wait()
	defer cancel()

	writes := k.Store.Watch(ctx)
	var changes <-chan string
	if w, ok := k.Platform.(Watcher); ok {
		changes = w.Changes(ctx)
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%listAgain == 0 {
			k.visitAll(ctx, &workers)
		}
		if !k.listen(ctx, &workers, writes, changes, tick.C) {
			return context.Cause(ctx)
		}
	}
}

// listen wakes whom news concern until a tick has woken everybody. It says
// whether to go on.
func (k *Keeper) listen(ctx context.Context, workers *sync.WaitGroup, writes <-chan Key, changes <-chan string, tick <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case key, open := <-writes:
			if !open {
				writes = nil
				continue
			}
			k.visit(ctx, workers, key)
		case id, open := <-changes:
			if !open {
				changes = nil
				continue
			}
			if key, ok := k.keyOf(id); ok {
				k.visit(ctx, workers, key)
			}
		case <-tick:
			k.mu.Lock()
			for _, bell := range k.bells {
				ring(bell)
			}
			k.mu.Unlock()
			return true
		}
	}
}

// Introduce tells the router of every endpoint there is. Until it has returned,
// a gateway would call those unknown that it has not yet heard of, so requests
// are let in afterwards only.
func (k *Keeper) Introduce(ctx context.Context) error {
	all, err := k.Store.List(ctx, "")
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	for _, e := range all {
		if e.Deleting {
			continue
		}
		seen, err := k.Platform.Replicas(ctx, e.ID)
		if err != nil {
			return fmt.Errorf("look at the replicas of %s: %w", e.Name, err)
		}
		f := k.file(e)
		f.round.Lock()
		k.publish(ctx, e, f, seen, time.Now())
		f.round.Unlock()
	}
	return nil
}

// visitAll visits every endpoint of the store and stops what runs for none.
func (k *Keeper) visitAll(ctx context.Context, workers *sync.WaitGroup) {
	// What runs is asked first: whatever is seen running had a record before.
	running, err := k.Platform.Replicas(ctx, "")
	if err != nil {
		k.Log.Error("look at all replicas", "why", err)
	}
	all, err := k.Store.List(ctx, "")
	if err != nil {
		if ctx.Err() == nil {
			k.Log.Error("list endpoints", "why", err)
		}
		return
	}
	for _, e := range all {
		k.visit(ctx, workers, Key{e.Tenant, e.Name})
	}
	stopped := map[serving.Revision]bool{}
	for _, r := range running {
		known := slices.ContainsFunc(all, func(e serving.Endpoint) bool { return e.ID == r.Revision.Endpoint })
		if known || stopped[r.Revision] || r.State == serving.Draining {
			continue
		}
		stopped[r.Revision] = true
		k.Log.Info("stop what belongs to no endpoint", "revision", shortDigest(r.Revision.Digest), "replica", r.ID)
		if err := k.Platform.Apply(ctx, r.Revision, serving.Assignment{}, 0); err != nil {
			k.Log.Error("stop orphan", "replica", r.ID, "why", err)
		}
	}
}

// visit wakes an endpoint's worker, starting it if there is none.
func (k *Keeper) visit(ctx context.Context, workers *sync.WaitGroup, key Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	bell := k.bells[key]
	if bell == nil {
		bell = make(chan struct{}, 1)
		k.bells[key] = bell
		workers.Go(func() { k.attend(ctx, key, bell) })
	}
	ring(bell)
}

// attend tends one endpoint whenever its bell rings, until it is gone.
func (k *Keeper) attend(ctx context.Context, key Key, bell chan struct{}) {
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-bell:
		}
		err := k.Tend(ctx, key.Tenant, key.Name, time.Now())
		// The same trouble every few seconds is said once.
		if err != nil && ctx.Err() == nil && err.Error() != said {
			k.Log.Error("tend", "endpoint", key.Name, "why", err)
		}
		if said = ""; err != nil {
			said = err.Error()
		}
		if _, err := k.Store.Get(ctx, key.Tenant, key.Name); errors.Is(err, serving.NotFound) && k.leave(key, bell) {
			return
		}
	}
}

// leave ends a worker unless its bell rang in the same instant.
func (k *Keeper) leave(key Key, bell chan struct{}) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(bell) > 0 {
		return false
	}
	delete(k.bells, key)
	return true
}

// Wake has an endpoint tended soon, if Run is running and knows it.
func (k *Keeper) Wake(tenant, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if bell := k.bells[Key{tenant, name}]; bell != nil {
		ring(bell)
	}
}

func (k *Keeper) keyOf(id string) (Key, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.ids[id]
	return key, ok
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it rings already
	}
}

// add keeps an event until the round ends.
func (f *file) add(e serving.Endpoint, entity, kind, text string) {
	f.news = append(f.news, serving.Event{At: time.Now().UTC(), Endpoint: e.Name, Entity: entity, Kind: kind, Text: text})
}

// tell writes a round's events in one go.
func (k *Keeper) tell(ctx context.Context, e serving.Endpoint, f *file) {
	news := f.news
	f.news = nil
	if len(news) == 0 {
		return
	}
	if err := k.journal.add(ctx, e.ID, news...); err != nil && ctx.Err() == nil {
		k.Log.Warn("events stay in memory", "endpoint", e.Name, "why", err)
	}
}

// note writes one event now. It never fails the order it tells of.
func (k *Keeper) note(e serving.Endpoint, entity, kind, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), noteWithin)
	defer cancel()
	event := serving.Event{At: time.Now().UTC(), Endpoint: e.Name, Entity: entity, Kind: kind, Text: text}
	if err := k.journal.add(ctx, e.ID, event); err != nil {
		k.Log.Warn("event stays in memory", "endpoint", e.Name, "why", fmt.Sprint(err))
	}
}

func (k *Keeper) events(ctx context.Context, id string) ([]serving.Event, error) {
	return k.journal.list(ctx, id)
}

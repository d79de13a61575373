package control_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/platform/fake"
	"loadline.dev/loadline/serving"
)

// A house is control on a machine of paper, in virtual time.
type house struct {
	*control.Desk
	t        *testing.T
	store    *disk
	platform *fake.Platform
	preparer *fake.Preparer
	drawer   *fake.Drawer
	router   *router
	stop     func()
}

// inHouse runs a story in a bubble; the keeper runs beside it.
func inHouse(t *testing.T, story func(*testing.T, *house)) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, store: new(disk), drawer: new(fake.Drawer), router: &router{now: map[string]serving.Route{}},
			platform: &fake.Platform{StartDelay: 5 * time.Second, DrainDelay: 20 * time.Second},
			preparer: &fake.Preparer{Delay: 10 * time.Second}}
		h.router.look = h.replicas
		h.start()
		story(t, h)
		h.stop()
		time.Sleep(time.Minute) // what the platform still has to do
		if len(h.router.rash) > 0 {
			t.Errorf("told to leave before traffic had moved: %v", h.router.rash)
		}
	})
}

// start begins a keeper, as a process that starts would.
func (h *house) start() {
	k := control.New(control.Parts{Store: h.store, Platform: h.platform, Preparer: h.preparer, Router: h.router,
		Drawer: h.drawer, Log: slog.New(slog.DiscardHandler)})
	h.Desk = &control.Desk{Store: h.store, Keeper: k}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	h.stop = func() { cancel(); <-done }
}

// A router remembers the routes that were published.
type router struct {
	mu   sync.Mutex
	now  map[string]serving.Route
	look func() []serving.Replica
	rash []string // revisions told to leave while they were still routed
}

func (r *router) Publish(route serving.Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, old := range r.now[route.Endpoint].Entities {
		stays := slices.ContainsFunc(route.Entities, func(e serving.RouteEntity) bool { return e.Revision == old.Revision })
		seen := r.look()
		lives := slices.ContainsFunc(seen, func(x serving.Replica) bool { return x.Revision == old.Revision && x.State != serving.Draining })
		leaves := slices.ContainsFunc(seen, func(x serving.Replica) bool { return x.Revision == old.Revision && x.State == serving.Draining })
		if !stays && leaves && !lives {
			r.rash = append(r.rash, old.Name+" of "+old.Revision.Digest)
		}
	}
	r.now[route.Endpoint] = route
}

func (r *router) Withdraw(_, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.now, name)
}

func (r *router) route(name string) serving.Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now[name]
}

// config serves models, the first with all the traffic.
func config(models ...string) serving.Config {
	var c serving.Config
	for i, m := range models {
		name := fmt.Sprintf("e%d", i)
		c.Entities = append(c.Entities, serving.Entity{Name: name, Model: m, Engine: "auto", Scale: serving.Scale{Min: 1}})
		c.Splits = append(c.Splits, serving.Split{Entity: name, Percent: map[bool]int{true: 100}[i == 0]})
	}
	return c
}

func (h *house) create(name string, models ...string) {
	h.t.Helper()
	c := config(models...)
	if _, err := h.Create(h.t.Context(), serving.Endpoint{Tenant: "default", Name: name, Creator: "ann", Pending: &c}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) get(name string) serving.Endpoint {
	h.t.Helper()
	e, err := h.Get(h.t.Context(), "default", name)
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

func (h *house) status(name string) serving.Status {
	h.t.Helper()
	st, err := h.Status(h.t.Context(), "default", name)
	if err != nil {
		h.t.Fatal(err)
	}
	return st
}

// settle lets virtual time pass until nothing is under way.
func (h *house) settle() {
	time.Sleep(time.Minute)
	synctest.Wait()
}

func (h *house) replicas() []serving.Replica {
	all, err := h.platform.Replicas(h.t.Context(), "")
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

func ids(all []serving.Replica) []string {
	var list []string
	for _, r := range all {
		list = append(list, r.ID)
	}
	slices.Sort(list)
	return list
}

func (h *house) kinds(name string) []string {
	h.t.Helper()
	events, err := h.Events(h.t.Context(), "default", name)
	if err != nil {
		h.t.Fatal(err)
	}
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// A disk is a store that may be full.
type disk struct {
	fake.Store
	full atomic.Bool
}

func (d *disk) Update(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error) {
	if d.full.Load() {
		return serving.Endpoint{}, &serving.Error{Op: "update", Kind: serving.Unavailable, Err: errors.New("database or disk is full")}
	}
	return d.Store.Update(ctx, e)
}

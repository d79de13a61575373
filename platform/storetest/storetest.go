// Package storetest is the exam that every control.Store and control.Drawer
// passes. It knows nothing of how they keep things.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

// Run examines the stores that fresh returns, each of them empty.
func Run(t *testing.T, fresh func(*testing.T) control.Store) {
	for claim, exam := range map[string]func(*testing.T, control.Store){
		"what is created comes back whole":            wholeness,
		"a name is taken once, whatever its case":     uniqueness,
		"tenants do not share names":                  tenants,
		"of a hundred creators one wins":              race,
		"an update is refused to who read too early":  staleness,
		"a deletion is refused to who read too early": staleDeletion,
		"concurrent updates all count":                counting,
		"what is absent is not found":                 absence,
		"lists are sorted by name":                    order,
		"a watcher hears of every record":             watching,
		"a watcher who does not listen blocks nobody": deafness,
		"what is handed out is nobody's to change":    isolation,
	} {
		t.Run(claim, func(t *testing.T) { exam(t, fresh(t)) })
	}
}

func endpoint(name string) serving.Endpoint {
	c := serving.Config{Version: 1,
		Entities: []serving.Entity{{Name: "m-1", Model: "models:/m/1", Engine: "auto", Vars: map[string]string{"A": "ü"},
			Scale: serving.Scale{Min: 1, Idle: time.Minute}}},
		Splits: []serving.Split{{Entity: "m-1", Percent: 100}}, Wire: []byte(`{"served_entities":[]}`)}
	return serving.Endpoint{Tenant: "default", Name: name, ID: "id-" + name, Creator: "ann", Description: "d",
		Created: time.Unix(1, 5).UTC(), Updated: time.Unix(2, 0).UTC(), Tags: []serving.Tag{{Key: "k", Value: "v"}},
		Pending: &c, Wire: []byte("{}"), History: []serving.Config{c},
		Failed: &serving.Failure{Config: c, Why: "because", At: time.Unix(3, 0).UTC()}}
}

func create(t *testing.T, s control.Store, name string) serving.Endpoint {
	t.Helper()
	e, err := s.Create(t.Context(), endpoint(name))
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return e
}

func wants(t *testing.T, what string, err error, kind serving.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want %v", what, err, kind)
	}
}

func wholeness(t *testing.T, s control.Store) {
	made := create(t, s, "iris")
	want := endpoint("iris")
	want.Version = 1
	if !reflect.DeepEqual(made, want) {
		t.Errorf("created %+v, want %+v", made, want)
	}
	got, err := s.Get(t.Context(), "default", "iris")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func uniqueness(t *testing.T, s control.Store) {
	create(t, s, "iris")
	for _, name := range []string{"iris", "Iris", "IRIS"} {
		_, err := s.Create(t.Context(), endpoint(name))
		wants(t, "create "+name, err, serving.Exists)
	}
	_, err := s.Get(t.Context(), "default", "IRIS")
	wants(t, "get in another case", err, serving.NotFound)
}

func tenants(t *testing.T, s control.Store) {
	create(t, s, "iris")
	other := endpoint("iris")
	other.Tenant = "other"
	if _, err := s.Create(t.Context(), other); err != nil {
		t.Fatalf("the same name of another tenant: %v", err)
	}
	for tenant, want := range map[string]int{"default": 1, "other": 1, "": 2, "nobody": 0} {
		list, err := s.List(t.Context(), tenant)
		if err != nil || len(list) != want {
			t.Errorf("tenant %q has %d endpoints, %v, want %d", tenant, len(list), err, want)
		}
	}
}

func race(t *testing.T, s control.Store) {
	const creators = 100
	errs := make([]error, creators)
	var all sync.WaitGroup
	for i := range creators {
		all.Go(func() { _, errs[i] = s.Create(t.Context(), endpoint("iris")) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		wants(t, "a loser", err, serving.Exists)
	}
	if won != 1 {
		t.Errorf("%d creators won, want 1", won)
	}
}

func staleness(t *testing.T, s control.Store) {
	first := create(t, s, "iris")
	second, err := s.Update(t.Context(), first)
	if err != nil || second.Version != 2 {
		t.Fatalf("update: version %d, %v, want 2", second.Version, err)
	}
	_, err = s.Update(t.Context(), first)
	wants(t, "update of version 1", err, serving.Conflict)
	if got, _ := s.Get(t.Context(), "default", "iris"); got.Version != 2 {
		t.Errorf("version %d is there, want 2", got.Version)
	}
}

func staleDeletion(t *testing.T, s control.Store) {
	first := create(t, s, "iris")
	if _, err := s.Update(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	wants(t, "delete version 1", s.Delete(t.Context(), "default", "iris", 1), serving.Conflict)
	if err := s.Delete(t.Context(), "default", "iris", 2); err != nil {
		t.Errorf("delete version 2: %v", err)
	}
	_, err := s.Get(t.Context(), "default", "iris")
	wants(t, "get what is deleted", err, serving.NotFound)
}

func counting(t *testing.T, s control.Store) {
	create(t, s, "iris")
	const writers, each = 8, 10
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for done := 0; done < each; {
				e, err := s.Get(t.Context(), "default", "iris")
				if err == nil {
					e.Active.Version++
					_, err = s.Update(t.Context(), e)
				}
				switch {
				case err == nil:
					done++
				case !errors.Is(err, serving.Conflict):
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	e, err := s.Get(t.Context(), "default", "iris")
	if err != nil || e.Active.Version != writers*each {
		t.Errorf("counted %d, %v, want %d", e.Active.Version, err, writers*each)
	}
}

func absence(t *testing.T, s control.Store) {
	_, err := s.Get(t.Context(), "default", "iris")
	wants(t, "get", err, serving.NotFound)
	_, err = s.Update(t.Context(), endpoint("iris"))
	wants(t, "update", err, serving.NotFound)
	wants(t, "delete", s.Delete(t.Context(), "default", "iris", 1), serving.NotFound)
	if list, err := s.List(t.Context(), "default"); err != nil || len(list) > 0 {
		t.Errorf("an empty store lists %v, %v", list, err)
	}
}

func order(t *testing.T, s control.Store) {
	for _, name := range []string{"c", "a", "b"} {
		create(t, s, name)
	}
	list, err := s.List(t.Context(), "default")
	var names []string
	for _, e := range list {
		names = append(names, e.Name)
	}
	if want := []string{"a", "b", "c"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("listed %v, %v, want %v", names, err, want)
	}
}

func watching(t *testing.T, s control.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	news := s.Watch(ctx)
	first := create(t, s, "a")
	create(t, s, "b")
	heard := map[string]bool{}
	for len(heard) < 2 {
		key := <-news
		if key.Tenant != "default" {
			t.Fatalf("heard of tenant %q", key.Tenant)
		}
		heard[key.Name] = true
	}
	if err := s.Delete(t.Context(), "default", "a", first.Version); err != nil {
		t.Fatal(err)
	}
	if key := <-news; key.Name != "a" {
		t.Errorf("heard of %q, want a", key.Name)
	}
	cancel()
	for range news { // it closes
	}
}

func deafness(t *testing.T, s control.Store) {
	s.Watch(t.Context())
	for i := range 50 {
		create(t, s, fmt.Sprintf("e%d", i))
	}
}

func isolation(t *testing.T, s control.Store) {
	made := create(t, s, "iris")
	made.Tags[0].Value, made.Pending.Entities[0].Vars["A"] = "changed", "changed"
	got, err := s.Get(t.Context(), "default", "iris")
	if err != nil || got.Tags[0].Value != "v" || got.Pending.Entities[0].Vars["A"] != "ü" {
		t.Errorf("got %+v, %v: somebody else's change is in it", got, err)
	}
}

// RunDrawer examines the drawers that fresh returns, each of them empty.
func RunDrawer(t *testing.T, fresh func(*testing.T) control.Drawer) {
	t.Run("what is put comes back until it is deleted", func(t *testing.T) {
		d, ctx := fresh(t), t.Context()
		for _, value := range []string{"one", "", "two\x00\xff"} {
			if err := d.Put(ctx, "a/1", []byte(value)); err != nil {
				t.Fatal(err)
			}
			if got, err := d.Get(ctx, "a/1"); err != nil || string(got) != value {
				t.Errorf("got %q, %v, want %q", got, err, value)
			}
		}
		for range 2 { // deleting again is fine
			if err := d.Delete(ctx, "a/1"); err != nil {
				t.Error(err)
			}
		}
		_, err := d.Get(ctx, "a/1")
		wants(t, "get what is deleted", err, serving.NotFound)
	})
	t.Run("keys are listed by prefix, sorted", func(t *testing.T) {
		d, ctx := fresh(t), t.Context()
		for _, key := range []string{"b/1", "a/2", "a/1", "a%/3", "A/4"} {
			if err := d.Put(ctx, key, nil); err != nil {
				t.Fatal(err)
			}
		}
		for prefix, want := range map[string][]string{
			"a/": {"a/1", "a/2"}, "a%": {"a%/3"}, "": {"A/4", "a%/3", "a/1", "a/2", "b/1"}, "c": nil,
		} {
			if got, err := d.Keys(ctx, prefix); err != nil || !slices.Equal(got, want) {
				t.Errorf("keys of %q: %v, %v, want %v", prefix, got, err, want)
			}
		}
	})
}

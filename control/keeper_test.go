package control_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"loadline.dev/loadline/serving"
)

func TestNewEndpointBecomesReadyAndRequestsWaitForIt(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		time.Sleep(time.Second)
		synctest.Wait()
		if r := h.router.route("iris"); len(r.Entities) != 1 || !r.Entities[0].Coming || r.Entities[0].Percent != 100 {
			t.Errorf("while being prepared the route is %+v", r)
		}
		st := h.status("iris")
		if st.Ready || !st.Updating || st.Entities[0].State != serving.Creating || len(st.Entities[0].Phases) != 1 {
			t.Errorf("while being prepared it shows %+v", st)
		}
		h.settle()
		st = h.status("iris")
		if !st.Ready || st.Updating || st.Entities[0].State != serving.Deployed || st.Entities[0].Config != 1 {
			t.Errorf("at the end it shows %+v", st)
		}
		if r := h.router.route("iris"); len(r.Entities[0].Replicas) != 1 || r.Entities[0].Coming || r.Entities[0].Down != "" {
			t.Errorf("at the end the route is %+v", r)
		}
		if got, want := h.kinds("iris"), []string{"Created", "Prepared", "ReplicaReady", "UpdateDone", "TrafficMoved"}; !slices.Equal(got, want) {
			t.Errorf("events are %v, want %v", got, want)
		}
	})
}

func TestTrafficMovesOnlyWhenEveryEntityIsReady(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		h.settle()
		old := h.router.route("iris").Entities[0].Revision
		if _, err := h.SetConfig(t.Context(), "default", "iris", config("models:/iris/2", "models:/other/1")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second) // prepared, not ready
		synctest.Wait()
		if r := h.router.route("iris"); r.Entities[0].Revision != old || len(r.Entities[0].Replicas) != 1 {
			t.Errorf("traffic moved too early: %+v", r)
		}
		h.settle()
		r := h.router.route("iris")
		if len(r.Entities) != 2 || r.Entities[0].Revision == old || len(r.Entities[0].Replicas)+len(r.Entities[1].Replicas) != 2 {
			t.Errorf("traffic did not move: %+v", r)
		}
		if all := h.replicas(); len(all) != 2 {
			t.Errorf("the old replica is still there: %+v", all)
		}
		if e := h.get("iris"); e.Active.Version != 2 || len(e.History) != 1 || e.Pending != nil {
			t.Errorf("the record is %+v", e)
		}
	})
}

func TestFailedUpdateLeavesTheOldServing(t *testing.T) {
	for cause, breaks := range map[string]func(*house){
		"preparation fails": func(h *house) {
			h.preparer.Break("models:/iris/2", &serving.Error{Kind: serving.NotFound, Err: errors.New("no such version"), Fix: "loadline doctor"})
		},
		"the replica never becomes ready": func(h *house) {
			recipe, err := h.preparer.Prepare(context.Background(), config("models:/iris/2").Entities[0], func(serving.Phase) {})
			if err != nil {
				t.Fatal(err)
			}
			h.platform.Break(recipe.Digest, "ImportError: no such version")
		},
	} {
		t.Run(cause, func(t *testing.T) {
			inHouse(t, func(t *testing.T, h *house) {
				h.create("iris", "models:/iris/1")
				h.settle()
				before, running := h.router.route("iris"), ids(h.replicas())
				breaks(h)
				if _, err := h.SetConfig(t.Context(), "default", "iris", config("models:/iris/2")); err != nil {
					t.Fatal(err)
				}
				h.settle()
				e, st := h.get("iris"), h.status("iris")
				if e.Failed == nil || !strings.Contains(e.Failed.Why, "no such version") || e.Failed.Fix == "" || e.Failed.Entity != "e0" {
					t.Errorf("the failure is %+v", e.Failed)
				}
				if e.Active.Version != 1 || e.Pending != nil || !st.Ready || st.Updating {
					t.Errorf("record %+v, status %+v", e, st)
				}
				if now := h.router.route("iris"); now.Generation != before.Generation {
					t.Errorf("the route changed to %+v", now)
				}
				if now := ids(h.replicas()); !slices.Equal(now, running) {
					t.Errorf("replicas were %v and are %v", running, now)
				}
				last := st.Entities[len(st.Entities)-1]
				if last.State != serving.Broken || last.Config != 2 {
					t.Errorf("the failed entity shows %+v", last)
				}
			})
		})
	}
}

func TestFirstConfigThatFailsRefusesRequestsWithTheReason(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.preparer.Break("models:/iris/1", errors.New("no interpreter"))
		h.create("iris", "models:/iris/1")
		h.settle()
		if r := h.router.route("iris"); r.Entities[0].Down != "no interpreter" || r.Entities[0].Coming {
			t.Errorf("the route is %+v", r)
		}
		h.preparer.Break("models:/iris/1", nil)
		if _, err := h.SetConfig(t.Context(), "default", "iris", config("models:/iris/1")); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if e := h.get("iris"); !h.status("iris").Ready || e.Failed != nil || e.Active.Version != 2 {
			t.Errorf("after mending it is %+v", e)
		}
	})
}

func TestSameContentRestartsNothing(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		h.settle()
		before := ids(h.replicas())
		if _, err := h.SetConfig(t.Context(), "default", "iris", config("models:/iris/1")); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if _, err := h.SetTags(t.Context(), "default", "iris", []serving.Tag{{Key: "b", Value: "2"}, {Key: "a", Value: "1"}}, nil); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if e := h.get("iris"); e.Active.Version != 2 || len(e.Tags) != 2 || e.Tags[0].Key != "a" {
			t.Errorf("the record is %+v", e)
		}
		if after := ids(h.replicas()); !slices.Equal(before, after) {
			t.Errorf("replicas were %v and are %v", before, after)
		}
	})
}

func TestUpdateDuringUpdateIsConflict(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		h.settle()
		accepted, refused := 0, 0
		for i := range 100 { // in ten seconds; each takes fifteen
			_, err := h.SetConfig(t.Context(), "default", "iris", config(fmt.Sprintf("models:/iris/%d", i+2)))
			switch {
			case err == nil:
				accepted++
			case errors.Is(err, serving.Conflict) && strings.Contains(err.Error(), "wait or delete"):
				refused++
			default:
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		for what, order := range map[string]func() error{
			"rollback": func() error { _, err := h.Rollback(t.Context(), "default", "iris", 1); return err },
			"traffic":  func() error { _, err := h.SetSplits(t.Context(), "default", "iris", nil); return err },
			"scale":    func() error { _, err := h.SetScale(t.Context(), "default", "iris", "", serving.Scale{}); return err },
		} {
			if err := order(); !errors.Is(err, serving.Conflict) {
				t.Errorf("%s while updating: got %v, want a conflict", what, err)
			}
		}
		h.settle()
		if accepted != 1 || refused != 99 || h.get("iris").Active.Version != 2 {
			t.Errorf("%d accepted, %d refused, config %d answers", accepted, refused, h.get("iris").Active.Version)
		}
	})
}

func TestRollbackRunsWhatRanThoughTheAliasMoved(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.preparer.Resolve("models:/iris@champion", "models:/iris/1")
		h.create("iris", "models:/iris@champion")
		h.settle()
		first := h.router.route("iris").Entities[0].Revision
		h.preparer.Resolve("models:/iris@champion", "models:/iris/2")
		if _, err := h.SetConfig(t.Context(), "default", "iris", config("models:/iris@champion")); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if h.router.route("iris").Entities[0].Revision == first {
			t.Fatal("the update did not follow the alias")
		}
		for _, wrong := range []int{7, -1} {
			if _, err := h.Rollback(t.Context(), "default", "iris", wrong); !errors.Is(err, serving.NotFound) {
				t.Errorf("roll back to %d: got %v, want not found", wrong, err)
			}
		}
		e, err := h.Rollback(t.Context(), "default", "iris", 0)
		if err != nil || e.Pending.Version != 3 {
			t.Fatalf("rollback: %v, %+v", err, e)
		}
		h.settle()
		if now := h.router.route("iris").Entities[0].Revision; now != first || h.get("iris").Active.Version != 3 {
			t.Errorf("config %d runs %v, want %v", h.get("iris").Active.Version, now, first)
		}
	})
}

func TestSplitsAndScaleNeedNothingPrepared(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.Rewire = func(c serving.Config) []byte { return fmt.Appendf(nil, "v%d", c.Version) }
		h.create("iris", "models:/iris/1", "models:/iris/2")
		h.settle()
		before, calls := h.replicas(), h.preparer.Calls()
		if _, err := h.SetSplits(t.Context(), "default", "iris", []serving.Split{{Entity: "e0", Percent: 30}, {Entity: "e1", Percent: 69}}); !errors.Is(err, serving.Invalid) {
			t.Errorf("99 percent: got %v, want invalid", err)
		}
		e, err := h.SetSplits(t.Context(), "default", "iris", []serving.Split{{Entity: "e0", Percent: 30}, {Entity: "e1", Percent: 70}})
		if err != nil || e.Active.Version != 2 || string(e.Active.Wire) != "v2" {
			t.Fatalf("splits: %v, %+v", err, e)
		}
		synctest.Wait()
		if r := h.router.route("iris"); r.Entities[0].Percent != 30 || r.Entities[1].Percent != 70 {
			t.Errorf("the route is %+v", r)
		}
		if _, err := h.SetScale(t.Context(), "default", "iris", "", serving.Scale{Min: 2}); !errors.Is(err, serving.NotFound) {
			t.Errorf("scale of nobody in particular: got %v, want not found", err)
		}
		if _, err := h.SetScale(t.Context(), "default", "iris", "e1", serving.Scale{Min: 3}); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if r := h.router.route("iris"); len(r.Entities[0].Replicas) != 1 || len(r.Entities[1].Replicas) != 3 {
			t.Errorf("the route is %+v", r)
		}
		for _, id := range ids(before) {
			if !slices.Contains(ids(h.replicas()), id) {
				t.Errorf("replica %s was restarted", id)
			}
		}
		if h.preparer.Calls() != calls {
			t.Errorf("something was prepared anew")
		}
		if _, err := h.SetScale(t.Context(), "default", "iris", "e1", serving.Scale{Min: 1}); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if all := h.replicas(); len(all) != 2 || !slices.Equal(ids(all), ids(before)) {
			t.Errorf("after shrinking there are %v, want %v", ids(all), ids(before))
		}
	})
}

func TestDeleteConvergesWhateverIsUnderWay(t *testing.T) {
	for moment, wait := range map[string]time.Duration{
		"while prepared": time.Second, "while starting": 12 * time.Second, "when ready": time.Minute,
	} {
		t.Run(moment, func(t *testing.T) {
			inHouse(t, func(t *testing.T, h *house) {
				h.create("iris", "models:/iris/1")
				h.settle()
				if _, err := h.SetConfig(t.Context(), "default", "iris", config("models:/iris/2")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(wait)
				if err := h.Delete(t.Context(), "default", "iris"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if r := h.router.route("iris"); r.ID != "" {
					t.Errorf("it is still routed: %+v", r)
				}
				if _, err := h.Get(t.Context(), "default", "iris"); !errors.Is(err, serving.NotFound) {
					t.Errorf("get: %v, want not found", err)
				}
				if err := h.Delete(t.Context(), "default", "iris"); !errors.Is(err, serving.NotFound) {
					t.Errorf("delete again: %v, want not found", err)
				}
				h.settle()
				if _, err := h.store.Get(t.Context(), "default", "iris"); !errors.Is(err, serving.NotFound) || len(h.replicas()) > 0 {
					t.Errorf("left are the record (%v) and replicas %+v", err, h.replicas())
				}
				if keys, _ := h.drawer.Keys(t.Context(), ""); len(keys) > 0 {
					t.Errorf("left in the drawer: %v", keys)
				}
			})
		})
	}
}

func TestNameIsFreeAgainWhenTheOldOneHasDrained(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.platform.DrainDelay = 5 * time.Second
		h.create("iris", "models:/iris/1")
		h.settle()
		first := h.get("iris").ID
		if err := h.Delete(t.Context(), "default", "iris"); err != nil {
			t.Fatal(err)
		}
		h.create("iris", "models:/iris/2")
		h.settle()
		if e := h.get("iris"); e.ID == first || !h.status("iris").Ready {
			t.Errorf("the new one is %+v", e)
		}
		h.platform.DrainDelay = time.Hour
		if err := h.Delete(t.Context(), "default", "iris"); err != nil {
			t.Fatal(err)
		}
		c := config("models:/iris/3")
		_, err := h.Create(t.Context(), serving.Endpoint{Tenant: "default", Name: "iris", Pending: &c})
		if !errors.Is(err, serving.Conflict) {
			t.Errorf("while the old one drains: got %v, want a conflict", err)
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestOneOfAHundredCreatorsWins(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		errs := make([]error, 100)
		var all sync.WaitGroup
		for i := range errs {
			c := config("models:/iris/1")
			name := []string{"iris", "Iris", "IRIS"}[i%3]
			all.Go(func() {
				_, errs[i] = h.Create(context.Background(), serving.Endpoint{Tenant: "default", Name: name, Pending: &c})
			})
		}
		all.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, serving.Exists) || serving.FixOf(err) == "" {
				t.Errorf("a loser got %v", err)
			}
		}
		if list, err := h.List(t.Context(), "default"); won != 1 || err != nil || len(list) != 1 {
			t.Errorf("%d won; there are %+v, %v", won, list, err)
		}
	})
}

func TestDeskRefusesWhatCannotBe(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		good, bad := config("models:/iris/1"), config("models:/iris/1")
		bad.Splits[0].Percent = 99
		for why, e := range map[string]serving.Endpoint{
			"no name":    {Pending: &good},
			"bad name":   {Name: "../x", Pending: &good},
			"long name":  {Name: strings.Repeat("x", 64), Pending: &good},
			"device":     {Name: "Con", Pending: &good},
			"no config":  {Name: "iris"},
			"bad splits": {Name: "iris", Pending: &bad},
		} {
			if _, err := h.Create(t.Context(), e); !errors.Is(err, serving.Invalid) {
				t.Errorf("%s: got %v, want invalid", why, err)
			}
		}
		if _, err := h.SetConfig(t.Context(), "default", "iris", good); !errors.Is(err, serving.NotFound) {
			t.Errorf("config of nobody: %v", err)
		}
		h.create("iris", "models:/iris/1")
		h.settle()
		if _, err := h.Rollback(t.Context(), "default", "iris", 0); !errors.Is(err, serving.NotFound) {
			t.Errorf("rollback of the first config: %v", err)
		}
		sly := config("models:/iris/2")
		sly.Entities[0].Revision = "0000"
		e, err := h.SetConfig(t.Context(), "default", "iris", sly)
		if err != nil || e.Pending.Entities[0].Revision != "" {
			t.Errorf("a user chose a revision: %v, %+v", err, e.Pending)
		}
	})
}

// Whatever is ordered and whatever dies: an endpoint that answered once is
// routed to something that answers, and in the end the last accepted order is
// what runs.
func TestNeverAGapInAnyOrderOfThings(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inHouse(t, func(t *testing.T, h *house) {
				dice := rand.New(rand.NewPCG(seed, 1))
				h.create("iris", "models:/iris/0", "models:/other/0")
				h.settle()
				killed := false
				for range 60 {
					model := fmt.Sprintf("models:/iris/%d", dice.IntN(4))
					switch dice.IntN(8) {
					case 0, 1:
						h.SetConfig(t.Context(), "default", "iris", config(model))
					case 2:
						h.SetConfig(t.Context(), "default", "iris", config(model, "models:/other/1"))
					case 3:
						h.Rollback(t.Context(), "default", "iris", 0)
					case 4:
						h.SetScale(t.Context(), "default", "iris", "e0", serving.Scale{Min: dice.IntN(4)})
					case 5:
						if all := h.replicas(); len(all) > 0 {
							h.platform.Kill(all[dice.IntN(len(all))].ID)
							killed = true
						}
					case 6:
						h.preparer.Break(model, errors.New("broken"))
					case 7:
						h.preparer.Break(model, nil)
					}
					time.Sleep(time.Duration(dice.IntN(12)) * time.Second)
					synctest.Wait()
					r := h.router.route("iris")
					for _, e := range r.Entities {
						if len(e.Replicas) == 0 && !killed {
							t.Fatalf("a gap: %+v", r)
						}
					}
					if dice.IntN(4) == 0 {
						h.settle()
						killed = false
					}
				}
				h.settle()
				e, all, want := h.get("iris"), h.replicas(), 0
				for _, entity := range e.Active.Entities {
					want += max(1, entity.Scale.Min)
				}
				if e.Pending != nil || len(all) != want || !h.status("iris").Ready {
					t.Errorf("in the end there are %d replicas, want %d, of %+v", len(all), want, e)
				}
			})
		})
	}
}

// An engine may be back before anybody has looked; that it ended is told all the same.
func TestQuickRestartIsAnEvent(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("fraud", "models:/fraud/1")
		h.settle()
		h.platform.Turn(h.replicas()[0].ID, serving.Ready, 1, "")
		h.settle()
		if kinds := h.kinds("fraud"); !slices.Contains(kinds, "ReplicaDied") {
			t.Errorf("events are %v", kinds)
		}
	})
}

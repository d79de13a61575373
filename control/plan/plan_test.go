package plan_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"loadline.dev/loadline/control/plan"
	"loadline.dev/loadline/serving"
)

func rev(digest string) serving.Revision { return serving.Revision{Endpoint: "e", Digest: digest} }

func goal(digest string, size int) plan.Goal {
	return plan.Goal{Entity: "of-" + digest, Revision: rev(digest), Size: size}
}

func seen(digest string, states ...serving.State) []serving.Replica {
	var list []serving.Replica
	for i, s := range states {
		list = append(list, serving.Replica{ID: fmt.Sprintf("%s%d", digest, i), Revision: rev(digest), State: s})
	}
	return list
}

func TestNext(t *testing.T) {
	resize := func(digest string, size int) plan.Step {
		s := plan.Step{Verb: plan.Resize, Revision: rev(digest), Size: size}
		if size > 0 {
			s.Entity = "of-" + digest
		}
		return s
	}
	for sentence, c := range map[string]struct {
		wish  plan.Wish
		world plan.World
		want  []plan.Step
	}{
		"a settled endpoint yields no step": {
			plan.Wish{Active: []plan.Goal{goal("a", 2)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 2}, Routed: []serving.Revision{rev("a")}, Seen: seen("a", "ready", "ready")},
			nil,
		},
		"after a restart what runs is told its size again": {
			plan.Wish{Active: []plan.Goal{goal("a", 2)}},
			plan.World{Seen: seen("a", "ready", "ready")},
			[]plan.Step{resize("a", 2)},
		},
		"a pending config grows beside the active one": {
			plan.Wish{Active: []plan.Goal{goal("a", 1)}, Pending: []plan.Goal{goal("b", 2)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 1}, Routed: []serving.Revision{rev("a")}, Seen: seen("a", "ready")},
			[]plan.Step{resize("b", 2)},
		},
		"one that is not prepared is waited for": {
			plan.Wish{Pending: []plan.Goal{goal("", 1)}}, plan.World{}, nil,
		},
		"a pending config is promoted when every replica it wants is ready": {
			plan.Wish{Active: []plan.Goal{goal("a", 1)}, Pending: []plan.Goal{goal("b", 2)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 1, rev("b"): 2}, Routed: []serving.Revision{rev("a")},
				Seen: append(seen("a", "ready"), seen("b", "ready", "ready")...)},
			[]plan.Step{{Verb: plan.Promote}},
		},
		"but not when one of them still starts": {
			plan.Wish{Active: []plan.Goal{goal("a", 1)}, Pending: []plan.Goal{goal("b", 2)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 1, rev("b"): 2}, Routed: []serving.Revision{rev("a")},
				Seen: append(seen("a", "ready"), seen("b", "ready", "starting")...)},
			nil,
		},
		"a size of zero is proven by one replica": {
			plan.Wish{Pending: []plan.Goal{goal("b", 0)}}, plan.World{}, []plan.Step{resize("b", 1)},
		},
		"what is still routed does not stop": {
			plan.Wish{Active: []plan.Goal{goal("b", 1)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 1, rev("b"): 1}, Routed: []serving.Revision{rev("a")},
				Seen: append(seen("a", "ready"), seen("b", "ready")...)},
			nil,
		},
		"what is routed no more stops": {
			plan.Wish{Active: []plan.Goal{goal("b", 1)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 1, rev("b"): 1}, Routed: []serving.Revision{rev("b")},
				Seen: append(seen("a", "ready"), seen("b", "ready")...)},
			[]plan.Step{resize("a", 0)},
		},
		"what drains is not stopped again": {
			plan.Wish{Active: []plan.Goal{goal("b", 1)}},
			plan.World{Applied: map[serving.Revision]int{rev("b"): 1}, Seen: append(seen("a", "draining"), seen("b", "ready")...)},
			nil,
		},
		"a shared revision is not shrunk before traffic has moved": {
			plan.Wish{Active: []plan.Goal{goal("a", 3)}, Pending: []plan.Goal{goal("a", 1)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 3}, Seen: seen("a", "ready", "ready", "ready")},
			[]plan.Step{{Verb: plan.Promote}},
		},
		"entities of equal content add up": {
			plan.Wish{Active: []plan.Goal{goal("a", 1), goal("a", 2)}}, plan.World{}, []plan.Step{resize("a", 3)},
		},
		"a failed replica fails the update": {
			plan.Wish{Active: []plan.Goal{goal("a", 1)}, Pending: []plan.Goal{goal("b", 1)}},
			plan.World{Seen: []serving.Replica{{ID: "x", Revision: rev("b"), State: serving.Failed, Why: "ImportError"}}},
			[]plan.Step{{Verb: plan.Fail, Entity: "of-b", Revision: rev("b"), Why: "ImportError"}},
		},
		"one that dies again and again does too": {
			plan.Wish{Pending: []plan.Goal{goal("b", 1)}},
			plan.World{Seen: []serving.Replica{{ID: "x", Revision: rev("b"), State: serving.Backoff, Restarts: plan.MaxStarts, Why: "died"}}},
			[]plan.Step{{Verb: plan.Fail, Entity: "of-b", Revision: rev("b"), Why: "died"}},
		},
		"one that died once may try again": {
			plan.Wish{Pending: []plan.Goal{goal("b", 1)}},
			plan.World{Applied: map[serving.Revision]int{rev("b"): 1},
				Seen: []serving.Replica{{ID: "x", Revision: rev("b"), State: serving.Backoff, Restarts: 1, Why: "died"}}},
			nil,
		},
		"what serves already fails no update": {
			plan.Wish{Active: []plan.Goal{goal("a", 1)}, Pending: []plan.Goal{goal("a", 1)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 1}, Seen: seen("a", "failed")},
			nil,
		},
		"what cannot be prepared fails the update": {
			plan.Wish{Pending: []plan.Goal{{Entity: "m", Trouble: "no such model"}}}, plan.World{},
			[]plan.Step{{Verb: plan.Fail, Entity: "m", Why: "no such model"}},
		},
		"what is being brought back is left as it is": {
			plan.Wish{Active: []plan.Goal{{Entity: "m", Revision: rev("a"), Size: 2, Held: true}}},
			plan.World{Seen: seen("a", "ready")}, nil,
		},
		"deletion waits for the route": {
			plan.Wish{Deleting: true, Active: []plan.Goal{goal("a", 1)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 1}, Routed: []serving.Revision{rev("a")}, Seen: seen("a", "ready")},
			nil,
		},
		"then stops everything": {
			plan.Wish{Deleting: true, Active: []plan.Goal{goal("a", 1)}},
			plan.World{Applied: map[serving.Revision]int{rev("a"): 1}, Seen: append(seen("a", "ready"), seen("b", "starting")...)},
			[]plan.Step{resize("a", 0), resize("b", 0)},
		},
		"then waits for who drains": {
			plan.Wish{Deleting: true}, plan.World{Seen: seen("a", "draining")}, nil,
		},
		"and then removes the record": {
			plan.Wish{Deleting: true}, plan.World{}, []plan.Step{{Verb: plan.Remove}},
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			if got := plan.Next(c.wish, c.world); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestPredecessors(t *testing.T) {
	config := func(pairs ...string) (c serving.Config) { // name, lineage, …
		for i := 0; i < len(pairs); i += 2 {
			c.Entities = append(c.Entities, serving.Entity{Name: pairs[i], Lineage: pairs[i+1]})
		}
		return c
	}
	for sentence, c := range map[string]struct {
		old, next serving.Config
		want      map[string]string
	}{
		"the same name first":             {config("a", "m", "b", "n"), config("b", "m", "a", "n"), map[string]string{"a": "a", "b": "b"}},
		"then the same lineage":           {config("m-1", "m", "n-1", "n"), config("n-2", "n", "m-2", "m"), map[string]string{"m-2": "m-1", "n-2": "n-1"}},
		"one before and one after":        {config("m-1", "m"), config("x", "y"), map[string]string{"x": "m-1"}},
		"two after: nobody is guessed":    {config("m-1", "m"), config("x", "y", "z", "w"), map[string]string{}},
		"an entity has one heir":          {config("m-1", "m"), config("m-1", "m", "m-2", "m"), map[string]string{"m-1": "m-1"}},
		"no lineage is not a common one":  {config("a", "", "b", ""), config("c", "", "d", ""), map[string]string{}},
		"the first config follows nobody": {config(), config("a", "m"), map[string]string{}},
	} {
		t.Run(sentence, func(t *testing.T) {
			got := map[string]string{}
			for name, was := range plan.Predecessors(c.old, c.next) {
				got[name] = was.Name
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestOrderOfReplicasChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, world := drawWish(t), drawWorld(t)
		want := plan.Next(w, world)
		shuffled := world
		shuffled.Seen = rapid.Permutation(world.Seen).Draw(t, "shuffled")
		shuffled.Routed = rapid.Permutation(world.Routed).Draw(t, "routed")
		if got := plan.Next(w, shuffled); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestNothingRoutedIsEverStopped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, world := drawWish(t), drawWorld(t)
		for _, s := range plan.Next(w, world) {
			if s.Verb == plan.Resize && s.Size == 0 && slices.Contains(world.Routed, s.Revision) {
				t.Fatalf("%+v stops what is routed", s)
			}
			if s.Verb == plan.Remove && (len(world.Seen) > 0 || len(world.Routed) > 0) {
				t.Fatalf("removed while something is left: %+v", world)
			}
		}
	})
}

// A small world that obeys: whatever is wished and whoever dies, it comes to
// rest with what was wished, the pending config is promoted or failed, and
// while nobody dies what is routed always has somebody ready.
func TestConvergesUnderRandomDeaths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		deaths := rapid.IntRange(0, 6).Draw(t, "deaths")
		active, pending := []plan.Goal{goal("a", 2), goal("b", 1)}, []plan.Goal{goal("b", 2), goal("c", 1+dice.IntN(3))}
		sim := &simulation{dice: dice, world: plan.World{Applied: map[serving.Revision]int{}}}
		w := plan.Wish{Active: active}
		for range 30 {
			w = sim.round(w, 0)
		}
		sim.died = false
		w.Pending = pending
		for range 60 {
			n := 0
			if deaths > 0 && dice.IntN(3) == 0 {
				n, deaths = 1, deaths-1
			}
			w = sim.round(w, n)
			if !sim.died {
				for _, r := range sim.world.Routed {
					if plan.Ready(sim.world.Seen, r) == 0 {
						t.Fatalf("a gap at %v", r)
					}
				}
			}
		}
		if len(w.Pending) > 0 || !reflect.DeepEqual(w.Active, pending) {
			t.Fatalf("the update has not come through: %+v", w)
		}
		if steps := plan.Next(w, sim.world); len(steps) > 0 {
			t.Fatalf("it is not at rest: %+v", steps)
		}
		for _, g := range pending {
			if n := plan.Ready(sim.world.Seen, g.Revision); n != g.Size {
				t.Fatalf("%d of %d ready for %v", n, g.Size, g.Revision)
			}
		}
		if n := plan.Ready(sim.world.Seen, rev("a")); n != 0 {
			t.Fatalf("%d old replicas are left", n)
		}
	})
}

type simulation struct {
	dice  *rand.Rand
	world plan.World
	made  int
	died  bool
}

// round lets somebody die and the others get on, publishes, and takes the steps.
func (s *simulation) round(w plan.Wish, deaths int) plan.Wish {
	for ; deaths > 0 && len(s.world.Seen) > 0; deaths-- {
		i := s.dice.IntN(len(s.world.Seen))
		s.world.Seen = slices.Delete(s.world.Seen, i, i+1)
		s.died = true
	}
	for i := range s.world.Seen {
		if s.world.Seen[i].State == serving.Starting && s.dice.IntN(2) == 0 {
			s.world.Seen[i].State = serving.Ready
		}
	}
	s.world.Seen = slices.DeleteFunc(s.world.Seen, func(r serving.Replica) bool {
		return r.State == serving.Draining && s.dice.IntN(2) == 0
	})
	s.world.Routed = nil
	for _, g := range w.Active {
		if plan.Ready(s.world.Seen, g.Revision) > 0 {
			s.world.Routed = append(s.world.Routed, g.Revision)
		}
	}
	for _, step := range plan.Next(w, s.world) {
		switch step.Verb {
		case plan.Promote:
			w = plan.Wish{Active: w.Pending}
		case plan.Fail:
			w.Pending = nil
		case plan.Resize:
			s.resize(step.Revision, step.Size)
		}
	}
	return w
}

func (s *simulation) resize(rev serving.Revision, size int) {
	s.world.Applied[rev] = size
	live := 0
	for i, r := range s.world.Seen {
		if r.Revision != rev || r.State == serving.Draining {
			continue
		}
		if live++; live > size {
			s.world.Seen[i].State = serving.Draining
		}
	}
	for ; live < size; live++ {
		s.made++
		s.world.Seen = append(s.world.Seen, serving.Replica{ID: fmt.Sprint(s.made), Revision: rev, State: serving.Starting})
	}
}

func drawWish(t *rapid.T) plan.Wish {
	goals := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) plan.Goal {
		g := goal(rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "digest"), rapid.IntRange(1, 3).Draw(t, "size"))
		g.Held = rapid.IntRange(0, 4).Draw(t, "held") == 0
		return g
	}), 0, 3)
	return plan.Wish{Active: goals.Draw(t, "active"), Pending: goals.Draw(t, "pending"), Deleting: rapid.IntRange(0, 5).Draw(t, "deleting") == 0}
}

func drawWorld(t *rapid.T) plan.World {
	digest := rapid.SampledFrom([]string{"a", "b", "c", "d"})
	world := plan.World{Applied: map[serving.Revision]int{}}
	for _, d := range rapid.SliceOfNDistinct(digest, 0, 4, rapid.ID).Draw(t, "applied") {
		world.Applied[rev(d)] = rapid.IntRange(0, 3).Draw(t, "size")
	}
	for _, d := range rapid.SliceOfNDistinct(digest, 0, 4, rapid.ID).Draw(t, "routed") {
		world.Routed = append(world.Routed, rev(d))
	}
	n := rapid.IntRange(0, 6).Draw(t, "replicas")
	for i := range n {
		world.Seen = append(world.Seen, serving.Replica{ID: fmt.Sprint(i), Revision: rev(digest.Draw(t, "of")), Restarts: rapid.IntRange(0, 4).Draw(t, "restarts"),
			State: rapid.SampledFrom([]serving.State{"starting", "ready", "draining", "backoff", "failed"}).Draw(t, "state"), Why: fmt.Sprint("why", i)})
	}
	return world
}

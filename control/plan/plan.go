// Package plan decides what separates an endpoint's wish from the world, as
// ordered steps.
//
// [Next] is a pure function: it is shown what is wished and what is seen, and
// returns differences only, so a settled endpoint yields no step. It never
// plans a gap: what is new grows while what is old stays, the new config is
// promoted when every entity of it is ready, and a revision stops only when
// no route sends traffic to it any more.
//
// # What it does not do
//
// It takes no step itself, knows no time, and does not say how large an entity
// should be: sizes are handed in.
package plan

import (
	"cmp"
	"slices"

	"loadline.dev/loadline/serving"
)

// MaxStarts is how often a replica may die on its way to ready before the
// update that wants it is given up.
const MaxStarts = 3

// A Goal is one entity as it should run.
type Goal struct {
	Entity   string
	Revision serving.Revision // its Digest is empty until it is prepared
	Size     int              // replicas wanted

	// Held says that what the revision needs to start is being brought back:
	// what runs of it is left as it is.
	Held bool

	// Trouble says why it cannot be prepared; empty otherwise.
	Trouble string
}

// A Wish is what an endpoint should be.
type Wish struct {
	Active   []Goal
	Pending  []Goal // the config being made ready; empty when there is none
	Deleting bool
}

// A World is what is seen of an endpoint.
type World struct {
	// Applied is the size last stated for each revision by this process.
	Applied map[serving.Revision]int

	// Routed are the revisions to which some gateway may still send traffic.
	Routed []serving.Revision

	Seen []serving.Replica // in any order
}

// A Verb is what a step does.
type Verb string

const (
	Resize  Verb = "resize"  // state that Revision has Size replicas
	Promote Verb = "promote" // the pending config becomes the active one
	Fail    Verb = "fail"    // the pending config is given up; Entity and Why say for what
	Remove  Verb = "remove"  // nothing is left: the record goes
)

// A Step is one thing to do.
type Step struct {
	Verb     Verb
	Revision serving.Revision
	Size     int
	Entity   string
	Why      string
}

// Next returns what is to be done now, in order; nothing when the world is as
// wished or when only waiting helps.
func Next(w Wish, world World) []Step {
	if w.Deleting {
		return farewell(world)
	}
	if fail, hopeless := giveUp(w, world.Seen); hopeless {
		return []Step{fail}
	}
	var steps []Step
	sizes, order := targets(w)
	for _, rev := range order {
		want, known := sizes[rev]
		if known && differs(world, rev, want.size) {
			steps = append(steps, Step{Verb: Resize, Revision: rev, Size: want.size, Entity: want.entity})
		}
	}
	steps = append(steps, stops(world, order)...)
	if complete(w.Pending, world.Seen) {
		steps = append(steps, Step{Verb: Promote})
	}
	return steps
}

type target struct {
	size   int
	entity string // the first one that wants it
}

// targets sums what the entities want of each revision: within a config they
// add up, between the active and the pending one the larger counts, so that
// nothing shrinks before traffic has moved. The order lists every revision
// that is wanted; one that is held has no target.
func targets(w Wish) (map[serving.Revision]target, []serving.Revision) {
	sizes := map[serving.Revision]target{}
	var order, held []serving.Revision
	for i, goals := range [][]Goal{w.Active, w.Pending} {
		sums := map[serving.Revision]target{}
		for _, g := range goals {
			if i == 1 {
				g.Size = max(1, g.Size) // a newcomer proves itself even where none is needed now
			}
			if g.Revision.Digest == "" {
				continue
			}
			if !slices.Contains(order, g.Revision) {
				order = append(order, g.Revision)
			}
			if g.Held {
				held = append(held, g.Revision)
			}
			t := sums[g.Revision]
			sums[g.Revision] = target{t.size + g.Size, cmp.Or(t.entity, g.Entity)}
		}
		for rev, t := range sums {
			before := sizes[rev]
			sizes[rev] = target{max(before.size, t.size), cmp.Or(before.entity, t.entity)}
		}
	}
	for _, rev := range held {
		delete(sizes, rev)
	}
	return sizes, order
}

// differs says whether a revision has to be told its size: because it was not
// told, or because what runs is not that many.
func differs(world World, rev serving.Revision, size int) bool {
	told, ever := world.Applied[rev]
	if size == 0 { // nothing has to be told that there is nothing to be
		return told > 0 || alive(world.Seen, rev) > 0
	}
	return !ever || told != size || alive(world.Seen, rev) != size
}

// stops lists the revisions that nobody wants and nobody routes to.
func stops(world World, wanted []serving.Revision) []Step {
	var left []serving.Revision
	for rev, size := range world.Applied {
		if size > 0 {
			left = append(left, rev)
		}
	}
	for _, r := range world.Seen {
		if r.State != serving.Draining {
			left = append(left, r.Revision)
		}
	}
	slices.SortFunc(left, func(a, b serving.Revision) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Digest, b.Digest))
	})
	var steps []Step
	for _, rev := range slices.Compact(left) {
		if !slices.Contains(wanted, rev) && !slices.Contains(world.Routed, rev) {
			steps = append(steps, Step{Verb: Resize, Revision: rev})
		}
	}
	return steps
}

// farewell stops everything, and ends when nothing is left.
func farewell(world World) []Step {
	if steps := stops(world, nil); len(steps) > 0 {
		return steps
	}
	if len(world.Seen) == 0 && len(world.Routed) == 0 {
		return []Step{{Verb: Remove}}
	}
	return nil
}

// giveUp finds the first reason why the pending config cannot become ready.
// A revision that already answers is never a reason.
func giveUp(w Wish, seen []serving.Replica) (Step, bool) {
	for _, g := range w.Pending {
		if g.Trouble != "" {
			return Step{Verb: Fail, Entity: g.Entity, Revision: g.Revision, Why: g.Trouble}, true
		}
		serves := slices.ContainsFunc(w.Active, func(a Goal) bool { return a.Revision == g.Revision })
		if g.Revision.Digest == "" || serves {
			continue
		}
		if why := worst(seen, g.Revision); why != "" {
			return Step{Verb: Fail, Entity: g.Entity, Revision: g.Revision, Why: why}, true
		}
	}
	return Step{}, false
}

// worst returns why a replica of rev is hopeless, of the one with the smallest
// ID, so that the order in which replicas are seen changes nothing.
func worst(seen []serving.Replica, rev serving.Revision) string {
	id, why := "", ""
	for _, r := range seen {
		if r.Revision == rev && Hopeless(r) && (id == "" || r.ID < id) {
			id, why = r.ID, cmp.Or(r.Why, "the replica failed without saying why")
		}
	}
	return why
}

// Hopeless says that a replica is not expected to become ready by itself.
func Hopeless(r serving.Replica) bool {
	return r.State == serving.Failed || r.State == serving.Backoff && r.Restarts >= MaxStarts
}

// complete says that every entity of a pending config is ready.
func complete(pending []Goal, seen []serving.Replica) bool {
	wanted := map[serving.Revision]int{}
	for _, g := range pending {
		if g.Revision.Digest == "" || g.Held {
			return false
		}
		wanted[g.Revision] += max(1, g.Size)
	}
	for rev, size := range wanted {
		if Ready(seen, rev) < size {
			return false
		}
	}
	return len(pending) > 0
}

// Ready counts the replicas of rev that may take requests.
func Ready(seen []serving.Replica, rev serving.Revision) int {
	n := 0
	for _, r := range seen {
		if r.Revision == rev && r.State == serving.Ready {
			n++
		}
	}
	return n
}

// alive counts the replicas of rev that are not on their way out.
func alive(seen []serving.Replica, rev serving.Revision) int {
	n := 0
	for _, r := range seen {
		if r.Revision == rev && r.State != serving.Draining {
			n++
		}
	}
	return n
}

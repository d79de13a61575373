// Package platformtest is the exam that every control.Platform passes. It knows
// nothing of where replicas live.
package platformtest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

// A Bench is a platform under examination.
type Bench struct {
	control.Platform

	// Recipe returns one that a replica can start from, of that digest.
	Recipe func(digest string) serving.Recipe

	// Kill ends a replica as a crash would.
	Kill func(t *testing.T, r serving.Replica)

	// Patience is how long starting and stopping may take.
	Patience time.Duration
}

// Run examines the platforms that fresh returns, each without replicas.
func Run(t *testing.T, fresh func(*testing.T) Bench) {
	for claim, exam := range map[string]func(*testing.T, Bench){
		"a wish is fulfilled":                            fulfilment,
		"a repeated wish changes nothing":                repetition,
		"growing keeps what runs":                        growth,
		"shrinking keeps the oldest, zero leaves nobody": shrinking,
		"revisions do not disturb each other":            revisions,
		"endpoints do not see each other":                endpoints,
		"who dies is replaced":                           replacement,
		"stopping what never ran is fine":                nothing,
		"changes are told":                               changes,
	} {
		t.Run(claim, func(t *testing.T) { exam(t, fresh(t)) })
	}
}

func (b Bench) apply(t *testing.T, endpoint, digest string, size int) {
	t.Helper()
	rev := serving.Revision{Endpoint: endpoint, Digest: digest}
	var a serving.Assignment
	if size > 0 {
		a = serving.Assignment{Endpoint: "name-of-" + endpoint, Entity: "m", Revision: rev, Recipe: b.Recipe(digest)}
	}
	if err := b.Apply(t.Context(), rev, a, size); err != nil {
		t.Fatalf("apply %s×%d: %v", digest, size, err)
	}
}

// await waits until exactly size replicas of a digest are seen, all ready, and
// returns them oldest first.
func (b Bench) await(t *testing.T, endpoint, digest string, size int) []serving.Replica {
	t.Helper()
	return b.until(t, endpoint, fmt.Sprintf("%d ready replicas of %s", size, digest), func(all []serving.Replica) ([]serving.Replica, bool) {
		all = of(all, digest)
		ready := !slices.ContainsFunc(all, func(r serving.Replica) bool { return r.State != serving.Ready })
		return all, ready && len(all) == size
	})
}

func (b Bench) until(t *testing.T, endpoint, what string, enough func([]serving.Replica) ([]serving.Replica, bool)) []serving.Replica {
	t.Helper()
	deadline := time.Now().Add(b.Patience)
	for {
		all, err := b.Replicas(t.Context(), endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if found, ok := enough(all); ok {
			slices.SortFunc(found, func(x, y serving.Replica) int { return x.Started.Compare(y.Started) })
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %v; seen are %+v", what, b.Patience, all)
		}
		time.Sleep(5 * time.Millisecond) // a platform owes no signal, so the exam looks again
	}
}

func of(all []serving.Replica, digest string) []serving.Replica {
	return slices.DeleteFunc(slices.Clone(all), func(r serving.Replica) bool { return r.Revision.Digest != digest })
}

func ids(all []serving.Replica) []string {
	var list []string
	for _, r := range all {
		list = append(list, r.ID)
	}
	slices.Sort(list)
	return list
}

func fulfilment(t *testing.T, b Bench) {
	b.apply(t, "e1", "d1", 2)
	all := b.await(t, "e1", "d1", 2)
	for _, r := range all {
		if r.Revision != (serving.Revision{Endpoint: "e1", Digest: "d1"}) || r.ID == "" || r.Addr == "" || r.PID == 0 ||
			r.Started.IsZero() || r.Since.Before(r.Started) {
			t.Errorf("replica %+v lacks something", r)
		}
	}
	if all[0].ID == all[1].ID || all[0].Addr == all[1].Addr {
		t.Errorf("two replicas share a name or an address: %+v", all)
	}
}

func repetition(t *testing.T, b Bench) {
	b.apply(t, "e1", "d1", 2)
	before := b.await(t, "e1", "d1", 2)
	for range 5 {
		b.apply(t, "e1", "d1", 2)
	}
	if after := b.await(t, "e1", "d1", 2); !slices.Equal(ids(before), ids(after)) || before[0].PID != after[0].PID {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func growth(t *testing.T, b Bench) {
	b.apply(t, "e1", "d1", 1)
	before := b.await(t, "e1", "d1", 1)
	b.apply(t, "e1", "d1", 3)
	if after := b.await(t, "e1", "d1", 3); !slices.Contains(ids(after), before[0].ID) {
		t.Errorf("%s is gone from %v", before[0].ID, ids(after))
	}
}

func shrinking(t *testing.T, b Bench) {
	b.apply(t, "e1", "d1", 1)
	oldest := b.await(t, "e1", "d1", 1)
	b.apply(t, "e1", "d1", 3)
	b.await(t, "e1", "d1", 3)
	b.apply(t, "e1", "d1", 1)
	if left := b.await(t, "e1", "d1", 1); left[0].ID != oldest[0].ID {
		t.Errorf("%s is left, want %s", left[0].ID, oldest[0].ID)
	}
	b.apply(t, "e1", "d1", 0)
	b.await(t, "e1", "d1", 0)
}

func revisions(t *testing.T, b Bench) {
	b.apply(t, "e1", "d1", 1)
	old := b.await(t, "e1", "d1", 1)
	b.apply(t, "e1", "d2", 2)
	b.await(t, "e1", "d2", 2)
	if still := b.await(t, "e1", "d1", 1); still[0].ID != old[0].ID {
		t.Errorf("%s took the place of %s", still[0].ID, old[0].ID)
	}
	b.apply(t, "e1", "d1", 0)
	b.await(t, "e1", "d1", 0)
	b.await(t, "e1", "d2", 2)
}

func endpoints(t *testing.T, b Bench) {
	b.apply(t, "e1", "d1", 1)
	b.apply(t, "e2", "d1", 1)
	one, two := b.await(t, "e1", "d1", 1), b.await(t, "e2", "d1", 1)
	if one[0].ID == two[0].ID {
		t.Errorf("both endpoints show replica %s", one[0].ID)
	}
	all, err := b.Replicas(t.Context(), "")
	if err != nil || len(all) != 2 {
		t.Errorf("everywhere: %+v, %v, want 2 replicas", all, err)
	}
	b.apply(t, "e1", "d1", 0)
	b.await(t, "e1", "d1", 0)
	if still := b.await(t, "e2", "d1", 1); still[0].ID != two[0].ID {
		t.Errorf("%s took the place of %s", still[0].ID, two[0].ID)
	}
}

func replacement(t *testing.T, b Bench) {
	b.apply(t, "e1", "d1", 2)
	before := b.await(t, "e1", "d1", 2)
	b.Kill(t, before[0])
	after := b.until(t, "e1", "replacement", func(all []serving.Replica) ([]serving.Replica, bool) {
		ready := !slices.ContainsFunc(all, func(r serving.Replica) bool { return r.State != serving.Ready })
		return all, ready && len(all) == 2 && !slices.Contains(ids(all), before[0].ID)
	})
	if !slices.Contains(ids(after), before[1].ID) {
		t.Errorf("the other replica %s is gone too: %v", before[1].ID, ids(after))
	}
}

func nothing(t *testing.T, b Bench) {
	b.apply(t, "e1", "d1", 0)
	b.await(t, "e1", "d1", 0)
}

func changes(t *testing.T, b Bench) {
	w, ok := b.Platform.(control.Watcher)
	if !ok {
		t.Skip("this platform tells nothing; it is looked at again and again")
	}
	news := w.Changes(t.Context())
	b.apply(t, "e1", "d1", 1)
	for {
		if id := <-news; id != "e1" {
			t.Fatalf("heard of %q", id)
		}
		all, err := b.Replicas(t.Context(), "e1")
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 1 && all[0].State == serving.Ready {
			return
		}
	}
}

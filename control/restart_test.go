package control_test

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

func TestTroubleOfOneNeverBlocksAnother(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.preparer.Delay = time.Hour
		h.create("slow", "models:/slow/1")
		synctest.Wait()
		h.preparer.Delay = time.Second
		h.create("quick", "models:/quick/1")
		h.settle()
		if h.status("slow").Ready || !h.status("quick").Ready {
			t.Errorf("slow %+v, quick %+v", h.status("slow"), h.status("quick"))
		}
	})
}

func TestRestartPreparesAndRestartsNothing(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.preparer.Resolve("models:/iris@champion", "models:/iris/1")
		h.create("iris", "models:/iris@champion")
		h.create("late", "models:/late/1")
		h.settle()
		if _, err := h.SetConfig(t.Context(), "default", "late", config("models:/late/2")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		before, calls := h.router.route("iris").Entities[0].Replicas[0].ID, h.preparer.Calls()
		h.stop()
		if e := h.get("late"); e.Failed != nil || e.Pending == nil {
			t.Fatalf("stopping failed the update: %+v", e)
		}
		h.router.now = map[string]serving.Route{}
		h.preparer.Resolve("models:/iris@champion", "models:/iris/2")
		h.start()
		synctest.Wait()
		if r := h.router.route("iris"); len(r.Entities) != 1 || len(r.Entities[0].Replicas) != 1 {
			t.Errorf("at once the route is %+v", r)
		}
		h.settle()
		if e := h.get("late"); e.Active.Version != 2 || h.preparer.Calls() != calls+1 {
			t.Errorf("the interrupted update is at %+v after %d preparations", e, h.preparer.Calls()-calls)
		}
		if after := ids(h.replicas()); !slices.Contains(after, before) || len(after) != 2 {
			t.Errorf("replica was %v, replicas are %v", before, after)
		}
		if kinds := h.kinds("iris"); kinds[0] != "Created" {
			t.Errorf("events began anew: %v", kinds)
		}
	})
}

// Whoever asks the moment a gateway opens must not hear that there is no such endpoint.
func TestRouterKnowsEveryEndpointBeforeTheKeeperRuns(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		h.create("leaving", "models:/leaving/1")
		h.settle()
		h.create("coming", "models:/coming/1")
		if err := h.Delete(t.Context(), "default", "leaving"); err != nil {
			t.Fatal(err)
		}
		h.stop()
		h.router.now = map[string]serving.Route{}
		next := control.New(control.Parts{Store: h.store, Platform: h.platform, Preparer: h.preparer, Router: h.router,
			Drawer: h.drawer, Log: slog.New(slog.DiscardHandler)})
		defer next.Close()
		if err := next.Introduce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := h.router.route("iris"); len(r.Entities) != 1 || len(r.Entities[0].Replicas) != 1 {
			t.Errorf("iris is routed to %+v", r)
		}
		if r := h.router.route("coming"); len(r.Entities) != 1 || !r.Entities[0].Coming {
			t.Errorf("coming is routed to %+v", r)
		}
		if r := h.router.route("leaving"); len(r.Entities) != 0 {
			t.Errorf("leaving is routed to %+v", r)
		}
		h.start()
	})
}

func TestWhatBelongsToNobodyIsStopped(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		rev := serving.Revision{Endpoint: "gone", Digest: "d"}
		if err := h.platform.Apply(t.Context(), rev, serving.Assignment{Revision: rev}, 2); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if all := h.replicas(); len(all) > 0 {
			t.Errorf("orphans are left: %+v", all)
		}
	})
}

func TestRestartChecksWhatRecipesPointAtBeforeItStartsAnything(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		h.settle()
		first := h.router.route("iris").Entities[0].Replicas[0].ID
		h.stop()
		h.preparer.Break("models:/iris/1", errors.New("model.pkl: bytes differ"))
		h.router.now = map[string]serving.Route{}
		h.start()
		synctest.Wait()
		if r := h.router.route("iris"); len(r.Entities) != 1 || len(r.Entities[0].Replicas) != 1 || r.Entities[0].Replicas[0].ID != first {
			t.Errorf("what runs is not routed while recipes are checked: %+v", r)
		}
		h.settle()
		if n := h.preparer.Renews(); n < 2 || n > 8 {
			t.Errorf("in a minute it was tried %d times", n)
		}
		if !h.status("iris").Ready || !slices.Equal(ids(h.replicas()), []string{first}) {
			t.Errorf("status %+v, replicas %v", h.status("iris"), ids(h.replicas()))
		}
		h.platform.Turn(first, serving.Failed, 0, "out of memory")
		synctest.Wait()
		if r := h.router.route("iris"); r.Entities[0].Down != "out of memory" {
			t.Errorf("the route is %+v", r)
		}
		if _, err := h.SetScale(t.Context(), "default", "iris", "", serving.Scale{Min: 2}); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if all := h.replicas(); len(all) != 1 {
			t.Errorf("started from damaged bytes: %+v", all)
		}
		h.preparer.Break("models:/iris/1", nil)
		h.settle()
		h.settle()
		if all := h.replicas(); len(all) != 2 {
			t.Errorf("after mending there are %+v", all)
		}
	})
}

// Three restarts in a long life are no reason to refuse requests; three in a
// row are.
func TestOnlyRestartsInARowTakeHopeAway(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		h.settle()
		id := h.router.route("iris").Entities[0].Replicas[0].ID
		down := func() string {
			synctest.Wait()
			return h.router.route("iris").Entities[0].Down
		}
		for n := range 10 {
			h.platform.Turn(id, serving.Backoff, n+1, "it died")
			if why := down(); why != "" {
				t.Fatalf("after restart %d, each from ready, it is down: %s", n+1, why)
			}
			h.platform.Turn(id, serving.Ready, n+1, "")
			synctest.Wait()
		}
		for n := 11; n <= 13; n++ {
			h.platform.Turn(id, serving.Backoff, n, "it died")
		}
		if why := down(); why != "it died" {
			t.Errorf("after three in a row it is down because of %q", why)
		}
		if st := h.status("iris").Entities[0]; st.State != serving.Broken {
			t.Errorf("it shows %+v", st)
		}
	})
}

func TestEventsAreKeptAndBounded(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		h.settle()
		for i := range 250 {
			if _, err := h.SetScale(t.Context(), "default", "iris", "", serving.Scale{Min: 1, Max: i + 1}); err != nil {
				t.Fatal(err)
			}
		}
		h.settle()
		h.stop()
		h.start()
		events, err := h.Events(t.Context(), "default", "iris")
		if err != nil || len(events) != 200 || events[199].Kind != "ScaleSet" && events[199].Kind != "TrafficMoved" {
			t.Errorf("%d events are kept, %v; the last is %+v", len(events), err, events[len(events)-1])
		}
		if e := h.get("iris"); len(e.History) != serving.MaxHistory {
			t.Errorf("%d configs are kept", len(e.History))
		}
	})
}

func TestStoreThatTakesNoWritesLeavesTrafficAlone(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.create("iris", "models:/iris/1")
		h.settle()
		if _, err := h.SetConfig(t.Context(), "default", "iris", config("models:/iris/2")); err != nil {
			t.Fatal(err)
		}
		h.store.full.Store(true)
		if _, err := h.SetTags(t.Context(), "default", "iris", nil, []string{"x"}); !errors.Is(err, serving.Unavailable) {
			t.Errorf("an order on a full disk: %v, want unavailable", err)
		}
		h.settle() // the new revision is known but cannot be written down
		old := h.router.route("iris").Entities[0].Replicas[0].ID
		h.platform.Kill(old)
		h.settle()
		if r := h.router.route("iris").Entities[0]; len(r.Replicas) != 1 || r.Replicas[0].ID == old {
			t.Errorf("after a death the route is %+v", r)
		}
		h.store.full.Store(false)
		h.settle()
		if e := h.get("iris"); e.Active.Version != 2 || !h.status("iris").Ready {
			t.Errorf("after mending the record is %+v", e)
		}
	})
}

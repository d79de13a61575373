package feed

import (
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

// A table is a router that remembers, and reports what it is told to.
type table struct {
	mu      sync.Mutex
	routes  map[string]uint64
	reports []autopilot.Report
}

func (t *table) Publish(r serving.Route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.routes == nil {
		t.routes = map[string]uint64{}
	}
	t.routes[r.Endpoint] = r.Generation
}

func (t *table) Withdraw(_, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.routes, name)
}

func (t *table) generation(name string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.routes[name]
}

func (t *table) Reports(list []autopilot.Report) []autopilot.Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	list = append(list, t.reports...)
	for i := range t.reports {
		t.reports[i].Arrivals = 0
	}
	return list
}

// When Publish returns, a gateway that follows serves by that route; what its
// entities did is added to what this process saw.
func TestGatewaysFollowAndReport(t *testing.T) {
	own, other := &table{}, &table{}
	quiet := slog.New(slog.DiscardHandler)
	h := &Hub{Own: own, Log: quiet, Keys: func() ([]byte, error) { return []byte(`[]`), nil }}
	server := httptest.NewServer(h)
	defer server.Close()
	defer server.CloseClientConnections()
	h.Publish(serving.Route{Tenant: "default", Endpoint: "a", Generation: 1})
	f := NewFollower()
	f.Server, f.Client, f.Router, f.Log = server.URL, server.Client(), other, quiet
	f.Self = Member{ID: "g1", Addr: "127.0.0.1:1"}
	f.Keys, f.Gateways = func([]byte) error { return nil }, func([]Member) {}
	done := make(chan error, 1)
	go func() { done <- f.Run(t.Context()) }()
	<-f.Synced()
	if other.generation("a") != 1 {
		t.Fatal("synced without a route that was there")
	}
	eventually(t, func() bool { // it is waited for once it has caught up
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.members["g1"] != nil && !h.members["g1"].late
	})
	for g := uint64(2); g < 20; g++ {
		h.Publish(serving.Route{Tenant: "default", Endpoint: "a", Generation: g})
		if got := other.generation("a"); got != g {
			t.Fatalf("generation %d is served after %d was published", got, g)
		}
	}
	h.Withdraw("default", "a")
	if other.generation("a") != 0 {
		t.Error("an endpoint that was withdrawn is served")
	}
	own.mu.Lock()
	own.reports = []autopilot.Report{{ID: "i", Entity: "e", Arrivals: 1, Waiting: 1}}
	own.mu.Unlock()
	other.mu.Lock()
	other.reports = []autopilot.Report{{ID: "i", Entity: "e", Arrivals: 5, Waiting: 2}, {ID: "unknown", Entity: "e", Arrivals: 1}}
	other.mu.Unlock()
	arrivals := 0
	eventually(t, func() bool {
		list := h.Reports(nil)
		if len(list) != 1 {
			t.Fatalf("%d reports", len(list))
		}
		arrivals += list[0].Arrivals
		return arrivals == 6 && list[0].Waiting == 3
	})
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("it never came to that")
		}
	}
}

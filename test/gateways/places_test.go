package gateways

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// A load is requests at given times, each of which takes a given time: the same
// for the same seed, whoever is asked.
type load struct {
	at, takes []time.Duration
}

func newLoad(n int, rate float64, mean time.Duration) load {
	dice := rand.New(rand.NewPCG(1876, 4))
	var l load
	now := 0.0
	for range n {
		now += dice.ExpFloat64() / rate
		l.at = append(l.at, time.Duration(now*float64(time.Second)))
		l.takes = append(l.takes, time.Duration(dice.ExpFloat64()*float64(mean)))
	}
	return l
}

// A result is what became of a load.
type result struct {
	waits  []time.Duration // beyond what each request takes, in order of arrival
	by     []int           // how many each gateway answered
	failed []string
}

func (r result) quantile(q float64) time.Duration {
	sorted := slices.Clone(r.waits)
	slices.Sort(sorted)
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// run sends a load to the gateways in turn.
func (l load) run(t testing.TB, doors []*door) result {
	t.Helper()
	r := result{waits: make([]time.Duration, len(l.at)), by: make([]int, len(doors))}
	var mu sync.Mutex
	var crowd sync.WaitGroup
	clients := make([]*http.Client, len(doors))
	for i := range clients {
		clients[i] = client()
	}
	start := time.Now()
	for i := range l.at {
		time.Sleep(time.Until(start.Add(l.at[i])))
		crowd.Go(func() {
			g := i % len(doors)
			body := fmt.Sprintf("%d %v", i, l.takes[i])
			status, text, err := ask(t.Context(), clients[g], doors[g].url, body)
			took := time.Since(start) - l.at[i]
			mu.Lock()
			defer mu.Unlock()
			r.waits[i] = took - l.takes[i]
			if err != nil || status != 200 || text != body {
				r.failed = append(r.failed, fmt.Sprintf("request %d by gateway %d: %d %.200q %v", i, g, status, text, err))
			} else {
				r.by[g]++
			}
		})
	}
	crowd.Wait()
	for _, c := range clients {
		c.CloseIdleConnections()
	}
	return r
}

// Three gateways share the places of replicas: never more are in use than the
// load line allows, nothing is lost or refused, and no gateway starves. (How
// many are in use is seen at the replicas, and judged when they close.)
func TestPlacesAreSharedByGateways(t *testing.T) {
	for name, c := range map[string]struct{ replicas, line int }{
		"one place":   {1, 1},
		"four places": {1, 4},
		"two of two":  {2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			var agents []*agent
			for i := range c.replicas {
				agents = append(agents, h.agent(fmt.Sprintf("r%d", i), c.line))
			}
			h.publish(agents...)
			doors := h.gateways(3)
			const mean = 10 * time.Millisecond
			places := c.replicas * c.line
			l := newLoad(150*places, 0.9*float64(places)/mean.Seconds(), mean)
			r := l.run(t, doors)
			if len(r.failed) > 0 {
				t.Errorf("%d of %d failed: %v", len(r.failed), len(l.at), r.failed[:min(3, len(r.failed))])
			}
			for i, n := range r.by {
				if n < len(l.at)/len(doors) {
					t.Errorf("gateway %d answered %d of its %d", i, n, len(l.at)/len(doors))
				}
			}
			t.Logf("p50 %v, p99 %v", r.quantile(.5), r.quantile(.99))
		})
	}
}

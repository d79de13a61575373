package control

import (
	"slices"
	"sync"

	"loadline.dev/loadline/serving"
)

// health remembers how often each replica had been started again when it was
// last ready. A replica counts its restarts over its whole life; whether there
// is hope depends on those since it was well.
type health struct {
	mu   sync.Mutex
	well map[string]int // restarts by replica
}

// see takes in what is seen of all replicas of an endpoint.
func (h *health) see(seen []serving.Replica) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.well
	h.well = map[string]int{}
	for _, r := range seen {
		if r.State == serving.Ready {
			h.well[r.ID] = r.Restarts
		} else if n, was := before[r.ID]; was {
			h.well[r.ID] = n
		}
	}
}

// sinceWell returns the replicas with only the restarts since each was ready.
func (h *health) sinceWell(seen []serving.Replica) []serving.Replica {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen = slices.Clone(seen)
	for i := range seen {
		seen[i].Restarts = max(0, seen[i].Restarts-h.well[seen[i].ID])
	}
	return seen
}

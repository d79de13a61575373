package feed

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"loadline.dev/loadline/serving"
)

// A Dealer is a gateway whose endpoints have rate limits, of which it may use a
// part.
type Dealer interface {
	// Calls appends how many requests asked each such endpoint since the last call.
	Calls(list []serving.Calls) []serving.Calls

	// Share is told how many of all requests those were.
	Share(serving.Calls)
}

// deals is how often gateways tell each other what was asked of them.
const deals = time.Second

// Deal deals the rate limits out among the gateways, once a second until ctx
// ends: it counts what the gateway of this process was asked, and tells it which
// part of all that is.
func (h *Hub) Deal(ctx context.Context, own Dealer) {
	tick := time.NewTicker(deals)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		mine := own.Calls(nil)
		h.mu.Lock()
		h.asked = byName(mine)
		shares := h.sharesLocked(mine)
		h.mu.Unlock()
		for _, c := range shares {
			own.Share(c)
		}
	}
}

func byName(list []serving.Calls) map[name]int {
	m := make(map[name]int, len(list))
	for _, c := range list {
		m[name{c.Tenant, c.Endpoint}] = c.Mine
	}
	return m
}

// sharesLocked adds to one gateway's calls what all were asked, as last heard.
// It requires h.mu.
func (h *Hub) sharesLocked(mine []serving.Calls) []serving.Calls {
	for i := range mine {
		c := &mine[i]
		key := name{c.Tenant, c.Endpoint}
		c.All, c.Gateways = h.asked[key], 1
		for _, m := range h.members {
			c.All += m.asked[key]
			c.Gateways++
		}
	}
	return mine
}

// calls hears what a gateway was asked and answers with what all were.
func (h *Hub) calls(w http.ResponseWriter, r *http.Request, id string) {
	var mine []serving.Calls
	if err := json.NewDecoder(io.LimitReader(r.Body, maxLine)).Decode(&mine); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	if m := h.members[id]; m != nil {
		m.asked = byName(mine)
	}
	shares := h.sharesLocked(mine)
	h.mu.Unlock()
	_ = json.NewEncoder(w).Encode(shares)
}

// Deal tells the hub once a second what the gateway was asked, and the gateway
// which part of all that is, until ctx ends. While the hub is away, the parts
// stay as they are.
func (f *Follower) Deal(ctx context.Context, own Dealer) {
	tick := time.NewTicker(deals)
	defer tick.Stop()
	for {
		if err := f.deal(ctx, own); err != nil && ctx.Err() == nil {
			f.Log.Debug("rate limits are not dealt anew", "why", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *Follower) deal(ctx context.Context, own Dealer) error {
	mine := own.Calls(nil)
	if len(mine) == 0 {
		return nil
	}
	body, err := json.Marshal(mine)
	if err != nil {
		return err
	}
	answer, err := f.post(ctx, "/calls", body)
	if err != nil {
		return err
	}
	var shares []serving.Calls
	if err := json.Unmarshal(answer, &shares); err != nil {
		return err
	}
	for _, c := range shares {
		own.Share(c)
	}
	return nil
}

package feed

import (
	"cmp"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

const (
	beat      = time.Second     // a feed says something at least that often
	patience  = 2 * time.Second // for gateways to follow a route, before they are not waited for
	maxOwed   = 4096            // news that a gateway may be behind
	maxBody   = 64 << 10
	maxReport = 15 << 20 // of what entities did
)

// A Hub knows every route and tells it to the gateway of this process and to
// those that follow. Its fields are set before it is used.
type Hub struct {
	Own  Router                                          // of this process
	Self func() Member                                   // this process's gateway, for the others
	Keys func() ([]byte, error)                          // JSON; by what callers are judged
	Sign func(id string, request []byte) ([]byte, error) // answers a request for a certificate

	// Changed is told of all gateways whenever one comes or goes.
	Changed func([]Member)

	Log *slog.Logger

	announcing sync.Mutex // so that the newest list is told last

	mu      sync.Mutex
	number  uint64
	routes  map[name]serving.Route
	members map[string]*member
	heard   chan struct{} // closed and replaced when a member has said something
	asked   map[name]int  // what this process's gateway was asked in the last second; see Deal
}

// A member is a gateway that follows.
type member struct {
	Member
	owed    []news
	bell    chan struct{}
	over    chan struct{} // closed when another feed of the same gateway began, or it is too far behind
	served  uint64
	late    bool // it did not follow in time, so it is not waited for
	leaving bool

	reports  []autopilot.Report // not yet taken by Reports
	reported time.Time
	asked    map[name]int // in the last second; see Deal
}

// Publish tells the route. When it returns, every gateway that answers in time
// serves by it.
func (h *Hub) Publish(r serving.Route) {
	h.Own.Publish(r)
	h.mu.Lock()
	if h.routes == nil {
		h.routes = map[name]serving.Route{}
	}
	h.routes[name{r.Tenant, r.Endpoint}] = r
	number := h.tellLocked(news{Route: &r})
	h.mu.Unlock()
	h.await(number)
}

// Withdraw tells that an endpoint is gone.
func (h *Hub) Withdraw(tenant, endpoint string) {
	h.Own.Withdraw(tenant, endpoint)
	h.mu.Lock()
	delete(h.routes, name{tenant, endpoint})
	number := h.tellLocked(news{Gone: &name{tenant, endpoint}})
	h.mu.Unlock()
	h.await(number)
}

// Rekey tells that callers are judged by something else now.
func (h *Hub) Rekey() error {
	keys, err := h.Keys()
	if err != nil {
		return err
	}
	h.mu.Lock()
	number := h.tellLocked(news{Keys: keys})
	h.mu.Unlock()
	h.await(number)
	return nil
}

// tellLocked requires h.mu.
func (h *Hub) tellLocked(n news) uint64 {
	h.number++
	n.Number = h.number
	for _, m := range h.members {
		if len(m.owed) >= maxOwed {
			m.end()
			continue
		}
		m.owed = append(m.owed, n)
		ring(m.bell)
	}
	return h.number
}

func (m *member) end() {
	select {
	case <-m.over:
	default:
		close(m.over)
	}
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// await waits until every member serves by the news of that number, or has
// taken too long.
func (h *Hub) await(number uint64) {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		h.mu.Lock()
		behind := ""
		for id, m := range h.members {
			if m.served < number && !m.late {
				behind = id
			}
		}
		if h.heard == nil {
			h.heard = make(chan struct{})
		}
		heard := h.heard
		h.mu.Unlock()
		if behind == "" {
			return
		}
		select {
		case <-heard:
		case <-late.C:
			h.giveUpOn(number)
			return
		}
	}
}

func (h *Hub) giveUpOn(number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, m := range h.members {
		if m.served < number && !m.late {
			m.late = true
			h.Log.Warn("gateway does not follow", "gateway", id, "why", "it has not taken in a route for "+patience.String())
		}
	}
}

// ServeHTTP answers gateways; see [Path].
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, what, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, Path), "/"), "/")
	switch method := r.Method + " " + what; {
	case id == "" && r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(map[string]any{"gateways": h.Members()})
	case id == "" || len(id) > 63:
		http.NotFound(w, r)
	case method == "GET feed":
		h.feed(w, r, id)
	case method == "POST served":
		h.hear(w, r, id)
	case method == "POST certificate":
		h.sign(w, r, id)
	case method == "POST calls":
		h.calls(w, r, id)
	case method == "POST leaving":
		h.leave(id)
	default:
		http.NotFound(w, r)
	}
}

func (h *Hub) hear(w http.ResponseWriter, r *http.Request, id string) {
	var said served
	if err := json.NewDecoder(io.LimitReader(r.Body, maxReport)).Decode(&said); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.members[id]; m != nil {
		m.served, m.late = max(m.served, min(said.Number, h.number)), false
		m.report(said.Reports, time.Now())
		h.heardLocked()
	}
}

func (h *Hub) heardLocked() {
	if h.heard != nil {
		close(h.heard)
		h.heard = nil
	}
}

func (h *Hub) sign(w http.ResponseWriter, r *http.Request, id string) {
	request, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	var signed []byte
	if err == nil {
		signed, err = h.Sign(id, request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(signed)
}

// feed tells a gateway everything, and then what changes, for as long as it
// listens.
func (h *Hub) feed(w http.ResponseWriter, r *http.Request, id string) {
	keys, err := h.Keys()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	m := h.join(Member{ID: id, Addr: r.URL.Query().Get("addr")}, keys)
	defer h.part(m)
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		for _, n := range h.take(m) {
			if out.Encode(n) != nil {
				return
			}
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-m.bell:
		case <-tick.C:
		case <-m.over:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// take returns what a member is owed, or a sign of life.
func (h *Hub) take(m *member) []news {
	h.mu.Lock()
	defer h.mu.Unlock()
	owed := m.owed
	m.owed = nil
	if len(owed) == 0 {
		owed = []news{{Number: h.number}}
	}
	return owed
}

// join adds a gateway, and owes it everything.
func (h *Hub) join(who Member, keys []byte) *member {
	m := &member{Member: who, bell: make(chan struct{}, 1), over: make(chan struct{}), late: true} // waited for once it has caught up
	h.mu.Lock()
	m.owed = append(m.owed, news{Keys: keys})
	for _, r := range h.routes {
		m.owed = append(m.owed, news{Route: &r})
	}
	m.owed = append(m.owed, news{Number: h.number, Synced: true})
	if old := h.members[who.ID]; old != nil {
		old.end()
	}
	if h.members == nil {
		h.members = map[string]*member{}
	}
	h.members[who.ID] = m
	h.mu.Unlock()
	h.Log.Info("gateway follows", "gateway", who.ID, "addr", who.Addr)
	h.announce()
	return m
}

func (h *Hub) part(m *member) {
	m.end()
	h.mu.Lock()
	there := h.members[m.ID] == m
	if there {
		delete(h.members, m.ID)
		h.heardLocked()
	}
	h.mu.Unlock()
	if there {
		h.Log.Info("gateway follows no more", "gateway", m.ID)
		h.announce()
	}
}

// leave says to the others that a gateway takes nothing new.
func (h *Hub) leave(id string) {
	h.mu.Lock()
	m := h.members[id]
	if m != nil {
		m.leaving = true
	}
	h.mu.Unlock()
	if m != nil {
		h.announce()
	}
}

// announce tells everybody who is there.
func (h *Hub) announce() {
	h.announcing.Lock()
	defer h.announcing.Unlock()
	list := h.Members()
	if h.Changed != nil {
		h.Changed(list)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tellLocked(news{Gateways: list})
}

// Members are the gateways that take requests, that of this process first; it
// alone is none.
func (h *Hub) Members() []Member {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Member
	for _, m := range h.members {
		if !m.leaving {
			list = append(list, m.Member)
		}
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	if h.Self != nil && len(h.members) > 0 {
		list = append([]Member{h.Self()}, list...)
	}
	return list
}

package feed

import (
	"slices"
	"time"

	"loadline.dev/loadline/autopilot"
)

// stale is how long what a silent gateway last said of its requests still counts.
const stale = 10 * time.Second

// A Reporter is a gateway that says what its entities do.
type Reporter interface {
	Reports(list []autopilot.Report) []autopilot.Report
}

// Reports appends what all gateways saw of each entity since the last call, that
// of this process and those that follow added up.
func (h *Hub) Reports(list []autopilot.Report) []autopilot.Report {
	first := len(list)
	if own, ok := h.Own.(Reporter); ok {
		list = own.Reports(list)
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.members {
		if now.Sub(m.reported) > stale {
			continue
		}
		for i := range m.reports {
			r := &m.reports[i]
			at := slices.IndexFunc(list[first:], func(o autopilot.Report) bool { return o.ID == r.ID && o.Entity == r.Entity })
			if at >= 0 { // one that this process does not know is gone, or about to come
				add(&list[first+at], r)
			}
			*r = autopilot.Report{Tenant: r.Tenant, Endpoint: r.Endpoint, ID: r.ID, Entity: r.Entity, Revision: r.Revision,
				InFlight: r.InFlight, Waiting: r.Waiting}
		}
	}
	return list
}

// report takes what a member saw since it last said so. It requires h.mu.
func (m *member) report(news []autopilot.Report, now time.Time) {
	for i := range news {
		n := &news[i]
		at := slices.IndexFunc(m.reports, func(o autopilot.Report) bool { return o.ID == n.ID && o.Entity == n.Entity })
		if at < 0 {
			continue
		}
		old := m.reports[at]
		old.InFlight, old.Waiting = 0, 0 // these are not of a time
		add(n, &old)
	}
	m.reports, m.reported = news, now
}

// add adds r to sum.
func add(sum, r *autopilot.Report) {
	sum.InFlight += r.InFlight
	sum.Waiting += r.Waiting
	sum.Arrivals += r.Arrivals
	sum.Ended += r.Ended
	sum.Failed += r.Failed
	sum.Lost += r.Lost
	sum.Late += r.Late
	sum.Worked += r.Worked
	switch {
	case r.Times == nil:
	case sum.Times == nil:
		sum.Times = r.Times
	default:
		sum.Times.Merge(r.Times)
	}
}

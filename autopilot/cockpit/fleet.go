package cockpit

import (
	"slices"
	"time"

	"loadline.dev/loadline/serving"
)

// A fleet is what runs of one revision.
type fleet struct {
	ready, alive int
	replicas     []serving.Replica // ready ones
}

func fleetsOf(seen []serving.Replica) map[serving.Revision]fleet {
	all := map[serving.Revision]fleet{}
	for _, r := range seen {
		if r.State == serving.Draining {
			continue
		}
		f := all[r.Revision]
		f.alive++
		if r.State == serving.Ready {
			f.ready++
			f.replicas = append(f.replicas, r)
		}
		all[r.Revision] = f
	}
	return all
}

// starts remembers how long replicas took from start to ready.
type starts struct {
	Took []time.Duration // newest last
	seen map[string]bool // replicas whose start is counted
}

const startsKept = 20

// note counts the starts of replicas that are ready and were never restarted.
func (s *starts) note(ready []serving.Replica) {
	now := map[string]bool{}
	for _, r := range ready {
		now[r.ID] = true
		took := r.Since.Sub(r.Started)
		if s.seen[r.ID] || r.Restarts > 0 || took <= 0 {
			continue
		}
		s.Took = append(s.Took, took)
		s.Took = s.Took[max(0, len(s.Took)-startsKept):]
	}
	s.seen = now
}

// usual is the 95th percentile; zero when no start was seen.
func (s *starts) usual() time.Duration {
	if len(s.Took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.Took))
	return sorted[len(sorted)*95/100]
}

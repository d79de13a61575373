package queue

import (
	"math"
	"time"
)

// A pace is how quickly places come free, learned from those who leave while
// others go on waiting: then it is the capacity, and nothing else, that sets
// the time between two.
type pace struct {
	gap     float64 // smoothed nanoseconds between two who leave
	known   int     // how many gaps were seen, up to enough
	last    time.Time
	waiting bool // somebody has waited ever since last
}

// A gap's share in the mean, and how many make one that may be relied on.
const (
	gapShare = 1.0 / 32
	enough   = 8
)

// left says that somebody has left, and whether others still wait.
func (p *pace) left(now time.Time, others bool) {
	if p.waiting {
		share := gapShare
		if p.known < enough {
			p.known++
			share = 1 / float64(p.known)
		}
		p.gap += (float64(max(0, now.Sub(p.last))) - p.gap) * share
	}
	p.last, p.waiting = now, others
}

// forMany is how long it takes until n have left; false: not known yet.
func (p *pace) forMany(n int) (time.Duration, bool) {
	if p.known < enough {
		return 0, false
	}
	return time.Duration(min(float64(n)*p.gap, math.MaxInt64/2)), true
}

// An overload is a backlog that cannot be worked off: somebody late has waited
// for as long as anyone may be overtaken, without a break, and in that time
// more have come than left, by more than chance. Until then a backlog counts as
// a burst and is held.
type overload struct {
	since      time.Time // since when somebody late waits without a break
	came, went float64   // since then
	standing   bool
	refused    time.Time // the last refusal because of it
}

func (o *overload) arrived() {
	if !o.since.IsZero() {
		o.came++
	}
}

func (o *overload) left() {
	if !o.since.IsZero() {
		o.went++
	}
}

// look takes note of whether somebody late waits. An overload is over once, for
// as long as it took to be believed, nobody had to be refused.
func (o *overload) look(late bool, now time.Time, interval time.Duration) {
	switch {
	case !late:
		o.since, o.came, o.went = time.Time{}, 0, 0
	case o.since.IsZero():
		o.since = now
	}
	if o.standing {
		o.standing = now.Sub(o.refused) <= interval
		return
	}
	// Arrivals scatter by the root of their number; four times that, because the
	// question is asked over and over.
	if late && now.Sub(o.since) >= interval && o.came-o.went > 4*math.Sqrt(o.came) {
		o.standing, o.refused = true, now
	}
}

// patience is how long one may wait to count as on time. Where nothing more is
// coming it leaves room for the answer itself within the objective, but never
// less than half of it, and always what one round of service takes: a queue
// shorter than that would let replicas stand idle.
func (q *Queue) patience() time.Duration {
	objective := q.Policy.Objective
	if !q.Policy.Shed {
		return objective
	}
	return max(objective-q.Tail, objective/2, q.Service)
}

// tooShort reports whether less time is left to p than an answer takes.
func (q *Queue) tooShort(p *Place, now time.Time) bool {
	return !p.Deadline.IsZero() && p.Deadline.Sub(now) < q.Service
}

// hopeless reports whether p, that wants to join now, could not be answered in
// time: within its deadline by the pace at which places come free, or, under an
// overload, while it counts as on time.
func (q *Queue) hopeless(p *Place, now time.Time) bool {
	ahead := q.fresh.len
	if q.Policy.Order == FIFO {
		ahead = q.Len()
	}
	wait, known := q.pace.forMany(ahead + 1)
	if !known {
		return false
	}
	if q.overload.standing && q.Policy.Objective > 0 && wait > q.patience() {
		q.overload.refused = now
		return true
	}
	return !p.Deadline.IsZero() && wait+q.Service > p.Deadline.Sub(now)
}

// Refused takes out one who is to be refused with [serving.Busy] although it
// waits already, or returns nil: under an overload whoever is late, since
// nobody's turn is left for those, and while the queue holds too many bytes
// whoever has been late longest. It is to be asked again until it returns nil,
// after each Push and Pop. Without [Policy.Shed] there is nobody.
func (q *Queue) Refused(now time.Time) *Place {
	if !q.Policy.Shed || q.Len() == 0 {
		return nil
	}
	q.sort(now)
	p := q.late.first
	if q.Policy.Order == FIFO && p == nil && q.isLate(q.fresh.first, now) {
		p = q.fresh.first
	}
	if p == nil || !q.overload.standing && (q.Policy.Bytes <= 0 || q.bytes <= q.Policy.Bytes) {
		return nil
	}
	q.overload.refused = now
	q.leave(p, outside)
	return p
}

// Wait is how long those who wait now need to be gone, by the pace at which
// places have come free; zero is unknown.
func (q *Queue) Wait() time.Duration {
	wait, _ := q.pace.forMany(q.Len())
	return wait
}

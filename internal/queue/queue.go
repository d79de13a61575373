// Package queue decides who waits, who is next, and who is turned away.
//
// It is a plain data structure: the caller brings the places of those who wait
// and every reading of the clock, which never goes back. The same calls give
// the same order, so that a gateway in production and a simulator under a
// virtual clock run the same queue. It takes no lock, starts nothing, wakes
// nobody, allocates nothing, and does not know what is being waited for.
package queue

import (
	"time"

	"loadline.dev/loadline/serving"
)

// An Order says who of those who wait is next.
type Order uint8

const (
	// LateLast lets those who have waited past the objective wait until nobody
	// on time is waiting. While a backlog clears in order of arrival everyone
	// behind it is late too; this way only those are who were late already.
	LateLast Order = iota

	// FIFO is the order of arrival.
	FIFO
)

// A Policy says what a queue holds, and in which order.
type Policy struct {
	Order Order

	// Objective is the wait beyond which a request is late. Zero means that
	// nobody is ever late.
	Objective time.Duration

	// Overtake is how long a late one may be overtaken. Once it has passed, or
	// once no more than Objective is left until the deadline, every second turn
	// goes to such a one: so nobody starves, and a backlog that cannot be worked
	// off does not make everyone late. Zero means one Objective.
	Overtake time.Duration

	// Bytes bounds what those who wait hold in memory. Zero is no bound.
	Bytes int64

	// Shed says that no more capacity is coming. Then nobody waits in vain: see
	// [Queue.Push] and [Queue.Refused]. Without it all are held, because a
	// replica on its way changes what can be worked off.
	Shed bool
}

// A Place is one request's place in a queue. Its owner keeps it for as long as
// it waits, and may use it again afterwards. Fields are set before Push.
type Place struct {
	// Owner is whatever the caller wants back from Pop.
	Owner any

	Arrived  time.Time
	Deadline time.Time // zero is none
	Bytes    int64

	state      state
	prev, next *Place
	in         *list
}

type state uint8

const (
	outside state = iota
	waiting
	chosen  // by Pop
	expired // its deadline passed while it waited
)

// Waiting reports whether the place is in a queue.
func (p *Place) Waiting() bool { return p.state == waiting }

// Chosen reports whether Pop returned the place since it was last pushed.
func (p *Place) Chosen() bool { return p.state == chosen }

// A Queue holds those who wait. Its owner serializes calls.
type Queue struct {
	Policy Policy // may be changed at any time

	// Service is how long a request takes once it has left, and Tail what nearly
	// all stay below. The owner keeps them current; zero is unknown.
	Service, Tail time.Duration

	pace     pace
	overload overload

	fresh list // by arrival; some may have become late since the last Pop
	late  list // by arrival
	bytes int64

	// favoured says that the last turn went to an overtaken one while somebody
	// on time was waiting.
	favoured bool
}

// Len is how many wait.
func (q *Queue) Len() int { return q.fresh.len + q.late.len }

// Bytes is what those who wait hold in memory.
func (q *Queue) Bytes() int64 { return q.bytes }

// Oldest is when the one who has waited longest arrived; zero when nobody waits.
func (q *Queue) Oldest() time.Time {
	switch {
	case q.fresh.first == nil && q.late.first == nil:
		return time.Time{}
	case q.late.first == nil || q.fresh.first != nil && q.fresh.first.Arrived.Before(q.late.first.Arrived):
		return q.fresh.first.Arrived
	}
	return q.late.first.Arrived
}

// Push lets p wait behind those who came before. It refuses with
// [serving.Busy] when the queue holds too many bytes and when, with
// [Policy.Shed], p could not be answered in time; with [serving.TimedOut] when
// the deadline of p has passed.
func (q *Queue) Push(p *Place, now time.Time) error {
	switch {
	case p.state == waiting:
		panic("queue: a place waits twice")
	case passed(p.Deadline, now):
		p.state = expired
		return serving.TimedOut
	case q.full(p) && (!q.Policy.Shed || q.late.first == nil): // else those late yield: see Refused
		p.state = outside
		return serving.Busy
	}
	q.sort(now)
	q.overload.arrived()
	if q.Policy.Shed && q.hopeless(p, now) {
		p.state = outside
		return serving.Busy
	}
	q.enter(p)
	q.fresh.append(p)
	return nil
}

func (q *Queue) full(p *Place) bool {
	return q.Policy.Bytes > 0 && q.Len() > 0 && q.bytes+p.Bytes > q.Policy.Bytes
}

// Return lets p wait again, ahead of those who came after it, because what it
// was chosen for came to nothing. Only a deadline that has passed refuses it.
func (q *Queue) Return(p *Place, now time.Time) error {
	if passed(p.Deadline, now) {
		p.state = expired
		return serving.TimedOut
	}
	q.enter(p)
	if q.isLate(p, now) {
		q.late.prepend(p)
	} else {
		q.fresh.prepend(p)
	}
	return nil
}

func (q *Queue) enter(p *Place) {
	p.state = waiting
	q.bytes += p.Bytes
}

// Remove takes p out, if it waits.
func (q *Queue) Remove(p *Place) {
	if p.state == waiting {
		q.leave(p, outside)
	}
}

func (q *Queue) leave(p *Place, s state) {
	p.in.remove(p)
	p.state = s
	q.bytes -= p.Bytes
}

// Pop takes out who is next, or returns nil when nobody waits. Whoever's
// deadline has passed is taken out and skipped; nobody is told, since those who
// wait know their own deadline.
func (q *Queue) Pop(now time.Time) *Place {
	for {
		p := q.pick(now)
		if p == nil {
			return nil
		}
		if !passed(p.Deadline, now) {
			q.leave(p, chosen)
			q.pace.left(now, q.Len() > 0)
			q.overload.left()
			return p
		}
		q.leave(p, expired)
	}
}

func (q *Queue) pick(now time.Time) *Place {
	if q.Policy.Order == FIFO {
		if q.late.first != nil { // the order was changed while these waited
			return q.late.first
		}
		return q.fresh.first
	}
	q.sort(now)
	switch {
	case q.late.first == nil:
		return q.fresh.first
	case q.fresh.first == nil:
		return q.late.first
	case !q.favoured && q.overtaken(q.late.first, now):
		q.favoured = true
		return q.late.first
	}
	q.favoured = false
	return q.fresh.first
}

// sort finds who has become late.
func (q *Queue) sort(now time.Time) {
	if q.Policy.Order == LateLast {
		for p := q.fresh.first; p != nil && q.isLate(p, now); p = q.fresh.first {
			q.fresh.remove(p)
			q.late.append(p)
		}
	}
	late := q.late.first != nil || q.fresh.first != nil && q.isLate(q.fresh.first, now)
	q.overload.look(late, now, q.Policy.overtake())
}

func (q *Queue) isLate(p *Place, now time.Time) bool {
	return q.Policy.Objective > 0 && (now.Sub(p.Arrived) > q.patience() || q.Policy.Shed && q.tooShort(p, now))
}

// overtaken reports whether p, which is late, was overtaken long enough.
func (q *Queue) overtaken(p *Place, now time.Time) bool {
	if q.Policy.Shed && q.tooShort(p, now) {
		return false // its turn would be wasted
	}
	return now.Sub(p.Arrived) > q.Policy.Objective+q.Policy.overtake() ||
		!p.Deadline.IsZero() && p.Deadline.Sub(now) <= q.Policy.Objective
}

func (p Policy) overtake() time.Duration {
	if p.Overtake == 0 {
		return p.Objective
	}
	return p.Overtake
}

func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

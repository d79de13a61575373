// Package balance decides which replica takes the next request, and which takes
// none for a while.
//
// For a choice the caller offers the replicas that hold a free place, one after
// another, and asks which was the best. What a replica's answers tell of it is
// kept in its [Health]; [Judge] compares those of an entity now and then. No
// clock is read and no dice are rolled here; it does not know how a request
// travels.
package balance

import "time"

// Seen is a replica as the gateway sees it at this moment.
type Seen struct {
	InFlight int           // requests there now, as far as is known
	Line     int           // its load line; zero is unknown, counted as one
	Service  time.Duration // smoothed time of one request; zero is unknown

	// Quiet is for how long it has answered nothing although it was asked; zero
	// when no answer is outstanding.
	Quiet time.Duration
}

// wait is how long a request more would keep the replica busy, per unit of its
// load line: the least of these drains the work soonest. One that has been
// quiet for longer than it usually takes is at least as slow as that.
func (s Seen) wait() float64 {
	service := float64(max(s.Service, s.Quiet))
	if service <= 0 {
		service = float64(time.Millisecond) // a newcomer is neither flooded nor left out
	}
	return float64(s.InFlight+1) * service / float64(max(1, s.Line))
}

// A Choice compares the replicas it is offered. The zero value has none.
type Choice struct {
	best int // index + 1
	wait float64
}

// Offer considers replica i.
func (c *Choice) Offer(i int, s Seen) {
	if w := s.wait(); c.best == 0 || w < c.wait {
		c.best, c.wait = i+1, w
	}
}

// Best returns the best replica offered, and whether there was one. Of equals
// it is the one offered first: begin each round elsewhere.
func (c *Choice) Best() (int, bool) { return c.best - 1, c.best > 0 }

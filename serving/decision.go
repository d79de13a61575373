package serving

import "time"

// A Decision is what the autopilot decided for one entity at one moment: what it
// saw, what it wants, which rule had the last word, and what was refused.
type Decision struct {
	At     time.Time
	Entity string

	// Axis is "replicas", or "line" for how much one replica may carry.
	Axis string

	From, To int
	Rule     string // a short name that stays: "demand", "window", "min" …
	Why      string // the same as a clause for people
	Refused  int    // what demand alone, or another rule, had chosen

	// What was seen in the second before.
	Ready, Starting   int
	Arrivals          float64 // a second
	InFlight, Waiting int
	Service           time.Duration // mean time in service

	Demand, Headroom float64 // requests in service at once: estimated, and added to be safe
	Line             float64 // the load line that both were divided by

	// Of the line: the law that was fitted, what it predicts for the 99th
	// percentile of the time inside, and what that was held against.
	Lambda, Sigma, Kappa       float64
	Tail, TailError, Objective time.Duration

	// Cost is the replica-seconds spent since the row before of this axis.
	Cost float64
}

// A Second is what an entity did in one second with traffic, and what it ran on.
type Second struct {
	At                          int64 // Unix seconds, of its end
	Arrivals, Ended             int
	Worked                      time.Duration // in service, of those that ended
	Waiting, Late, Lost, Failed int           // Waiting at its end; Late waited longer than the objective
	Replicas, Ready             int           // those that run, and of them those that take requests
	Line                        int           // the load line
}

// A LoadLine is how much one replica of an entity may carry, and how it is known.
type LoadLine struct {
	Entity string
	Last   Decision      // as of the last second
	Start  time.Duration // how long a replica takes to start, at the 95th percentile; zero when none was seen
	Plan   float64       // what the number of replicas is planned with
}

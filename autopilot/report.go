package autopilot

import (
	"time"

	"loadline.dev/loadline/serving"
)

// A Report is what one gateway saw of one entity since its report before. Counts
// are those of that time, so that reports of several gateways add up.
type Report struct {
	Tenant, Endpoint string // as clients name it
	ID               string // the endpoint's
	Entity           string
	Revision         serving.Revision // that it serves; empty before the first

	InFlight int           // in service now
	Waiting  int           // for a place now
	Arrivals int           // came and wanted a place
	Ended    int           // left a place
	Failed   int           // of Ended: the answer was broken, or said that it is the server's fault
	Lost     int           // left without ever having had a place
	Late     int           // of those that got a place: waited longer than the objective
	Worked   time.Duration // time in service of those that ended, summed
	Times    *Sketch       // the same, one by one; nil when none ended

	Replicas []Pulse // those that the gateway may use
}

// A Pulse is what an agent last said of itself. Counters count since it began.
type Pulse struct {
	Replica  string
	Sequence uint64 // grows with each report of the agent; zero when it said nothing yet
	InFlight int    // over all gateways
	Line     int    // the load line it grants places by
	Answered uint64
	Broken   uint64
	Beside   uint64        // over the answered requests: how many were inside, itself included, when each entered
	Inside   time.Duration // over the answered requests: how long they were
	Pressure Pressure
}

// Package simulate replays traffic through the very same autopilot, queue and
// balancer that serve, under a virtual clock.
//
// Every request is played: it arrives at a moment that the seed fixes, takes a
// place or waits in [queue.Queue], is put on a replica by [balance.Choice], and
// ends. Once a second the entity's [Sizer] sees what a cockpit would see, and
// its wish is carried out as a platform would: a replica takes its start delay
// until it serves, and one that goes finishes what it holds. The same config
// and the same trace give the same run to the last digit.
//
// Time is whole nanoseconds since the trace's first second; a run draws no
// other clock and starts nothing.
package simulate

import (
	"context"
	"fmt"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/internal/queue"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/simulate/trace"
)

// A Sizer decides how many replicas there should be. [autopilot.Pilot] is one;
// a benchmark brings its rivals.
type Sizer interface {
	Observe(autopilot.Sample)
	Decide(now time.Time, have autopilot.Fleet) autopilot.Decision
	Wake(now time.Time, waiting int, have autopilot.Fleet) autopilot.Decision
}

// A Config is the world that a trace is played in.
type Config struct {
	Sizer Sizer

	// Capacity is how many requests one replica truly carries at once; more wait
	// inside it.
	Capacity int

	// Line is how many its agent admits: the load line. Zero is Capacity.
	Line int

	// Learn, where it is set, finds the line by what it sees of the replicas, and
	// Line is not used.
	Learn *autopilot.Line

	// Service is how long one request takes, where the trace does not say.
	Service time.Duration

	// Start is how long a replica takes from the decision to its first answer.
	// Where Starts is not empty it is drawn from there instead.
	Start  time.Duration
	Starts []time.Duration

	// Objective is the wait beyond which a request is late.
	Objective time.Duration

	Order queue.Order

	// Overtake is how long a late request may be overtaken. Zero is
	// [autopilot.Overtake] of the start delay.
	Overtake time.Duration

	Gateways int // zero is one
	Seed     uint64

	// WarmUp is how much of the beginning is played and not judged.
	WarmUp time.Duration

	// Row, where it is set, is told the state at the end of each second.
	Row func(Row)
}

// complete reports the first thing wrong with c, and fills in what was left to us.
func (c *Config) complete() error {
	bad := func(format string, args ...any) error {
		return &serving.Error{Op: "simulate", Kind: serving.Invalid, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case c.Sizer == nil:
		return bad("nobody decides the size")
	case c.Capacity < 1:
		return bad("capacity %d: a replica carries at least one request", c.Capacity)
	case c.Line < 0:
		return bad("load line %d is negative", c.Line)
	case c.Service <= 0:
		return bad("service time %v must be positive", c.Service)
	case c.Start < 0:
		return bad("start delay %v is negative", c.Start)
	case c.Objective < 0:
		return bad("objective %v is negative", c.Objective)
	case c.Gateways < 0 || c.Gateways > 1000:
		return bad("%d gateways: from 1 to 1000", c.Gateways)
	case c.WarmUp < 0:
		return bad("warm-up %v is negative", c.WarmUp)
	}
	if c.Overtake == 0 {
		c.Overtake = autopilot.Overtake(c.Start)
	}
	for _, d := range c.Starts {
		if d < 0 {
			return bad("start delay %v is negative", d)
		}
	}
	return nil
}

// A Row is the state at the end of one second.
type Row struct {
	Second   int64 // as the trace counts
	Arrivals int
	Want     int
	Starting int
	Ready    int // with those that will be busy for half of the next second though they take no more
	InFlight int
	Waiting  int
	Line     float64
	Why      autopilot.Why
	Needed   int // what the offline optimum would hold at least
	Late     int // of those that started in this second, and of those given up at the end
}

// A Report is what a run cost and what its callers felt, without the warm-up.
type Report struct {
	Policy           string  `json:"policy"`
	Requests         int64   `json:"requests"`
	Late             float64 `json:"late"`       // share of requests that waited beyond the objective
	Lost             int64   `json:"lost"`       // not started by the end
	P50Wait          float64 `json:"p50_wait_s"` // seconds from arrival to start of service
	P99Wait          float64 `json:"p99_wait_s"`
	P999Wait         float64 `json:"p999_wait_s"`
	ReplicaSeconds   float64 `json:"replica_seconds"`
	Starts           int     `json:"starts"`
	Optimum          float64 `json:"optimum_replica_seconds"`
	Ratio            float64 `json:"ratio"` // replica seconds over the optimum's; zero where that is zero
	DirectionChanges int     `json:"direction_changes"`
}

// Run plays the trace. Only a config that makes no sense or a cancelled context
// is an error.
func Run(ctx context.Context, c Config, t trace.Trace) (Report, error) {
	if err := c.complete(); err != nil {
		return Report{}, err
	}
	w := newWorld(&c, t)
	for s := range t.Seconds() {
		if s&1023 == 0 && ctx.Err() != nil {
			return Report{}, context.Cause(ctx)
		}
		w.second(s)
	}
	return w.report(), nil
}

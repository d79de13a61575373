package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"
	"unsafe"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/simulate"
	"loadline.dev/loadline/simulate/trace"
)

// The sparse set (B8): clients of ServeGen that are silent most of the time and
// functions of Azure that are rarely called, each an endpoint of its own.
func sparseSet() []stretch {
	var set []stretch
	for _, n := range []int{0, 3, 4, 10, 15, 22, 23, 25, 28, 34, 37, 40, 42} {
		set = append(set, stretch{Name: fmt.Sprint("client ", n), file: fmt.Sprintf("servegen/m-small/chunk-%d-trace.csv", n), long: 5 * aDay, service: scalingService})
	}
	for _, hash := range []string{"12f4", "33c6", "a4cd", "c531", "e320", "f444"} {
		set = append(set, stretch{Name: "function " + hash, file: "azure-functions/faro_azure2019_s8_per_minute.csv", pick: hash, long: 5 * aDay, service: scalingService})
	}
	return set
}

// A sparseRow is one policy on the whole sparse set at one start delay.
type sparseRow struct {
	Policy string
	Start  float64
	Ratio  float64 // (replica-seconds with starts) ÷ the offline optimum's
	Share  float64 // of an always-on replica each
	P999   float64 // worst endpoint's wait, seconds
	Late   float64 // beyond a second
}

func (b *bench) sparse(ctx context.Context) ([]sparseRow, error) {
	type rival struct {
		name string
		make func(start time.Duration) (simulate.Sizer, error)
	}
	idle := func(d time.Duration) func(time.Duration) (simulate.Sizer, error) {
		return func(start time.Duration) (simulate.Sizer, error) {
			return autopilot.New(autopilot.Policy{Start: start, Service: scalingService, Objective: scalingLate, Idle: d})
		}
	}
	rivals := []rival{{"autopilot", idle(0)}, {"fixed 5 min", idle(5 * time.Minute)}, {"fixed 10 min", idle(10 * time.Minute)},
		{"fixed 20 min", idle(20 * time.Minute)}, {"Knative 0.70", func(time.Duration) (simulate.Sizer, error) { return newKnative(0.7 * scalingCapacity), nil }}}
	set := sparseSet()
	if asked.short {
		set = set[:4]
	}
	var traces []trace.Trace
	for _, s := range set {
		t, err := trace.Open(filepath.Join(asked.traces, s.file), trace.Options{Service: s.service, Dice: rand.New(rand.NewPCG(1, 1)), Select: s.pick})
		if err != nil {
			return nil, err
		}
		traces = append(traces, t.Cut(0, int(s.long.Seconds())))
	}
	var rows []sparseRow
	for _, start := range []time.Duration{500 * time.Millisecond, 10 * time.Second} {
		for _, r := range rivals {
			row := sparseRow{Policy: r.name, Start: start.Seconds()}
			var cost, optimum, always, late, requests float64
			for _, t := range traces {
				sizer, err := r.make(start)
				if err != nil {
					return nil, err
				}
				got, err := simulate.Run(ctx, simulate.Config{Sizer: sizer, Capacity: scalingCapacity, Service: scalingService, Start: start,
					Objective: time.Second, Seed: 1}, t)
				if err != nil {
					return nil, err
				}
				cost, optimum, always = cost+got.ReplicaSeconds, optimum+got.Optimum, always+float64(t.Seconds())
				late, requests = late+got.Late*float64(got.Requests), requests+float64(got.Requests)
				row.P999 = max(row.P999, got.P999Wait)
			}
			row.Ratio, row.Share, row.Late = cost/optimum, cost/always, late/requests
			rows = append(rows, row)
		}
	}
	tab := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "\nsparse set\tD\tcost ÷ optimum\t% of always-on\tlate by over 1 s, %\tworst p99.9, s")
	for _, r := range rows {
		fmt.Fprintf(tab, "%s\t%g s\t%.2f\t%.2f\t%.3f\t%.2f\n", r.Policy, r.Start, r.Ratio, 100*r.Share, 100*r.Late, r.P999)
	}
	tab.Flush()
	return rows, nil
}

// A tickRow is what it costs to decide for very many endpoints (B13).
type tickRow struct {
	Endpoints int
	BusyShare float64 // of the endpoints, with traffic in each second
	Busy      float64 // CPU seconds for the five seconds of a tick
	PerSecond float64 // nanoseconds a decision
	Bytes     float64 // of a pilot
}

// manyEndpoints decides each second, five times a tick, for 100,000 endpoints of
// which one in ten has traffic; the others are asleep, heard each tick.
func manyEndpoints() tickRow {
	const endpoints, busyOne = 100_000, 10
	pilots := make([]*autopilot.Pilot, endpoints)
	for i := range pilots {
		pilots[i], _ = autopilot.New(autopilot.Policy{Start: 10 * time.Second, Service: scalingService})
	}
	at := time.Unix(0, 0)
	tick := func() (decisions int) {
		for range 5 {
			at = at.Add(time.Second)
			for i, p := range pilots {
				if i%busyOne == 0 {
					p.Observe(autopilot.Sample{At: at, Arrivals: 100 + i%400, InFlight: 10 + i%40, Service: scalingService, Line: 8})
					p.Decide(at, autopilot.Fleet{Ready: 1 + i%8})
					decisions++
				}
			}
		}
		for i, p := range pilots {
			if i%busyOne != 0 {
				p.Observe(autopilot.Sample{At: at, Over: 5 * time.Second, Line: 8})
				p.Decide(at, autopilot.Fleet{})
				decisions++
			}
		}
		return decisions
	}
	tick()
	before, decisions := cpuSeconds(), 0
	const ticks = 3
	for range ticks {
		decisions += tick()
	}
	spent := cpuSeconds() - before
	row := tickRow{Endpoints: endpoints, BusyShare: 1.0 / busyOne, Busy: spent / ticks, PerSecond: 1e9 * spent / float64(decisions), Bytes: float64(unsafe.Sizeof(autopilot.Pilot{}))}
	fmt.Printf("\n%d endpoints, one in %d with traffic: %.2f CPU seconds per tick of 5 s, %.0f ns a decision, %.0f bytes a pilot\n\n",
		row.Endpoints, busyOne, row.Busy, row.PerSecond, row.Bytes)
	return row
}

// cpuSeconds is what this process has used of the processors.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

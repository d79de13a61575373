package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/simulate"
	"loadline.dev/loadline/simulate/trace"
)

// The scaling suite (B5, B8, B13): what each policy costs beside the offline
// optimum, on public traces in virtual time. Every policy sees the same seconds
// of the same arrivals, on the same queue, balancer and replicas.

// scalingService is how long a request takes, and scalingCapacity how many one
// replica carries, where a row does not say otherwise.
const (
	scalingService  = 100 * time.Millisecond
	scalingCapacity = 8
	scalingLate     = 200 * time.Millisecond
	scalingWarm     = 10 * time.Minute
)

// asked is what the flags say of this suite.
var asked struct {
	traces string
	short  bool
}

// A stretch is a part of a trace, and the class of its traffic.
type stretch struct {
	Name, Class string
	file, pick  string
	from, long  time.Duration
	service     time.Duration // makes a few requests a second as many replicas' work as a large endpoint has
}

const aDay = 24 * time.Hour

// stretches are what is played; short keeps those that a quick run plays.
func stretches(short bool) []stretch {
	client := func(n int, day int, service time.Duration, class string) stretch {
		return stretch{fmt.Sprintf("ServeGen client %d, day %d", n, day), class,
			fmt.Sprintf("servegen/m-small/chunk-%d-trace.csv", n), "", time.Duration(day) * aDay, 6 * time.Hour, service}
	}
	all := []stretch{
		{"ServeGen m-mid, day 1", "diurnal", "servegen/servegen_m-mid_total_rps_600s.csv", "", aDay + 6*time.Hour, 3 * time.Hour, scalingService},
		{"WorldCup98, day 47", "diurnal", "worldcup98/requests_per_minute_days_0_50.csv", "", 47*aDay + 8*time.Hour, 8 * time.Hour, scalingService},
		{"Azure Functions bd33", "diurnal", "azure-functions/faro_azure2019_s8_per_minute.csv", "bd33", 0, aDay, 5 * scalingService},
		client(12, 4, 4*scalingService, "bursty"),
		client(26, 1, 4*scalingService, "bursty"),
		client(17, 4, 4*scalingService, "bursty"),
		client(14, 3, 2*scalingService, "violent"),
	}
	if short {
		return []stretch{all[1], all[3]}
	}
	return append(all, []stretch{
		{"ServeGen m-small, day 3", "diurnal", "servegen/servegen_m-small_total_rps_600s.csv", "", 3*aDay + 6*time.Hour, 3 * time.Hour, scalingService},
		{"WorldCup98, day 42", "diurnal", "worldcup98/requests_per_minute_days_0_50.csv", "", 42*aDay + 8*time.Hour, 8 * time.Hour, scalingService},
		client(29, 6, 10*scalingService, "violent"),
	}...)
}

// A scalingRow is one policy on one stretch at one start delay.
type scalingRow struct {
	Trace, Class, Policy string
	Start                float64 // seconds; 0 where it was drawn from measured ones
	Ratio                float64 // cost ÷ offline optimum
	Late                 float64 // share of requests
	P99                  float64 // wait, seconds
	Replicas             float64 // mean
	Starts               int
}

// A contestant is a policy and how it is made for a start delay.
type contestant struct {
	name string
	make func(stretch, trace.Trace, time.Duration) (simulate.Sizer, error)
}

func flown(text string) contestant {
	return contestant{text, func(s stretch, _ trace.Trace, start time.Duration) (simulate.Sizer, error) {
		return pilotFor(text, s.service, start)
	}}
}

func pilotFor(text string, service, start time.Duration) (simulate.Sizer, error) {
	p, err := autopilot.Parse(text)
	if err != nil {
		return nil, err
	}
	p.Start, p.Service, p.Objective = start, service, scalingLate
	return autopilot.New(p)
}

// fixedAt keeps a quantile of what the optimum needs.
func fixedAt(name string, q float64) contestant {
	return contestant{name, func(s stretch, t trace.Trace, start time.Duration) (simulate.Sizer, error) {
		needed := simulate.Needed(t, s.service, scalingCapacity)
		slices.Sort(needed)
		return pilotFor(fmt.Sprintf("static:%d", needed[min(len(needed)-1, int(q*float64(len(needed))))]), s.service, start)
	}}
}

func contestants() []contestant {
	list := []contestant{flown("autopilot"), flown("published:0.70"), flown("published:0.85"), flown("published:1.00"),
		fixedAt("static p99", 0.99), fixedAt("static peak", 1)}
	for _, target := range []float64{0.70, 0.85} {
		list = append(list, contestant{fmt.Sprintf("Knative %.2f", target), func(stretch, trace.Trace, time.Duration) (simulate.Sizer, error) {
			return newKnative(target * scalingCapacity), nil
		}}, contestant{fmt.Sprintf("HPA %.2f", target), func(stretch, trace.Trace, time.Duration) (simulate.Sizer, error) {
			return newHPA(target * scalingCapacity), nil
		}})
	}
	return list
}

func (b *bench) scaling(ctx context.Context) (any, error) {
	if asked.traces == "" {
		return nil, errors.New("-traces must say where the public traces lie")
	}
	var rows []scalingRow
	for _, s := range stretches(asked.short) {
		t, err := trace.Open(filepath.Join(asked.traces, s.file), trace.Options{Service: s.service, Dice: rand.New(rand.NewPCG(1, 1)), Select: s.pick})
		if err != nil {
			return nil, err
		}
		t = t.Cut(int(s.from.Seconds()), int(s.long.Seconds()))
		for _, start := range []time.Duration{2 * time.Second, 10 * time.Second, 60 * time.Second} {
			for _, c := range contestants() {
				row, err := compete(ctx, c, s, t, start)
				if err != nil {
					return nil, fmt.Errorf("%s on %s: %w", c.name, s.Name, err)
				}
				rows = append(rows, row)
			}
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", s.Name, t)
	}
	printScaling(rows)
	sparse, err := b.sparse(ctx)
	if err != nil {
		return nil, err
	}
	tick := manyEndpoints()
	goals := append(scalingGoals(rows), goal{"B13: CPU seconds of 5 s for 100,000 endpoints", tick.Busy, 1, true},
		goal{"B13: bytes of an endpoint's pilot", tick.Bytes, 2048, true})
	for _, r := range sparse {
		if r.Policy == "autopilot" {
			goals = append(goals, goal{fmt.Sprintf("B8: D %g s, (idle + price × cold) ÷ optimum", r.Start), r.Ratio, 1.2, true},
				goal{fmt.Sprintf("B8: D %g s, percent of always-on", r.Start), 100 * r.Share, 4, true})
		}
	}
	printGoals(os.Stdout, goals)
	return map[string]any{"scaling": rows, "sparse": sparse, "tick": tick, "goals": goals}, nil
}

func compete(ctx context.Context, c contestant, s stretch, t trace.Trace, start time.Duration) (scalingRow, error) {
	sizer, err := c.make(s, t, start)
	if err != nil {
		return scalingRow{}, err
	}
	r, err := simulate.Run(ctx, simulate.Config{Sizer: sizer, Capacity: scalingCapacity, Service: s.service, Start: start,
		Objective: scalingLate, Seed: 1, WarmUp: scalingWarm}, t)
	return scalingRow{Trace: s.Name, Class: s.Class, Policy: c.name, Start: start.Seconds(), Ratio: r.Ratio, Late: r.Late, P99: r.P99Wait,
		Replicas: r.ReplicaSeconds / (float64(t.Seconds()) - scalingWarm.Seconds()), Starts: r.Starts}, err
}

// printScaling shows the mean ratio and lateness of each policy by class.
func printScaling(rows []scalingRow) {
	type key struct {
		class, policy string
		start         float64
	}
	sums := map[key][3]float64{}
	var policies []string
	for _, r := range rows {
		k := key{r.Class, r.Policy, r.Start}
		sum := sums[k]
		sums[k] = [3]float64{sum[0] + r.Ratio, sum[1] + r.Late, sum[2] + 1}
		if !slices.Contains(policies, r.Policy) {
			policies = append(policies, r.Policy)
		}
	}
	tab := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "policy\tclass\t2 s\t10 s\t60 s")
	for _, class := range []string{"diurnal", "bursty", "violent"} {
		for _, p := range policies {
			line := p + "\t" + class
			for _, start := range []float64{2, 10, 60} {
				sum := sums[key{class, p, start}]
				line += fmt.Sprintf("\t%.3f (%.4f %% late)", sum[0]/sum[2], 100*sum[1]/sum[2])
			}
			if sums[key{class, p, 2}][2] > 0 {
				fmt.Fprintln(tab, line)
			}
		}
	}
	tab.Flush()
}

// scalingGoals holds the worst stretch of each class against the goal.
func scalingGoals(rows []scalingRow) []goal {
	bounds := map[string]struct{ fast, slow, late float64 }{"diurnal": {1.03, 1.05, 0.01}, "bursty": {1.08, 1.15, 0.25}, "violent": {1.20, math.Inf(1), 0.25}}
	var goals []goal
	for _, r := range rows {
		bound := bounds[r.Class]
		cost := bound.fast
		if r.Start > 10 {
			cost = bound.slow
		}
		if r.Policy != "autopilot" || math.IsInf(cost, 1) {
			continue
		}
		goals = append(goals, goal{fmt.Sprintf("B5: %s, D %g s: cost ÷ optimum", r.Trace, r.Start), r.Ratio, cost, true})
		if r.Start <= 10 {
			goals = append(goals, goal{fmt.Sprintf("B5: %s, D %g s: %% late", r.Trace, r.Start), 100 * r.Late, bound.late, true})
		}
	}
	return goals
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/rest"
	"loadline.dev/loadline/simulate"
	"loadline.dev/loadline/simulate/trace"
)

// A question is what the flags of whatif say.
type question struct {
	policies, served, export         string
	capacity, min, max               int
	objective, start, since, service time.Duration
	price                            float64
}

func whatifCommand(s *shell) *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use: "whatif NAME", Short: "Replay an endpoint's own traffic under other settings", Args: exactly("NAME"),
		Long: `Replay an endpoint's own recorded traffic (its requests by the second, and how long they took) under another policy,
objective, capacity or start delay, and show cost and lateness beside what really happened. What is not said is as it
was measured: the load line, the time in service, how long a replica takes to start.

The answer is that of "loadline simulate" on the trace that --export writes.`,
		Example: `  loadline whatif iris
  loadline whatif iris --policy published:0.70,static:2 --since 1h
  loadline whatif iris --start-delay 500ms --price-cold 30`,
		RunE: func(cmd *cobra.Command, args []string) error { return s.whatif(cmd, args[0], q) },
	}
	f := cmd.Flags()
	f.StringVar(&q.policies, "policy", "autopilot,published:0.70", "policies, separated by commas")
	f.StringVar(&q.served, "served", "", "the served entity, where there are several")
	f.IntVar(&q.capacity, "capacity", 0, "requests that one replica carries at once (default: as learned)")
	f.DurationVar(&q.objective, "objective", 0, "the wait beyond which a request is late (default: the endpoint's)")
	f.DurationVar(&q.start, "start-delay", 0, "how long a replica takes to start (default: as measured)")
	f.DurationVar(&q.service, "service-time", 0, "how long one request takes (default: as measured)")
	f.IntVar(&q.min, "min", 0, "fewest replicas (default: the endpoint's)")
	f.IntVar(&q.max, "max", 0, "most replicas (default: the endpoint's)")
	f.DurationVar(&q.since, "since", 24*time.Hour, "how far back")
	f.Float64Var(&q.price, "price-cold", 0, "what a start costs, in replica-seconds")
	f.StringVar(&q.export, "export", "", "write the trace to this CSV `FILE`, for simulate")
	return cmd
}

// An outcome is one row of the answer: what simulate says, and the price.
type outcome struct {
	simulate.Report
	Cost float64 `json:"cost"` // replica-seconds and the price of the starts
}

// A hindsight is the answer to whatif. The members of simulate's report mean the same here.
type hindsight struct {
	Entity   string    `json:"entity"`
	Seconds  int       `json:"seconds"`
	Capacity int       `json:"capacity"`
	Service  float64   `json:"service_s"`
	Start    float64   `json:"start_delay_s"`
	Actual   outcome   `json:"actual"` // policy "actual"; waits are not known of single requests
	Whatif   []outcome `json:"whatif"`
}

func (s *shell) whatif(cmd *cobra.Command, name string, q question) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	var v rest.View
	if err := c.do(ctx, "GET", at(name), nil, &v); err != nil {
		return err
	}
	query := url.Values{"since": {q.since.String()}}
	if q.served != "" {
		query.Set("entity", q.served)
	}
	var got struct {
		Entity  string            `json:"entity"`
		Seconds []rest.SecondView `json:"seconds"`
	}
	if err := c.do(ctx, "GET", at(name, "traffic")+"?"+query.Encode(), nil, &got); err != nil {
		return err
	}
	t := traceOf(got.Seconds)
	if t.Requests() == 0 {
		return &fault{exit: exitFailed, what: "whatif " + name, why: "no traffic of the last " + q.since.String() + " is kept", fix: "loadline invoke " + name + ", or a longer --since"}
	}
	var e explanation
	if err := c.do(ctx, "GET", at(name, "decisions")+"?last=1", nil, &e); err != nil {
		return err
	}
	q.complete(cmd, v, e, got.Entity, got.Seconds)
	if q.export != "" {
		if err := exportTrace(q.export, t); err != nil {
			return err
		}
	}
	a := hindsight{Entity: got.Entity, Seconds: t.Seconds(), Capacity: q.capacity, Service: q.service.Seconds(), Start: q.start.Seconds(),
		Actual: actual(got.Seconds)}
	a.Actual.Cost = a.Actual.ReplicaSeconds + q.price*float64(a.Actual.Starts)
	for text := range strings.SplitSeq(q.policies, ",") {
		report, err := q.play(ctx, strings.TrimSpace(text), t)
		if err != nil {
			return err
		}
		a.Actual.Optimum = report.Optimum
		a.Whatif = append(a.Whatif, outcome{report, report.ReplicaSeconds + q.price*float64(report.Starts)})
	}
	if a.Actual.Optimum > 0 {
		a.Actual.Ratio = a.Actual.ReplicaSeconds / a.Actual.Optimum
	}
	return s.print(a, func(w io.Writer) { s.showAnswer(w, a) })
}

// complete fills in what the flags left as it was.
func (q *question) complete(cmd *cobra.Command, v rest.View, e explanation, entity string, seconds []rest.SecondView) {
	for _, l := range e.Lines {
		if l.Entity == entity {
			q.capacity = cmp.Or(q.capacity, int(l.Plan+0.5))
			q.start = cmp.Or(q.start, time.Duration(l.Start*float64(time.Second)))
		}
	}
	ended, worked := 0, 0.0
	for _, s := range seconds {
		ended, worked = ended+s.Ended, worked+s.Worked
	}
	if ended > 0 && q.service == 0 {
		q.service = time.Duration(worked / float64(ended) * float64(time.Second))
	}
	for _, one := range v.Entities {
		if one.Name != entity || one.Pending {
			continue
		}
		if !cmd.Flags().Changed("min") {
			q.min = one.Scale.Min
		}
		if !cmd.Flags().Changed("max") {
			q.max = one.Scale.Max
		}
		if d, err := time.ParseDuration(one.Scale.Objective); err == nil {
			q.objective = cmp.Or(q.objective, d)
		}
	}
	q.capacity, q.service = max(1, q.capacity), max(q.service, time.Millisecond)
	q.objective, q.start = cmp.Or(q.objective, 200*time.Millisecond), cmp.Or(q.start, time.Second)
}

// play runs one policy over the trace.
func (q *question) play(ctx context.Context, text string, t trace.Trace) (simulate.Report, error) {
	policy, err := autopilot.Parse(text)
	if err != nil {
		return simulate.Report{}, asUsage(err)
	}
	policy.Start, policy.Objective = q.start, q.objective
	if policy.Rule != autopilot.Static {
		policy.Min, policy.Max = q.min, q.max
	}
	pilot, err := autopilot.New(policy)
	if err != nil {
		return simulate.Report{}, asUsage(err)
	}
	report, err := simulate.Run(ctx, simulate.Config{Sizer: pilot, Capacity: q.capacity, Service: q.service, Start: q.start,
		Objective: q.objective, Seed: 1}, t)
	report.Policy = policy.String()
	return report, asUsage(err)
}

// traceOf puts the seconds in a row; what is not kept had no traffic.
func traceOf(seconds []rest.SecondView) trace.Trace {
	if len(seconds) == 0 {
		return trace.Trace{}
	}
	first, last := seconds[0].At, seconds[len(seconds)-1].At
	t := trace.Trace{First: first, Counts: make([]uint32, max(0, last-first)+1)}
	for _, s := range seconds {
		if i := s.At - first; i >= 0 && i < int64(len(t.Counts)) {
			t.Counts[i] += uint32(s.Arrivals)
		}
	}
	return t
}

func exportTrace(path string, t trace.Trace) error {
	text := []byte("second,requests\n")
	for i, n := range t.Counts {
		text = fmt.Appendf(text, "%d,%d\n", t.First+int64(i), n)
	}
	return os.WriteFile(path, text, 0o600)
}

// actual is what the endpoint really cost, and how late it was. Between two
// seconds that are kept there were as many replicas as in the first of them.
func actual(seconds []rest.SecondView) outcome {
	o := outcome{Report: simulate.Report{Policy: "actual"}}
	late, placed := 0, 0
	for i, s := range seconds {
		o.Requests += int64(s.Arrivals)
		o.Lost += int64(s.Lost)
		late, placed = late+s.Late, placed+s.Ended
		span := int64(1)
		if i+1 < len(seconds) {
			span = max(1, seconds[i+1].At-s.At)
		}
		o.ReplicaSeconds += float64(s.Replicas) * float64(span)
		if i > 0 && s.Replicas > seconds[i-1].Replicas {
			o.Starts += s.Replicas - seconds[i-1].Replicas
		}
	}
	if placed > 0 {
		o.Late = float64(late) / float64(placed)
	}
	return o
}

func (s *shell) showAnswer(w io.Writer, a hindsight) {
	fmt.Fprintf(w, "%s: %d requests in %s; one replica carries %d at once, a request takes %s, a start %s\n", a.Entity, a.Actual.Requests,
		time.Duration(a.Seconds)*time.Second, a.Capacity, rounded(a.Service), rounded(a.Start))
	rows := [][]string{{"POLICY", "COST", "REPLICA-S", "STARTS", "÷ OPTIMUM", "LATE", "LOST"}}
	for _, o := range append([]outcome{a.Actual}, a.Whatif...) {
		rows = append(rows, []string{o.Policy, fmt.Sprintf("%.0f", o.Cost), fmt.Sprintf("%.0f", o.ReplicaSeconds), strconv.Itoa(o.Starts),
			fmt.Sprintf("%.2f", o.Ratio), fmt.Sprintf("%.3f %%", 100*o.Late), strconv.FormatInt(o.Lost, 10)})
	}
	s.columns(w, rows)
}

func rounded(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Microsecond).String()
}

package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/internal/queue"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/simulate"
	"loadline.dev/loadline/simulate/trace"
)

// A simulation is what the flags of simulate say.
type simulation struct {
	trace, policy, order, profile, series, plot, choose string

	capacity, min, max, gateways                  int
	from, length, service, start, objective, warm time.Duration
	seed                                          uint64
}

func simulateCommand(s *shell) *cobra.Command {
	var a simulation
	cmd := &cobra.Command{
		Use: "simulate --trace FILE", Short: "Replay traffic through the autopilot, the queue and the balancer, in virtual time",
		Long: `Replay traffic through the very autopilot, queue and balancer that serve, in virtual time, and say what it
would have cost and how many requests would have waited too long.

The trace is a CSV file with the header second,requests (how many arrived in each second) or
arrival_s,service_s (one row a request), or one of the public formats that are known by their headers; gzip too.
The same trace, flags and seed give the same answer.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.simulate(cmd, a) },
	}
	f := cmd.Flags()
	f.StringVar(&a.trace, "trace", "", "`FILE` of traffic")
	f.StringVar(&a.choose, "select", "", "one `SERIES` of a file that holds several")
	f.StringVar(&a.policy, "policy", "autopilot", "autopilot, published:0.70 or static:N")
	f.IntVar(&a.capacity, "capacity", 8, "requests that one replica truly carries at once")
	f.DurationVar(&a.service, "service-time", 100*time.Millisecond, "how long one request takes")
	f.DurationVar(&a.start, "start-delay", 10*time.Second, "how long a replica takes to start")
	f.DurationVar(&a.objective, "objective", 200*time.Millisecond, "the wait beyond which a request is late")
	f.IntVar(&a.min, "min", 0, "fewest replicas; 0 lets the last one go")
	f.IntVar(&a.max, "max", 0, "most replicas; 0 is no bound")
	f.Uint64Var(&a.seed, "seed", 1, "what the dice start from")
	f.IntVar(&a.gateways, "gateways", 1, "how many gateways share the traffic")
	f.StringVar(&a.order, "queue", "late-last", "late-last or fifo")
	f.DurationVar(&a.warm, "warm-up", 0, "how much of the beginning is played and not judged")
	f.StringVar(&a.profile, "profile", "", "what is known of the model: a JSON `FILE` with load_line, service_time, start_delays")
	f.StringVar(&a.plot, "plot", "", "draw demand, replicas, optimum and lateness to this SVG `FILE`")
	f.DurationVar(&a.from, "from", 0, "begin this long after the trace's beginning")
	f.DurationVar(&a.length, "for", maxTrace, "play at most this much of the trace")
	f.Lookup("for").DefValue = "all"
	f.StringVar(&a.series, "series", "", "write a row a second to this CSV `FILE`")
	return cmd
}

func (s *shell) simulate(cmd *cobra.Command, a simulation) error {
	if a.trace == "" {
		return usage("--trace is missing")
	}
	orders := map[string]queue.Order{"late-last": queue.LateLast, "fifo": queue.FIFO}
	order, ok := orders[a.order]
	if !ok {
		return usage("queue %q is not known; known are late-last and fifo", a.order)
	}
	policy, err := autopilot.Parse(a.policy)
	if err != nil {
		return asUsage(err)
	}
	config := simulate.Config{Capacity: a.capacity, Service: a.service, Start: a.start, Objective: a.objective,
		Order: order, Gateways: a.gateways, Seed: a.seed, WarmUp: a.warm}
	if err := a.know(cmd, policy.Rule, &config); err != nil {
		return asUsage(err)
	}
	policy.Min, policy.Max, policy.Start, policy.Service, policy.Objective = a.min, a.max, planned(config), config.Service, a.objective
	pilot, err := autopilot.New(policy)
	if err != nil {
		return asUsage(err)
	}
	config.Sizer = pilot
	t, err := trace.Open(a.trace, trace.Options{Service: config.Service, Dice: simulate.Dice(a.seed), Select: a.choose})
	if err != nil {
		return asUsage(err)
	}
	t = t.Cut(int(a.from.Seconds()), int(min(a.length, maxTrace).Seconds()))
	finish := func() error { return nil }
	if a.series != "" {
		if config.Row, finish, err = seriesTo(a.series); err != nil {
			return err
		}
	}
	var plot *simulate.Plot
	if a.plot != "" {
		plot = &simulate.Plot{Title: fmt.Sprintf("%s on %s, start delay %v", policy, filepath.Base(a.trace), a.start), Start: a.start}
		row := config.Row
		config.Row = func(r simulate.Row) {
			plot.Write(r)
			if row != nil {
				row(r)
			}
		}
	}
	report, err := simulate.Run(cmd.Context(), config, t)
	if err = errors.Join(err, finish()); err != nil {
		return asUsage(err)
	}
	report.Policy = policy.String()
	if plot != nil {
		if err := os.WriteFile(a.plot, plot.SVG(), 0o644); err != nil {
			return err
		}
	}
	return s.print(report, func(w io.Writer) { s.showReport(w, report) })
}

// maxTrace is no bound that a trace reaches.
const maxTrace = 100 * 365 * 24 * time.Hour

// know fills in what is known beforehand. The autopilot is told nothing of the
// capacity: without a profile, a simulated replica is calibrated as a real one is
// before its first request.
func (a *simulation) know(cmd *cobra.Command, rule autopilot.Rule, c *simulate.Config) error {
	known := simulate.Profile{}
	if a.profile != "" {
		var err error
		if known, err = simulate.OpenProfile(a.profile); err != nil {
			return err
		}
	}
	if known.Service > 0 && !cmd.Flags().Changed("service-time") {
		c.Service = known.Service
	}
	if len(known.Starts) > 0 && !cmd.Flags().Changed("start-delay") {
		c.Starts = known.Starts
	}
	if rule == autopilot.Adaptive {
		if c.Line = known.LoadLine; c.Line == 0 {
			c.Line = simulate.Calibrate(*c)
		}
	}
	return nil
}

// planned is the start delay to plan with: p95 of those that are drawn from.
func planned(c simulate.Config) time.Duration {
	if len(c.Starts) == 0 {
		return c.Start
	}
	sorted := slices.Sorted(slices.Values(c.Starts))
	return sorted[min(len(sorted)-1, len(sorted)*95/100)]
}

// asUsage makes what cannot be as it is written a mistake in the usage.
func asUsage(err error) error {
	if errors.Is(err, serving.Invalid) {
		return &fault{exit: exitUsage, what: err.Error(), fix: cmp.Or(serving.FixOf(err), "loadline simulate --help")}
	}
	return err
}

// seriesTo writes rows to a file; finish says whether all of it got there.
func seriesTo(path string) (row func(simulate.Row), finish func() error, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, nil, err
	}
	b := bufio.NewWriterSize(f, 1<<16)
	series := simulate.NewSeries(b)
	return series.Write, func() error { return errors.Join(b.Flush(), f.Close()) }, nil
}

func (s *shell) showReport(w io.Writer, r simulate.Report) {
	seconds := func(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) + " s" }
	s.columns(w, [][]string{
		{"policy", r.Policy},
		{"requests", strconv.FormatInt(r.Requests, 10)},
		{"late", fmt.Sprintf("%.4f %%", 100*r.Late)},
		{"lost", strconv.FormatInt(r.Lost, 10)},
		{"wait", fmt.Sprintf("p50 %s, p99 %s, p99.9 %s", seconds(r.P50Wait), seconds(r.P99Wait), seconds(r.P999Wait))},
		{"cost", fmt.Sprintf("%.0f replica-seconds, %d starts", r.ReplicaSeconds, r.Starts)},
		{"optimum", fmt.Sprintf("%.0f replica-seconds", r.Optimum)},
		{"ratio", fmt.Sprintf("%.3f", r.Ratio)},
		{"direction changes", strconv.Itoa(r.DirectionChanges)},
	})
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// The overload of B12: three times of what four replicas with one place each can
// do, from clients that give up after a second.
var (
	overloadPlan = wardPlan{factors: []float64{1, 1, 1, 1}, mean: 20 * time.Millisecond, even: true, places: 1}
	calm         = 3 * time.Second
	after        = 5 * time.Second
)

const (
	patience  = time.Second
	objective = 200 * time.Millisecond // the gateway's, which nobody has set
)

// An overloadRow is one subject of B12.
type overloadRow struct {
	Way     string
	Oracle  series // answers a second by the oracle, with twice as much to do as it can, ÷ the capacity
	Goodput series // answers within a client's patience ÷ the capacity
	InTime  series // those within the objective, likewise
	P99     series // ms, of all that were answered, while the overload lasts
	Refused series // share of the requests that were told no
	Lost    series // share of the requests whose clients gave up
	Recover series // s after the overload until a quarter of a second in which 19 of 20 are answered in time
}

type overloadResults struct {
	Seconds float64 // of overload
	Rows    []overloadRow
	Others  []isolationRow
	Goals   []goal
}

// overload is B12, and what a flooded endpoint does to another one.
func (b *bench) overload(ctx context.Context) (any, error) {
	if err := rivals(ctx); err != nil {
		return nil, err
	}
	all := &overloadResults{Seconds: (15 * b.stretch / 2).Seconds()}
	ways, end, err := b.wardWays(ctx, overloadPlan, overloadRivals)
	if err != nil {
		return nil, err
	}
	for _, w := range ways {
		if w.name != "oracle" { // it has no bound, and shows nothing here
			all.Rows = append(all.Rows, overloadRow{Way: w.name})
		}
	}
	for range b.long() {
		for i, row := range all.Rows {
			for _, w := range ways {
				if w.name == row.Way {
					overloadOnce(ctx, w, reachable(ctx, ways), &all.Rows[i], time.Duration(all.Seconds*1e9))
				}
			}
		}
	}
	end()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	printOverload(all)
	for _, r := range all.Rows {
		if r.Way == ours {
			all.Goals = append(all.Goals,
				goal{"3 × overload: goodput ÷ capacity", r.Goodput.median(), .95, false},
				goal{"3 × overload: answers within the objective ÷ capacity", r.InTime.median(), .95, false},
				goal{"3 × overload: p99 of the answered, ms", r.P99.median(), float64(objective) / 1e6, true},
				goal{"3 × overload: recovery, s", r.Recover.median(), 1, true})
		}
	}
	if err := b.isolation(ctx, all); err != nil {
		return nil, err
	}
	printGoals(os.Stdout, all.Goals)
	return all, nil
}

// reachable is what of their capacity the replicas reach on this machine at this
// moment with nothing in front of them: a busy machine wakes late who sleeps.
func reachable(ctx context.Context, ways []way) float64 {
	for _, w := range ways {
		if w.name == "oracle" {
			c := crowd{port: w.port, path: path, bodies: []string{question}, patience: time.Minute}
			const long = 3 * time.Second
			done := 0
			for _, s := range c.run(ctx, phase{2 * overloadPlan.capacity(), long}) {
				if end := s.due + s.took; end > time.Second && end <= long {
					done++
				}
			}
			return float64(done) / (long - time.Second).Seconds() / overloadPlan.capacity()
		}
	}
	return 0
}

func overloadOnce(ctx context.Context, w way, reached float64, r *overloadRow, long time.Duration) {
	capacity := overloadPlan.capacity()
	c := crowd{port: w.port, path: path, bodies: []string{question}, patience: patience}
	shots := c.run(ctx, phase{capacity / 2, calm}, phase{3 * capacity, long}, phase{capacity / 2, after})
	during := of(shots, calm, calm+long)
	good, p99 := within(during, patience)
	inTime, _ := within(during, objective)
	refused, lost := 0, 0
	for _, s := range during {
		switch s.status {
		case 429, 503:
			refused++
		case 0:
			lost++
		}
	}
	n := float64(len(during))
	r.Goodput = append(r.Goodput, float64(good)/capacity/long.Seconds())
	r.InTime = append(r.InTime, float64(inTime)/capacity/long.Seconds())
	r.P99 = append(r.P99, p99)
	r.Refused = append(r.Refused, float64(refused)/n)
	r.Lost = append(r.Lost, float64(lost)/n)
	r.Recover = append(r.Recover, recovery(shots, calm+long).Seconds())
	r.Oracle = append(r.Oracle, reached)
}

// recovery is how long after end it takes until, for a quarter of a second, 19
// of 20 requests are answered within the objective.
func recovery(shots []shot, end time.Duration) time.Duration {
	const stretch = 250 * time.Millisecond
	for from := end; from < end+after; from += stretch / 10 {
		some := of(shots, from, from+stretch)
		if good, _ := within(some, objective); len(some) > 0 && good*20 >= len(some)*19 {
			return from - end
		}
	}
	return after
}

// overloadRivals are the C proxies as one usually sets them up for this, and
// with exactly the right numbers for these replicas.
var overloadRivals = []wardRival{
	haproxyRival("haproxy queue", "balance leastconn", "maxconn 32"),
	haproxyRival("haproxy queue, exact", "balance leastconn\n    timeout queue 150ms\n    option abortonclose", "maxconn 1"),
	nginxRival("nginx limit_conn 512", "limit_conn all 512;"),
	nginxRival("nginx limit_conn, exact", "limit_conn all 24;"),
}

func printOverload(all *overloadResults) {
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "SUBJECT\toracle's throughput ÷ capacity\tgoodput ÷ capacity\twithin the objective\tp99 ms\trefused\tgave up\trecovery s")
	for _, r := range all.Rows {
		fmt.Fprintf(tab, "%s\t%v\t%v\t%v\t%v\t%v\t%v\t%v\n", r.Way, r.Oracle, r.Goodput, r.InTime, r.P99, r.Refused, r.Lost, r.Recover)
	}
	tab.Flush()
	fmt.Printf("\nB12, three times the capacity for %.0f s: median (least–most)\n%s\n", all.Seconds, text.String())
}

// An isolationRow is what another endpoint's trouble does to one that is well.
type isolationRow struct {
	Trouble string
	P99     series // ms, of the one that is well
	Ratio   series // to its p99 of the same round while the other was quiet
	Failed  series
}

// isolation measures one endpoint beside another that is flooded, hangs, or
// answers garbage, in the same gateway.
func (b *bench) isolation(ctx context.Context, all *overloadResults) error {
	plan := overloadPlan
	plan.factors = append(plan.factors, plan.factors...)
	b2, end := b.apart(ctx)
	defer end()
	d, err := b.ward(b2, plan)
	if err != nil {
		return err
	}
	well, err := b.spread(b2, strings.Join(d.sockets[:4], ",")+";"+strings.Join(d.sockets[4:], ","))
	if err != nil {
		return err
	}
	if err := b.answers(ctx, well.port); err != nil {
		return err
	}
	troubles := []struct {
		name, body string
		rate       float64
	}{{"quiet", "", 0}, {"flooded", question, 3 * overloadPlan.capacity()}, {"hangs", "hang", 200}, {"answers garbage", "garbage", 400}}
	for _, t := range troubles {
		all.Others = append(all.Others, isolationRow{Trouble: t.name})
	}
	for range b.long() {
		for i, t := range troubles {
			other := crowd{port: well.port, path: strings.Replace(path, "iris", "other", 1), bodies: []string{t.body}, patience: patience}
			ctx, stop := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() { other.run(ctx, phase{t.rate, time.Hour}); close(done) }()
			one := crowd{port: well.port, path: path, bodies: []string{question}, patience: 20 * time.Second}
			const warm = time.Second
			shots := of(one.run(ctx, phase{overloadPlan.capacity() * .6, warm + 4*b.stretch}), warm, time.Hour)
			stop()
			<-done
			good, p99 := within(shots, time.Hour)
			row := &all.Others[i]
			row.P99 = append(row.P99, p99)
			row.Ratio = append(row.Ratio, p99/all.Others[0].P99[len(row.P99)-1])
			row.Failed = append(row.Failed, 1-float64(good)/float64(len(shots)))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "THE OTHER\tp99 ms\t× quiet\tfailed")
	for _, r := range all.Others {
		fmt.Fprintf(tab, "%s\t%v\t%v\t%v\n", r.Trouble, r.P99, r.Ratio, r.Failed)
		if r.Trouble != "quiet" {
			all.Goals = append(all.Goals, goal{"an endpoint's p99 while another " + r.Trouble + ", × quiet", r.Ratio.median(), 1.1, true})
		}
	}
	tab.Flush()
	fmt.Printf("\nIsolation, one endpoint at 0.6 of its capacity beside another in one gateway: median (least–most)\n%s\n", text.String())
	return nil
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"loadline.dev/loadline/test/harness"
)

// An unevenRow is one subject in one case of B4.
type unevenRow struct {
	Case, Way string
	Load      float64
	P50, P99  series // ms, from when a request was due
	ToOracle  series // its p99 ÷ the oracle's of the same round
	Failed    series // share of the requests
}

type unevenResults struct {
	Rows  []unevenRow
	Goals []goal
}

// uneven is B4: ten replicas that are not alike, and who finds out.
func (b *bench) uneven(ctx context.Context) (any, error) {
	if err := rivals(ctx); err != nil {
		return nil, err
	}
	chosen, err := regexp.Compile(b.modes)
	if err != nil {
		return nil, err
	}
	ten := func(f func(i int) float64) (list []float64) {
		for i := range 10 {
			list = append(list, f(i))
		}
		return list
	}
	const mean = 20 * time.Millisecond // of work that lies evenly around it, as most models' does
	cases := []struct {
		name string
		plan wardPlan
	}{
		{"one ten times slower", wardPlan{factors: ten(func(i int) float64 { return 1 + 9*float64(i/9) }), mean: mean, even: true, places: 1}},
		{"two speeds", wardPlan{factors: ten(func(i int) float64 { return float64(1 + i%2) }), mean: mean, even: true, places: 1}},
		{"pauses", wardPlan{factors: ten(func(int) float64 { return 1 }), mean: mean, even: true, places: 1, pause: 300 * time.Millisecond, every: 10 * time.Second}},
	}
	all := &unevenResults{}
	for _, c := range cases {
		if !chosen.MatchString(c.name) {
			continue
		}
		ways, end, err := b.wardWays(ctx, c.plan, unevenRivals)
		if err != nil {
			return nil, err
		}
		for _, load := range []float64{.7, .9} {
			rows, err := b.unevenRounds(ctx, c.name, c.plan.capacity()*load, ways)
			if err != nil {
				return nil, err
			}
			for i := range rows {
				rows[i].Load = load
			}
			printUneven(rows)
			all.Rows = append(all.Rows, rows...)
			all.Goals = append(all.Goals, unevenGoals(c.name, load, rows)...)
		}
		end()
	}
	printGoals(os.Stdout, all.Goals)
	return all, nil
}

// unevenRounds asks every way in turn, as often as there are rounds.
func (b *bench) unevenRounds(ctx context.Context, name string, rate float64, ways []way) ([]unevenRow, error) {
	rows := make([]unevenRow, len(ways))
	const warm = 3 * time.Second // in which ways learn, if they do
	for range b.long() {
		for i, w := range ways {
			rows[i].Case, rows[i].Way = name, w.name
			c := crowd{port: w.port, path: path, bodies: []string{question}, patience: 20 * time.Second}
			shots := of(c.run(ctx, phase{rate, warm + 4*b.stretch}), warm, time.Hour)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			good, p99 := within(shots, time.Hour)
			rows[i].P99 = append(rows[i].P99, p99)
			rows[i].P50 = append(rows[i].P50, median(shots))
			rows[i].Failed = append(rows[i].Failed, 1-float64(good)/float64(len(shots)))
		}
	}
	for i := range rows {
		for round, p99 := range rows[i].P99 {
			for _, o := range rows {
				if o.Way == "oracle" {
					rows[i].ToOracle = append(rows[i].ToOracle, p99/o.P99[round])
				}
			}
		}
	}
	return rows, nil
}

func median(shots []shot) float64 {
	var s series
	for _, shot := range shots {
		s = append(s, float64(shot.took)/1e6)
	}
	return s.median()
}

// A wardRival is what is to stand in front of a ward.
type wardRival struct {
	name  string
	start func(b *bench, ctx context.Context, d wardDoors) (way, error)
}

// wardDoors are where the replicas of a ward listen.
type wardDoors struct {
	pid     int
	dir     string
	sockets []string
	ports   []int
}

// ward starts a ward.
func (b *bench) ward(ctx context.Context, plan wardPlan) (d wardDoors, err error) {
	if b.self, err = os.Executable(); err != nil {
		return d, err
	}
	if d.dir, err = os.MkdirTemp(b.dir, "ward"); err != nil {
		return d, err
	}
	var list []string
	for i := range plan.factors {
		port, err := harness.FreePort()
		if err != nil {
			return d, err
		}
		d.ports, d.sockets, list = append(d.ports, port), append(d.sockets, socketOf(d.dir, i)), append(list, strconv.Itoa(port))
	}
	if d.pid, err = b.role(ctx, "ward", append(plan.args(), "-dir", d.dir, "-ports", strings.Join(list, ","))...); err != nil {
		return d, err
	}
	return d, harness.Eventually(ctx, 5*time.Second, func() error { _, err := os.Stat(d.sockets[len(d.sockets)-1]); return err })
}

// wardWays starts the gateway, the oracle and the rivals, each in front of a
// ward of its own; end stops them all.
func (b *bench) wardWays(ctx context.Context, plan wardPlan, rivals []wardRival) (ways []way, end func(), err error) {
	ctx, stop := context.WithCancel(ctx)
	before := len(b.spawned)
	end = func() {
		stop()
		for _, cmd := range b.spawned[before:] {
			_ = cmd.Wait()
		}
		b.spawned = b.spawned[:before]
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	for _, subject := range []struct {
		name, role string
		args       []string
	}{{ours, "spread", nil}, {"oracle", "oracle", plan.args()}} {
		if subject.name == ours {
			d, err := b.ward(ctx, plan)
			if err != nil {
				return nil, nil, err
			}
			subject.args = []string{"-to", strings.Join(d.sockets, ",")}
		}
		port, err := harness.FreePort()
		if err != nil {
			return nil, nil, err
		}
		pid, err := b.role(ctx, subject.role, append(subject.args, "-port", strconv.Itoa(port))...)
		if err != nil {
			return nil, nil, err
		}
		ways = append(ways, way{name: subject.name, port: port, pids: map[string][]int{"front": {pid}}})
	}
	chosen, err := regexp.Compile(b.subjects)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range rivals {
		if !chosen.MatchString(r.name) {
			continue
		}
		d, err := b.ward(ctx, plan) // its own: what one has piled up is not the next one's
		if err != nil {
			return nil, nil, err
		}
		w, err := r.start(b, ctx, d)
		if err != nil {
			return nil, nil, err
		}
		w.name = r.name
		ways = append(ways, w)
	}
	for _, w := range ways {
		if err = b.answers(ctx, w.port); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return ways, end, nil
}

// oursFIFO is the gateway with requests in order of arrival, as the oracle and
// the rivals have them. In the order that it has unless told, few are late but
// those are late by far, which is the price of a p99 near the objective.
const oursFIFO = "loadline, fifo"

// unevenRivals are the balancers of HAProxy and nginx that look at load, and our
// own in the other order.
var unevenRivals = []wardRival{
	{oursFIFO, func(b *bench, ctx context.Context, d wardDoors) (way, error) {
		return b.spread(ctx, "fifo:"+strings.Join(d.sockets, ","))
	}},
	haproxyRival("haproxy leastconn", "balance leastconn", ""),
	haproxyRival("haproxy random(2)", "balance random(2)", ""),
	nginxRival("nginx least_conn", ""),
}

func haproxyRival(name, backend, server string) wardRival {
	return wardRival{name, func(b *bench, ctx context.Context, d wardDoors) (way, error) {
		return b.haproxyWith(ctx, d.dir, name, func(port int) string { return haproxyPool(port, d.ports, backend, server) })
	}}
}

func nginxRival(name, more string) wardRival {
	return wardRival{name, func(b *bench, ctx context.Context, d wardDoors) (way, error) {
		return b.nginxWith(ctx, d.dir, name, func(port int, dir string) string { return nginxPool(port, d.ports, dir, more) })
	}}
}

func (b *bench) haproxyWith(ctx context.Context, dir, name string, conf func(port int) string) (way, error) {
	port, err := harness.FreePort()
	if err != nil {
		return way{}, err
	}
	file := filepath.Join(dir, "haproxy-"+strconv.Itoa(port)+".conf")
	if err := os.WriteFile(file, []byte(conf(port)), 0o644); err != nil {
		return way{}, err
	}
	pid, err := b.spawn(ctx, "haproxy-"+strconv.Itoa(port), "/usr/sbin/haproxy", "-db", "-f", file)
	return way{name: name, port: port, pids: map[string][]int{"front": {pid}}}, err
}

func (b *bench) nginxWith(ctx context.Context, dir, name string, conf func(port int, dir string) string) (way, error) {
	port, err := harness.FreePort()
	if err != nil {
		return way{}, err
	}
	dir = filepath.Join(dir, "nginx-"+strconv.Itoa(port))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return way{}, err
	}
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(conf(port, dir)), 0o644); err != nil {
		return way{}, err
	}
	pid, err := b.spawn(ctx, "nginx-"+strconv.Itoa(port), "/usr/sbin/nginx", "-c", file, "-p", dir)
	return way{name: name, port: port, pids: map[string][]int{"front": {pid}}}, err
}

// haproxyPool is haproxyConf in front of several servers.
func haproxyPool(port int, behind []int, backend, server string) string {
	var servers strings.Builder
	for i, p := range behind {
		fmt.Fprintf(&servers, "    server s%d 127.0.0.1:%d pool-max-conn 1024 %s\n", i, p, server)
	}
	text := haproxyConf(port, 0)
	head, _, _ := strings.Cut(text, "\nbackend b\n")
	return head + "\nbackend b\n    " + backend + "\n" + servers.String()
}

// nginxPool is nginxConf in front of several servers.
func nginxPool(port int, behind []int, dir, more string) string {
	var servers strings.Builder
	for _, p := range behind {
		fmt.Fprintf(&servers, "server 127.0.0.1:%d max_fails=0; ", p)
	}
	text := nginxConf(port, 1, dir)
	text = strings.Replace(text, "server 127.0.0.1:1;", "least_conn; "+servers.String(), 1)
	text = strings.Replace(text, "location / {", more+" location / {", 1)
	return strings.Replace(text, "access_log off;", "access_log off; limit_conn_zone $server_port zone=all:1m;", 1)
}

func unevenGoals(name string, load float64, rows []unevenRow) []goal {
	var goals []goal
	for _, r := range rows {
		what := fmt.Sprintf("%s, load %.1f, %s: p99, ×", name, load, r.Way)
		if r.Way == ours || r.Way == oursFIFO {
			goals = append(goals, goal{what + " the oracle's", r.ToOracle.median(), 1.15, true})
			for _, o := range rows {
				if o.Way == "haproxy leastconn" && strings.HasPrefix(name, "one ten") {
					var ratio series
					for i := range o.P99 {
						ratio = append(ratio, r.P99[i]/o.P99[i])
					}
					goals = append(goals, goal{what + " leastconn's", ratio.median(), .2, true})
				}
			}
		}
	}
	return goals
}

func printUneven(rows []unevenRow) {
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "SUBJECT\tp50 ms\tp99 ms\t× oracle\tfailed")
	for _, r := range rows {
		fmt.Fprintf(tab, "%s\t%v\t%v\t%v\t%v\n", r.Way, r.P50, r.P99, r.ToOracle, r.Failed)
	}
	tab.Flush()
	fmt.Printf("\nB4, %s, load %.1f: median (least–most)\n%s\n", rows[0].Case, rows[0].Load, text.String())
}

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"loadline.dev/loadline/test/harness"
)

// A way is one subject of the path benchmarks: what listens on port, and the
// processes whose CPU time makes up the whole of it.
type way struct {
	name string
	port int
	pids map[string][]int // part → processes
}

// A mode is how the ways are asked.
type mode struct {
	name    string
	clients int
	rate    float64 // a second; zero is a closed loop
	body    int     // bytes of the question; zero is the usual one
	fields  string  // more lines of its head, parted by |
	x       int     // where on a curve this is
}

// A pathRow is what was measured of one way in one mode.
type pathRow struct {
	Part, Mode, Way string
	X               int `json:",omitempty"` // of a curve: connections, bytes, endpoints or replicas

	CPU       map[string]series // part → µs a request; "whole" is their sum
	Ratio     series            // of the whole, to HAProxy's with its server in the same round
	Syscalls  series            // a request
	PerSecond series
	P50, P99  series // ms, without what the machine spoiled (witness.go)
	Raw       series // ms, the P99 with it
	Spoiled   series // share of the requests that the machine spoiled
}

// pathResults is B1, B2, B3 and how cost grows.
type pathResults struct {
	Short bool // the short set
	Rows  []pathRow
	Idle  []idleRow
	Goals []goal
}

const (
	ours    = "loadline"
	haproxy = "haproxy"
	direct  = "server alone"
)

var (
	thorough = flag.Bool("full", false, "every suite at length")
	parts    = flag.String("parts", "", "a `pattern`: only these parts of the path suite: bare, full, latency, batching, connections, bodies, endpoints, replicas, idle")
)

// mostConnections is how many a subject may have, by the limit on open files.
var mostConnections int

// either is long in a thorough run and short in another.
func either[T any](long, short T) T {
	if *thorough {
		return long
	}
	return short
}

// paths measures what the way from a client to an answer costs.
func (b *bench) paths(ctx context.Context) (any, error) {
	if err := rivals(ctx); err != nil {
		return nil, err
	}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	mostConnections = min(12_000, manyFiles())
	wanted, err := regexp.Compile(*parts)
	if err != nil {
		return nil, err
	}
	all := &pathResults{Short: !*thorough}
	for _, part := range []struct {
		name string
		run  func(context.Context, *pathResults) error
	}{
		{"bare", b.bare}, {"full", b.full}, {"latency", b.latency}, {"batching", b.batching}, {"connections", b.connections},
		{"bodies", b.bodies}, {"endpoints", b.endpoints}, {"replicas", b.replicas}, {"idle", b.idle},
	} {
		if !wanted.MatchString(part.name) {
			continue
		}
		if err := b.within(ctx, func(ctx context.Context) error { return part.run(ctx, all) }); err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	printGoals(os.Stdout, all.Goals)
	return all, nil
}

// within ends what f started.
func (b *bench) within(ctx context.Context, f func(context.Context) error) error {
	ctx, end := context.WithCancel(ctx)
	before := len(b.spawned)
	defer func() {
		end()
		for _, cmd := range b.spawned[before:] {
			_ = cmd.Wait()
		}
		b.spawned = b.spawned[:before]
	}()
	return f(ctx)
}

// manyFiles lets subjects have as many files open as is allowed, and says how
// many connections a proxy can then have that needs two for each.
func manyFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	if limit.Cur < 65536 && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 65536, Max: max(65536, limit.Max)}) == nil {
		limit.Cur = 65536
	}
	return int(limit.Cur-100) / 2
}

// bare is B1: relaying alone, and an answer that costs nothing.
func (b *bench) bare(ctx context.Context, all *pathResults) error {
	ways, err := b.ways(ctx)
	if err != nil {
		return err
	}
	chosen, err := regexp.Compile(b.subjects)
	if err != nil {
		return err
	}
	ways = slices.DeleteFunc(ways, func(w way) bool { return w.name != haproxy && !chosen.MatchString(w.name) })
	if chosen, err = regexp.Compile(b.modes); err != nil {
		return err
	}
	modes := []mode{{name: "64 connections", clients: 64}, {name: "one connection", clients: 1},
		{name: "2000/s", clients: 64, rate: 2000}, {name: "5000/s", clients: 64, rate: 5000}}
	modes = slices.DeleteFunc(modes, func(m mode) bool { return !chosen.MatchString(m.name) })
	for _, m := range modes {
		rows, err := b.measure(ctx, "bare", m, b.rounds, ways)
		if err != nil {
			return err
		}
		all.Goals = append(all.Goals, pathGoals(m, rows)...)
		all.Rows = append(all.Rows, rows...)
	}
	return nil
}

// measure asks the ways in interleaved rounds, and counts their system calls in
// one round more.
func (b *bench) measure(ctx context.Context, part string, m mode, rounds int, ways []way) ([]pathRow, error) {
	rows := make([]pathRow, len(ways))
	for i, w := range ways {
		rows[i] = pathRow{Part: part, Mode: m.name, Way: w.name, X: m.x, CPU: map[string]series{}}
	}
	for range rounds {
		for i, w := range ways {
			if err := b.askWay(ctx, w, m, &rows[i]); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", w.name, m.name, err)
			}
		}
	}
	for i, w := range ways {
		if err := b.syscalls(ctx, w, m, &rows[i]); err != nil {
			return nil, fmt.Errorf("%s, %s: %w", w.name, m.name, err)
		}
	}
	compare(rows)
	printPaths(part+", "+m.name, rows)
	return rows, nil
}

// ways brings all subjects up.
func (b *bench) ways(ctx context.Context) ([]way, error) {
	socket := filepath.Join(b.dir, "agent.sock")
	agent, err := b.listening(ctx, socket, "agent", "-listen", socket)
	if err != nil {
		return nil, err
	}
	list := []way{}
	var failed error
	add := func(name string, start func(port int) (pids []int, err error), behind map[string][]int) int {
		if failed != nil {
			return 0
		}
		port, err := harness.FreePort()
		if err == nil {
			var pids []int
			if pids, err = start(port); err == nil {
				w := way{name, port, map[string][]int{"front": pids}}
				for part, pids := range behind {
					w.pids[part] = pids
				}
				list = append(list, w)
				err = b.answers(ctx, port)
			}
		}
		if err != nil {
			failed = fmt.Errorf("%s: %w; its last words:\n%s", name, err, harness.Tail(filepath.Join(b.dir, name+".log")))
		}
		return port
	}
	front := func(role, to string) func(port int) ([]int, error) {
		return func(port int) ([]int, error) {
			pid, err := b.role(ctx, role, "-port", strconv.Itoa(port), "-to", to)
			return []int{pid}, err
		}
	}
	add(ours, front("gateway", socket), map[string][]int{"behind": {agent}})
	server := add(direct, func(port int) ([]int, error) { return b.nginx(ctx, "server", port, 0) }, nil)
	if failed != nil {
		return nil, failed
	}
	behind := map[string][]int{"behind": list[1].pids["front"]}
	to := fmt.Sprintf("127.0.0.1:%d", server)
	add(haproxy, func(port int) ([]int, error) {
		_, file, err := b.conf(haproxy, haproxyConf(port, server))
		if err != nil {
			return nil, err
		}
		pid, err := b.spawn(ctx, "haproxy", "/usr/sbin/haproxy", "-db", "-f", file)
		return []int{pid}, err
	}, behind)
	add("nginx", func(port int) ([]int, error) { return b.nginx(ctx, "nginx", port, server) }, behind)
	add("fasthttp", front("fasthttp", to), behind)
	add("ReverseProxy", front("reverse", to), behind)
	add("fasthttp server alone", front("server", ""), nil)
	return list, failed
}

// listening starts a role and waits for its socket.
func (b *bench) listening(ctx context.Context, socket, role string, args ...string) (int, error) {
	os.Remove(socket)
	pid, err := b.role(ctx, role, args...)
	if err != nil {
		return 0, err
	}
	err = harness.Eventually(ctx, 10*time.Second, func() error { _, err := os.Stat(socket); return err })
	if err != nil {
		err = fmt.Errorf("%w; its last words:\n%s", err, harness.Tail(filepath.Join(b.dir, role+".log")))
	}
	return pid, err
}

// answers waits until the right answer comes from port.
func (b *bench) answers(ctx context.Context, port int) error {
	return harness.Eventually(ctx, time.Minute, func() error { // a table of ten thousand takes a while
		status, text, err := harness.Ask(ctx, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), question)
		if err == nil && (status != 200 || text != answer) {
			err = fmt.Errorf("answered %d: %s", status, text)
		}
		return err
	})
}

// pinned wraps a command so that it runs on one processor: subjects share one,
// the load generator has another.
func (b *bench) pinned(core int, args []string) []string {
	if runtime.NumCPU() < 2 || !b.pin {
		return args
	}
	return append([]string{"taskset", "-c", strconv.Itoa(core)}, args...)
}

func (b *bench) role(ctx context.Context, name string, args ...string) (int, error) {
	return b.spawn(ctx, name, append([]string{b.self, "role", name}, args...)...)
}

// spawn starts a subject that lives as long as the bench.
func (b *bench) spawn(ctx context.Context, name string, args ...string) (int, error) {
	args = b.pinned(runtime.NumCPU()-1, args)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // nginx's master takes its worker along
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	b.spawned = append(b.spawned, cmd)
	return cmd.Process.Pid, nil
}

// nginx starts nginx and finds its worker.
func (b *bench) nginx(ctx context.Context, name string, port, behind int) ([]int, error) {
	dir := filepath.Join(b.dir, name)
	_, file, err := b.conf(name, nginxConf(port, behind, dir))
	if err != nil {
		return nil, err
	}
	master, err := b.spawn(ctx, name, "/usr/sbin/nginx", "-c", file, "-p", dir)
	if err != nil {
		return nil, err
	}
	var pids []int
	return pids, harness.Eventually(ctx, 5*time.Second, func() error {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", master, master))
		if err != nil {
			return err
		}
		worker, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return fmt.Errorf("nginx has no worker yet; its last words:\n%s", harness.Tail(filepath.Join(b.dir, name+".log")))
		}
		pids = []int{master, worker}
		return nil
	})
}

// compare fills in the ratios to HAProxy with its server.
func compare(rows []pathRow) {
	var base series
	for _, r := range rows {
		if r.Way == haproxy {
			base = r.CPU["whole"]
		}
	}
	for i := range rows {
		for round, us := range rows[i].CPU["whole"] {
			rows[i].Ratio = append(rows[i].Ratio, us/base[round])
		}
	}
}

func pathGoals(m mode, rows []pathRow) []goal {
	find := func(name string) pathRow {
		for _, r := range rows {
			if r.Way == name {
				return r
			}
		}
		return pathRow{}
	}
	us := find(ours)
	if len(us.CPU) == 0 {
		return nil
	}
	if m.rate > 0 || m.clients == 1 {
		slow := "p99"
		if m.rate == 0 {
			slow = "p50"
		}
		return []goal{{m.name + ": whole path, × HAProxy + server", us.Ratio.median(), .9, true},
			{m.name + ": " + slow + ", × HAProxy's", slower(slow, us, find(haproxy)).median(), 1, true}}
	}
	var better, alone series
	for i, cost := range us.CPU["whole"] {
		if obvious := find("ReverseProxy").CPU["whole"]; obvious != nil {
			better = append(better, obvious[i]/cost)
		}
		alone = append(alone, us.CPU["front"][i]/find(haproxy).CPU["front"][i])
	}
	goals := []goal{
		{m.name + ": whole path, × HAProxy + server", us.Ratio.median(), .55, true},
		{m.name + ": gateway, × HAProxy", alone.median(), .75, true},
	}
	if better != nil {
		goals = append(goals, goal{m.name + ": ReverseProxy + server, × whole path", better.median(), 5, false})
	}
	if us.Syscalls != nil {
		goals = append(goals, goal{m.name + ": system calls a request", us.Syscalls.median(), 2.3, true})
	}
	return goals
}

// slower is a latency of one to that of another, round by round.
func slower(which string, one, other pathRow) series {
	a, b := one.P99, other.P99
	if which == "p50" {
		a, b = one.P50, other.P50
	}
	var s series
	for i := range a {
		s = append(s, a[i]/b[i])
	}
	return s
}

func printPaths(title string, rows []pathRow) {
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "SUBJECT\tCPU µs/request\tfront\tbehind\t× haproxy\trequests/s\tp50 ms\tp99 ms\twith spoiled\tspoiled\tsyscalls")
	for _, r := range rows {
		fmt.Fprintf(tab, "%s\t%v\t%v\t%v\t%v\t%v\t%v\t%v\t%v\t%.2f\t%.1f\n", r.Way, r.CPU["whole"], r.CPU["front"], r.CPU["behind"], r.Ratio, r.PerSecond, r.P50, r.P99, r.Raw, r.Spoiled.median(), r.Syscalls.median())
	}
	tab.Flush()
	fmt.Printf("\n%s: median (least–most)\n%s\n", title, text.String())
}

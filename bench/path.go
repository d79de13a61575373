package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
}

// A pathRow is what was measured of one way in one mode.
type pathRow struct {
	Mode, Way string
	CPU       map[string]series // part → µs a request; "whole" is their sum
	Ratio     series            // of the whole, to HAProxy's with its server in the same round
	Syscalls  series            // a request
	PerSecond series
	P50, P99  series // ms
}

// pathResults is B1, the first look at B2, and B3.
type pathResults struct {
	Rows  []pathRow
	Goals []goal
}

const (
	ours    = "loadline"
	haproxy = "haproxy"
)

// paths measures what the way from a client to an answer costs.
func (b *bench) paths(ctx context.Context) (any, error) {
	if err := rivals(ctx); err != nil {
		return nil, err
	}
	ways, err := b.ways(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := regexp.Compile(b.subjects)
	if err != nil {
		return nil, err
	}
	ways = slices.DeleteFunc(ways, func(w way) bool { return w.name != haproxy && !chosen.MatchString(w.name) })
	if chosen, err = regexp.Compile(b.modes); err != nil {
		return nil, err
	}
	modes := []mode{{"64 connections", 64, 0}, {"one connection", 1, 0}, {"2000/s", 64, 2000}, {"5000/s", 64, 5000}}
	modes = slices.DeleteFunc(modes, func(m mode) bool { return !chosen.MatchString(m.name) })
	all := &pathResults{}
	for _, m := range modes {
		rows := make([]pathRow, len(ways))
		for i, w := range ways {
			rows[i] = pathRow{Mode: m.name, Way: w.name, CPU: map[string]series{}}
		}
		for range b.rounds {
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
		printPaths(m.name, rows)
		all.Rows = append(all.Rows, rows...)
		all.Goals = append(all.Goals, pathGoals(m, rows)...)
	}
	printGoals(os.Stdout, all.Goals)
	return all, nil
}

// ways brings all subjects up.
func (b *bench) ways(ctx context.Context) ([]way, error) {
	var err error
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	socket := filepath.Join(b.dir, "agent.sock")
	agent, err := b.role(ctx, "agent", "-listen", socket)
	if err != nil {
		return nil, err
	}
	if err := harness.Eventually(ctx, 5*time.Second, func() error { _, err := os.Stat(socket); return err }); err != nil {
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
	server := add("server alone", func(port int) ([]int, error) { return b.nginx(ctx, "server", port, 0) }, nil)
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

// answers waits until the right answer comes from port.
func (b *bench) answers(ctx context.Context, port int) error {
	return harness.Eventually(ctx, 10*time.Second, func() error {
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

// askWay asks w for a stretch and adds what it cost to r.
func (b *bench) askWay(ctx context.Context, w way, m mode, r *pathRow) error {
	var before, after map[string]time.Duration
	l, err := b.load(ctx, w, m, func() (err error) { before, err = used(w.pids); return err },
		func() (err error) { after, err = used(w.pids); return err })
	if err != nil {
		return err
	}
	whole := 0.0
	for part := range w.pids {
		us := float64((after[part] - before[part]).Nanoseconds()) / 1e3 / float64(l.Requests)
		r.CPU[part] = append(r.CPU[part], us)
		whole += us
	}
	r.CPU["whole"] = append(r.CPU["whole"], whole)
	r.PerSecond = append(r.PerSecond, l.PerSecond)
	r.P50, r.P99 = append(r.P50, l.P50), append(r.P99, l.P99)
	return nil
}

// load runs the load generator on w. begin is called when it has warmed up,
// end when the last answer was there.
func (b *bench) load(ctx context.Context, w way, m mode, begin, end func() error) (load, error) {
	args := b.pinned(0, []string{b.self, "role", "load", "-port", strconv.Itoa(w.port), "-clients", strconv.Itoa(m.clients),
		"-rate", fmt.Sprint(m.rate), "-for", b.stretch.String()})
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return load{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return load{}, err
	}
	if err := cmd.Start(); err != nil {
		return load{}, err
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return load{}, errors.New("the load generator did not start")
	}
	if err := begin(); err != nil {
		return load{}, err
	}
	if _, err := io.WriteString(in, "\n"); err != nil {
		return load{}, err
	}
	if !lines.Scan() {
		return load{}, errors.New("the load generator ended")
	}
	if err := end(); err != nil {
		return load{}, err
	}
	var l load
	err = json.Unmarshal(lines.Bytes(), &l)
	if err == nil && (l.Errors > 0 || l.Requests == 0) {
		err = fmt.Errorf("%d of %d answers were wrong", l.Errors, l.Requests)
	}
	return l, err
}

// syscalls counts how often all processes of w call the kernel, per request.
func (b *bench) syscalls(ctx context.Context, w way, m mode, r *pathRow) error {
	var pids []string
	for _, list := range w.pids {
		for _, pid := range list {
			pids = append(pids, strconv.Itoa(pid))
		}
	}
	var text bytes.Buffer
	perf := exec.CommandContext(ctx, "perf", "stat", "-x", ";", "-e", "raw_syscalls:sys_enter", "-p", strings.Join(pids, ","))
	perf.Stderr = &text
	l, err := b.load(ctx, w, m, func() error {
		if err := perf.Start(); err != nil {
			return err
		}
		time.Sleep(300 * time.Millisecond) // until it counts; nothing is asked meanwhile
		return nil
	}, func() error {
		_ = perf.Process.Signal(os.Interrupt)
		_ = perf.Wait()
		return nil
	})
	if err != nil {
		return err
	}
	count, _, _ := strings.Cut(text.String(), ";")
	n, err := strconv.ParseFloat(strings.TrimSpace(count), 64)
	if err != nil {
		fmt.Println("system calls cannot be counted here:", strings.TrimSpace(text.String()))
		return nil
	}
	r.Syscalls = append(r.Syscalls, n/float64(l.Requests))
	return nil
}

func used(pids map[string][]int) (map[string]time.Duration, error) {
	sums := map[string]time.Duration{}
	for part, list := range pids {
		var err error
		if sums[part], err = cpu(list...); err != nil {
			return nil, err
		}
	}
	return sums, nil
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
		return []goal{{m.name + ": whole path, × HAProxy + server", us.Ratio.median(), .9, true}}
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

func printPaths(title string, rows []pathRow) {
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "SUBJECT\tCPU µs/request\tfront\tbehind\t× haproxy\trequests/s\tp50 ms\tp99 ms\tsyscalls")
	for _, r := range rows {
		fmt.Fprintf(tab, "%s\t%v\t%v\t%v\t%v\t%v\t%v\t%v\t%.1f\n", r.Way, r.CPU["whole"], r.CPU["front"], r.CPU["behind"], r.Ratio, r.PerSecond, r.P50, r.P99, r.Syscalls.median())
	}
	tab.Flush()
	fmt.Printf("\nB1, %s: median (least–most)\n%s\n", title, text.String())
}

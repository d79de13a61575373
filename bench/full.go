package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"loadline.dev/loadline/test/harness"
)

// What a client of the full path brings along.
const parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// full is B1 with all that a gateway does besides relaying: a token looked up,
// a rate counted, histograms, trace context. HAProxy has a map of tokens, a
// stick table, a map of routes and a log; ours does not write a record of each
// request yet, so HAProxy without its log stands beside.
func (b *bench) full(ctx context.Context, all *pathResults) error {
	ways, secret, err := b.fullWays(ctx)
	if err != nil {
		return err
	}
	m := mode{clients: 64, fields: "Authorization: Bearer " + secret + "|" + parent}
	for _, m.rate = range []float64{0, 5000} {
		m.name = "64 connections"
		if m.rate > 0 {
			m.name = "5000/s"
		}
		rows, err := b.measure(ctx, "full", m, b.rounds, ways)
		if err != nil {
			return err
		}
		all.Rows = append(all.Rows, rows...)
		if m.rate == 0 {
			all.Goals = append(all.Goals, goal{"full, 64 connections: whole path, × HAProxy + server", rows[0].Ratio.median(), .6, true})
		}
	}
	return nil
}

// fullWays brings the subjects up: ours, ours with an engine in a process of its
// own, and HAProxy with and without a log, in front of one server.
func (b *bench) fullWays(ctx context.Context) (ways []way, secret string, err error) {
	keys := filepath.Join(b.dir, "keys")
	for i, name := range []string{ours, ours + ", engine apart"} {
		dir := filepath.Join(b.dir, "replica-"+strconv.Itoa(i))
		for _, d := range []string{dir, keys} {
			if err := os.MkdirAll(d, 0o700); err != nil {
				return nil, "", err
			}
		}
		args := []string{"-dir", dir}
		if i == 1 {
			args = append(args, "-engine")
		}
		socket := filepath.Join(dir, "agent.sock")
		agent, err := b.listening(ctx, socket, "agent-full", args...)
		if err != nil {
			return nil, "", err
		}
		port, err := harness.FreePort()
		if err != nil {
			return nil, "", err
		}
		gateway, err := b.role(ctx, "edge", "-port", strconv.Itoa(port), "-to", socket, "-full", keys)
		if err != nil {
			return nil, "", err
		}
		w := way{name, port, map[string][]int{"front": {gateway}, "behind": {agent}}}
		secret, err = b.admitted(ctx, port, filepath.Join(keys, secretFile))
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w; its last words:\n%s", name, err, harness.Tail(filepath.Join(b.dir, "edge.log")))
		}
		if i == 1 {
			w.pids["engine"] = children(agent)
		}
		ways = append(ways, w)
	}
	more, err := b.fullRivals(ctx, secret)
	return append(ways, more...), secret, err
}

// fullRivals is HAProxy as one would set it up for the same.
func (b *bench) fullRivals(ctx context.Context, secret string) ([]way, error) {
	server, err := harness.FreePort()
	if err != nil {
		return nil, err
	}
	behind, err := b.nginx(ctx, "server-full", server, 0)
	if err != nil {
		return nil, err
	}
	var ways []way
	for name, log := range map[string]bool{haproxy: true, haproxy + " without its log": false} {
		port, err := harness.FreePort()
		if err != nil {
			return nil, err
		}
		folder := strings.ReplaceAll(name, " ", "-") + "-full"
		dir := filepath.Join(b.dir, folder)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		for file, text := range map[string]string{"users": secret + " bench\n", "routes": path + " b\n"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				return nil, err
			}
		}
		_, file, err := b.conf(folder, haproxyFull(port, server, dir, log))
		if err != nil {
			return nil, err
		}
		pid, err := b.spawn(ctx, folder, "/usr/sbin/haproxy", "-db", "-f", file)
		if err != nil {
			return nil, err
		}
		w := way{name, port, map[string][]int{"front": {pid}, "behind": behind}}
		if _, err := b.admitted(ctx, port, filepath.Join(b.dir, "keys", secretFile)); err != nil {
			return nil, fmt.Errorf("%s: %w; its last words:\n%s", name, err, harness.Tail(filepath.Join(b.dir, folder+".log")))
		}
		if log {
			ways = append([]way{w}, ways...)
		} else {
			ways = append(ways, w)
		}
	}
	return ways, nil
}

// haproxyFull is haproxyConf with a map of tokens, a rate per user in a stick
// table, a map of routes, trace context passed on, and a line in the log.
func haproxyFull(port, behind int, dir string, log bool) string {
	head, tail, _ := strings.Cut(haproxyConf(port, behind), "    default_backend b\n")
	lines := `    http-request set-var(txn.user) req.hdr(authorization),word(2,' '),map(` + dir + `/users)
    http-request deny deny_status 401 unless { var(txn.user) -m found }
    stick-table type string len 64 size 100k expire 2m store http_req_rate(1m)
    http-request track-sc0 var(txn.user)
    http-request deny deny_status 429 if { sc_http_req_rate(0) gt 60000000 }
    http-request set-header X-Request-Id %[rand(2147483647)]
    use_backend %[path,map(` + dir + `/routes,none)]
`
	if log {
		head = strings.Replace(head, "defaults\n", "    log stdout format raw local0\ndefaults\n    log global\n", 1)
		lines += `    log-format "%[date] %ci %[var(txn.user)] %HM %HP %ST %B %Tr %Ta %[req.hdr(traceparent)]"
`
		lines = strings.Replace(lines, "    use_backend", "    http-request capture req.hdr(traceparent) len 64\n    use_backend", 1)
		lines = strings.Replace(lines, "%[req.hdr(traceparent)]", "%[capture.req.hdr(0)]", 1)
	}
	return head + lines + tail
}

// admitted waits until the caller with the token in that file is answered.
func (b *bench) admitted(ctx context.Context, port int, file string) (secret string, err error) {
	err = harness.Eventually(ctx, 10*time.Second, func() error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		secret = string(text)
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), strings.NewReader(question))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+secret)
		answered, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer answered.Body.Close()
		body, err := io.ReadAll(answered.Body)
		if err == nil && (answered.StatusCode != 200 || string(body) != answer) {
			err = fmt.Errorf("answered %d: %s", answered.StatusCode, body)
		}
		return err
	})
	return secret, err
}

// children are all processes below pid.
func children(pid int) []int {
	var all []int
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		more, _ := os.ReadFile(file)
		data = append(append(data, ' '), more...)
	}
	seen := map[int]bool{}
	for _, word := range strings.Fields(string(data)) {
		child, err := strconv.Atoi(word)
		if err == nil && !seen[child] {
			seen[child] = true
			all = append(append(all, child), children(child)...)
		}
	}
	return all
}

// latency is B2: what a path adds to p99 at a quarter, a half and four fifths
// of what HAProxy and its server can carry on the one processor.
func (b *bench) latency(ctx context.Context, all *pathResults) error {
	ways, err := b.trio(ctx, 1, 1)
	if err != nil {
		return err
	}
	var most series
	for range 3 {
		l, err := b.load(ctx, ways[1], mode{clients: 64}, func() error { return nil }, func() error { return nil })
		if err != nil {
			return err
		}
		most = append(most, l.PerSecond)
	}
	for _, share := range []float64{.25, .5, .8} {
		m := mode{name: fmt.Sprintf("%.0f %% of capacity", 100*share), clients: 64, rate: share * most.median()}
		rows, err := b.measure(ctx, "latency", m, either(b.rounds, min(b.rounds, 3)), ways)
		if err != nil {
			return err
		}
		all.Rows = append(all.Rows, rows...)
		if bound := map[float64]float64{.5: .3, .8: 1}[share]; bound > 0 {
			all.Goals = append(all.Goals, goal{m.name + ": p99 over the server's alone, ms", added(rows[0], rows[2]).median(), bound, true})
		}
		all.Goals = append(all.Goals, goal{m.name + ": p99, × HAProxy's", slower("p99", rows[0], rows[1]).median(), 1, true})
	}
	return nil
}

// added is by how many ms the p99 of one exceeds another's, round by round.
func added(one, other pathRow) series {
	var s series
	for i := range one.P99 {
		s = append(s, one.P99[i]-other.P99[i])
	}
	return s
}

// batching is B3: how many system calls a request takes as clients become more.
func (b *bench) batching(ctx context.Context, all *pathResults) error {
	ways, err := b.trio(ctx, 1, 1)
	if err != nil {
		return err
	}
	for _, clients := range either([]int{1, 4, 16, 64, 256, 512}, []int{1, 16, 512}) {
		m := mode{name: fmt.Sprintf("%d clients", clients), clients: clients, x: clients}
		rows, err := b.measure(ctx, "batching", m, either(3, 1), ways[:2])
		if err != nil {
			return err
		}
		all.Rows = append(all.Rows, rows...)
	}
	return nil
}

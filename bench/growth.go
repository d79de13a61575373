package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"loadline.dev/loadline/test/harness"
)

// trio is ours with so many endpoints and replicas, HAProxy with as many routes
// and servers, and the server that stands behind it, alone.
func (b *bench) trio(ctx context.Context, endpoints, replicas int) ([]way, error) {
	return b.trioWith(ctx, endpoints, replicas, func(ctx context.Context, name string, port int) ([]int, error) {
		return b.nginx(ctx, name, port, 0)
	})
}

// reader is a server that reads what it is asked before it answers; nginx, as
// it is set up here, answers first.
func (b *bench) reader(ctx context.Context, _ string, port int) ([]int, error) {
	pid, err := b.role(ctx, "reader", "-port", strconv.Itoa(port))
	return []int{pid}, err
}

func (b *bench) trioWith(ctx context.Context, endpoints, replicas int, serve func(ctx context.Context, name string, port int) ([]int, error)) ([]way, error) {
	name := fmt.Sprintf("%d-%d", endpoints, replicas)
	socket := filepath.Join(b.dir, "crew-"+name)
	last := socket
	if replicas > 1 {
		last += fmt.Sprint(".", replicas-1)
	}
	agents, err := b.listening(ctx, last, "crew", "-listen", socket, "-n", strconv.Itoa(replicas))
	if err != nil {
		return nil, err
	}
	var ports [3]int
	for i := range ports {
		if ports[i], err = harness.FreePort(); err != nil {
			return nil, err
		}
	}
	gateway, err := b.role(ctx, "edge", "-port", strconv.Itoa(ports[0]), "-to", socket,
		"-endpoints", strconv.Itoa(endpoints), "-replicas", strconv.Itoa(replicas))
	if err != nil {
		return nil, err
	}
	server, err := serve(ctx, "server-"+name, ports[2])
	if err != nil {
		return nil, err
	}
	text, err := b.manyRoutes(haproxyConf(ports[1], ports[2]), name, endpoints, replicas, ports[2])
	if err != nil {
		return nil, err
	}
	_, file, err := b.conf("haproxy-"+name, text)
	if err != nil {
		return nil, err
	}
	proxy, err := b.spawn(ctx, "haproxy-"+name, "/usr/sbin/haproxy", "-db", "-f", file)
	if err != nil {
		return nil, err
	}
	ways := []way{
		{ours, ports[0], map[string][]int{"front": {gateway}, "behind": {agents}}},
		{haproxy, ports[1], map[string][]int{"front": {proxy}, "behind": server}},
		{direct, ports[2], map[string][]int{"front": server}},
	}
	for i, log := range []string{"edge", "haproxy-" + name, "server-" + name} {
		if err := b.answers(ctx, ways[i].port); err != nil {
			return nil, fmt.Errorf("%s: %w; its last words:\n%s", ways[i].name, err, harness.Tail(filepath.Join(b.dir, log+".log")))
		}
	}
	return ways, nil
}

// manyRoutes gives HAProxy's configuration a map of routes, servers enough, and
// room for ten thousand connections, of which it keeps a thousand behind it.
func (b *bench) manyRoutes(conf, name string, routes, servers, behind int) (string, error) {
	conf = strings.Replace(conf, "maxconn 4000", fmt.Sprintf("maxconn %d", mostConnections), 1)
	if routes > 1 {
		file := filepath.Join(b.dir, "routes-"+name)
		var lines strings.Builder
		for i := range routes - 1 {
			fmt.Fprintf(&lines, "/serving-endpoints/other-%d/invocations b\n", i)
		}
		fmt.Fprintf(&lines, "%s b\n", path)
		if err := os.WriteFile(file, []byte(lines.String()), 0o644); err != nil {
			return "", err
		}
		conf = strings.Replace(conf, "default_backend b", "use_backend %[path,map("+file+",none)]", 1)
	}
	head, _, _ := strings.Cut(conf, "    server s ")
	if servers > 1 {
		head += "    balance leastconn\n"
	}
	for i := range servers {
		head += fmt.Sprintf("    server s%d 127.0.0.1:%d pool-max-conn 1024 maxconn %d\n", i, behind, max(4, 1024/servers))
	}
	return head, nil
}

// grow measures ours and HAProxy in one mode more of a curve.
func (b *bench) grow(ctx context.Context, all *pathResults, part string, m mode, ways []way) error {
	rows, err := b.measure(ctx, part, m, either(3, 1), ways[:2])
	all.Rows = append(all.Rows, rows...)
	return err
}

// connections is how cost grows with clients that all ask at once.
func (b *bench) connections(ctx context.Context, all *pathResults) error {
	ways, err := b.trio(ctx, 1, 1)
	if err != nil {
		return err
	}
	for _, n := range either([]int{1, 10, 100, 1000, 10_000}, []int{1, 100, 10_000}) {
		n = min(n, mostConnections-100)
		if err := b.grow(ctx, all, "connections", mode{name: fmt.Sprintf("%d connections", n), clients: n, x: n}, ways); err != nil {
			return err
		}
	}
	return nil
}

// bodies is how cost grows with the length of the question.
func (b *bench) bodies(ctx context.Context, all *pathResults) error {
	ways, err := b.trioWith(ctx, 1, 1, b.reader)
	if err != nil {
		return err
	}
	for _, n := range either([]int{100, 1 << 10, 10 << 10, 100 << 10, 1 << 20, 16 << 20}, []int{100, 100 << 10, 16 << 20}) {
		if err := b.grow(ctx, all, "bodies", mode{name: fmt.Sprintf("%d bytes", n), clients: 8, body: n, x: n}, ways); err != nil {
			return err
		}
	}
	return nil
}

// endpoints is how cost grows with those that the table holds.
func (b *bench) endpoints(ctx context.Context, all *pathResults) error {
	for _, n := range either([]int{1, 10, 100, 1000, 10_000}, []int{1, 10_000}) {
		err := b.within(ctx, func(ctx context.Context) error {
			ways, err := b.trio(ctx, n, 1)
			if err != nil {
				return err
			}
			return b.grow(ctx, all, "endpoints", mode{name: fmt.Sprintf("%d endpoints", n), clients: 64, x: n}, ways)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replicas is how cost grows with those of one endpoint.
func (b *bench) replicas(ctx context.Context, all *pathResults) error {
	for _, n := range either([]int{1, 10, 100, 1000}, []int{1, 1000}) {
		err := b.within(ctx, func(ctx context.Context) error {
			ways, err := b.trio(ctx, 1, n)
			if err != nil {
				return err
			}
			return b.grow(ctx, all, "replicas", mode{name: fmt.Sprintf("%d replicas", n), clients: 64, x: n}, ways)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// An idleRow is what connections cost that were asked over and now say nothing.
type idleRow struct {
	Way         string
	Connections int
	Bytes       series // of memory (PSS) each
}

// idle measures the memory of a front per connection between two requests.
func (b *bench) idle(ctx context.Context, all *pathResults) error {
	n := min(either(10_000, 2000), mostConnections-100)
	for round := range either(3, 1) {
		err := b.within(ctx, func(ctx context.Context) error {
			ways, err := b.trio(ctx, 1, 1)
			if err != nil {
				return err
			}
			for i, w := range ways[:2] {
				bytes, err := b.idleBytes(ctx, w, n)
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				if round == 0 {
					all.Idle = append(all.Idle, idleRow{Way: w.name, Connections: n})
				}
				all.Idle[i].Bytes = append(all.Idle[i].Bytes, bytes)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	fmt.Printf("\nmemory of a front for each of %d idle connections: median (least–most)\n", n)
	for _, r := range all.Idle {
		fmt.Printf("%s  %.1f KiB (%.1f–%.1f)\n", r.Way, r.Bytes.median()/1024, r.Bytes.least()/1024, r.Bytes.most()/1024)
	}
	all.Goals = append(all.Goals, goal{"memory of an idle connection, KiB", all.Idle[0].Bytes.median() / 1024, 10, true})
	return nil
}

// idleBytes is by how much the front of w grows for each of n connections that
// were each answered once and then fell silent.
func (b *bench) idleBytes(ctx context.Context, w way, n int) (float64, error) {
	before, err := pss(w.pids["front"]...)
	if err != nil {
		return 0, err
	}
	// Slowly: what a crowd needs that asks at once is another matter.
	args := b.pinned(0, []string{b.self, "role", "load", "-port", strconv.Itoa(w.port), "-clients", strconv.Itoa(n),
		"-rate", "10000", "-warm", (time.Duration(n)*100*time.Microsecond + time.Second).String()})
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	if !bufio.NewScanner(out).Scan() {
		return 0, errors.New("the load generator did not start")
	}
	after, err := pss(w.pids["front"]...)
	return float64(after-before) / float64(n), err
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"loadline.dev/loadline/test/harness"
)

// A changeRow is one change under load of B14.
type changeRow struct {
	Way, Change string
	Requests    int
	Failed      series // requests of a round that got no answer, a broken one or another than 200
	Bump        series // ms: the p99 of the second after the change less that of the calm before
	Calm        series // ms: that p99
}

type changeResults struct {
	Rows  []changeRow
	Goals []goal
}

// changePlan is what each version consists of: quick answers, so that a bump
// of milliseconds shows.
var changePlan = wardPlan{factors: []float64{1, 1, 1, 1}, mean: 4 * time.Millisecond, places: 8}

const changeRate = 1000 // a second; every fifth is a stream of events

// change is B14: a thousand requests a second, some of them streams, while a
// version is switched and a replica is killed; the rivals reload.
func (b *bench) change(ctx context.Context) (any, error) {
	if err := rivals(ctx); err != nil {
		return nil, err
	}
	all := &changeResults{}
	subjects := []struct {
		way, change string
		run         func(context.Context) (changed, error)
	}{
		{ours, "a version is switched", b.switchVersion},
		{ours, "a replica is killed", b.killReplica},
		{haproxy, "reloaded", b.reloadHAProxy},
		{"nginx", "reloaded", b.reloadNginx},
	}
	for _, s := range subjects {
		all.Rows = append(all.Rows, changeRow{Way: s.way, Change: s.change})
	}
	for range b.long() {
		for i, s := range subjects {
			if err := b.changeOnce(ctx, s.run, &all.Rows[i]); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", s.way, s.change, err)
			}
		}
	}
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "SUBJECT\tCHANGE\trequests\tfailed a round\tp99 calm ms\tp99 bump ms")
	for _, r := range all.Rows {
		fmt.Fprintf(tab, "%s\t%s\t%d\t%v\t%v\t%v\n", r.Way, r.Change, r.Requests, r.Failed, r.Calm, r.Bump)
		if r.Way == ours {
			inside := 0.0 // of a replica that dies: those are nobody's to save
			if r.Change == "a replica is killed" {
				inside = float64(changePlan.places)
			}
			all.Goals = append(all.Goals, goal{r.Change + ": requests failed", r.Failed.median(), inside, true})
		}
		if r.Change == "a version is switched" {
			all.Goals = append(all.Goals, goal{r.Change + ": p99 bump, ms", r.Bump.median(), 5, true})
		}
	}
	tab.Flush()
	fmt.Printf("\nB14, %d requests a second, every fifth a stream: median (least–most)\n%s\n", changeRate, text.String())
	printGoals(os.Stdout, all.Goals)
	return all, nil
}

// A changed is a subject that is up, and how to change it.
type changed struct {
	port   int
	log    string
	change func() error
	end    func()
}

func (b *bench) changeOnce(ctx context.Context, start func(context.Context) (changed, error), r *changeRow) error {
	s, err := start(ctx)
	if err != nil {
		return err
	}
	defer s.end()
	if err := b.answers(ctx, s.port); err != nil {
		return fmt.Errorf("%w; its last words:\n%s", err, harness.Tail(s.log))
	}
	stream := `{"inputs": [1], "stream": true}`
	c := crowd{port: s.port, path: path, patience: 10 * time.Second, bodies: []string{question, question, question, question, stream}}
	const warm = time.Second
	moment := warm + 2*b.stretch
	failed := make(chan error, 1)
	go func() {
		time.Sleep(moment)
		failed <- s.change()
	}()
	shots := of(c.run(ctx, phase{changeRate, moment + 2*b.stretch}), warm, time.Hour)
	if err := <-failed; err != nil {
		return err
	}
	lost, statuses := 0, map[int]int{}
	for _, s := range shots {
		statuses[s.status]++
		if s.status != 200 {
			lost++
		}
	}
	if lost > 0 {
		fmt.Println(r.Way, r.Change, "answers by status, 0 being none or a broken one:", statuses)
	}
	r.Requests += len(shots)
	r.Failed = append(r.Failed, float64(lost))
	_, before := within(of(shots, warm, moment), time.Hour)
	_, after := within(of(shots, moment, moment+time.Second), time.Hour)
	r.Calm = append(r.Calm, before)
	r.Bump = append(r.Bump, after-before)
	return ctx.Err()
}

// apart is a context of one's own, and what ends it along with all that was
// spawned in it.
func (b *bench) apart(ctx context.Context) (context.Context, func()) {
	ctx, stop := context.WithCancel(ctx)
	before := len(b.spawned)
	return ctx, func() {
		stop()
		for _, cmd := range b.spawned[before:] {
			_ = cmd.Wait()
		}
		b.spawned = b.spawned[:before]
	}
}

// own runs start apart, and n wards with it.
func (b *bench) own(ctx context.Context, n int, start func(ctx context.Context, d []wardDoors) (changed, error)) (changed, error) {
	ctx, end := b.apart(ctx)
	var doors []wardDoors
	for range n {
		d, err := b.ward(ctx, changePlan)
		if err != nil {
			end()
			return changed{}, err
		}
		doors = append(doors, d)
	}
	s, err := start(ctx, doors)
	if err != nil {
		end()
		return s, err
	}
	s.end = end
	return s, nil
}

func (b *bench) switchVersion(ctx context.Context) (changed, error) {
	return b.own(ctx, 2, func(ctx context.Context, d []wardDoors) (changed, error) {
		w, err := b.spread(ctx, strings.Join(d[0].sockets, ",")+";"+strings.Join(d[1].sockets, ","))
		return changed{port: w.port, change: func() error { return syscall.Kill(w.pids["front"][0], syscall.SIGUSR1) }}, err
	})
}

// killReplica kills a replica with what is inside it: those requests are lost,
// whoever carries them. One ward is one process, so each replica has its own.
func (b *bench) killReplica(ctx context.Context) (changed, error) {
	return b.own(ctx, 3, func(ctx context.Context, d []wardDoors) (changed, error) {
		w, err := b.spread(ctx, strings.Join([]string{d[0].sockets[0], d[1].sockets[0], d[2].sockets[0]}, ","))
		return changed{port: w.port, change: func() error { return syscall.Kill(d[0].pid, syscall.SIGKILL) }}, err
	})
}

// reloadHAProxy reloads HAProxy as its master does it: the listening sockets
// are handed over, the old process finishes what it has.
func (b *bench) reloadHAProxy(ctx context.Context) (changed, error) {
	return b.own(ctx, 1, func(ctx context.Context, d []wardDoors) (changed, error) {
		port, err := harness.FreePort()
		if err != nil {
			return changed{}, err
		}
		file := filepath.Join(b.dir, "reload-"+strconv.Itoa(port)+".conf")
		conf := strings.Replace(haproxyPool(port, d[0].ports, "balance leastconn", ""), "global\n", "global\n    stats socket "+filepath.Join(b.dir, strconv.Itoa(port)+".sock")+" expose-fd listeners\n", 1)
		if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
			return changed{}, err
		}
		pid, err := b.spawn(ctx, "haproxy-"+strconv.Itoa(port), "/usr/sbin/haproxy", "-W", "-f", file)
		return changed{port: port, log: filepath.Join(b.dir, "haproxy-"+strconv.Itoa(port)+".log"),
			change: func() error { return syscall.Kill(pid, syscall.SIGUSR2) }}, err
	})
}

func (b *bench) reloadNginx(ctx context.Context) (changed, error) {
	return b.own(ctx, 1, func(ctx context.Context, d []wardDoors) (changed, error) {
		w, err := b.nginxWith(ctx, b.dir, "nginx", func(port int, dir string) string { return nginxPool(port, d[0].ports, dir, "") })
		if err != nil {
			return changed{}, err
		}
		return changed{port: w.port, change: func() error { return syscall.Kill(w.pids["front"][0], syscall.SIGHUP) }}, nil
	})
}

// spread starts a gateway in front of replicas.
func (b *bench) spread(ctx context.Context, to string) (way, error) {
	port, err := harness.FreePort()
	if err != nil {
		return way{}, err
	}
	pid, err := b.role(ctx, "spread", "-to", to, "-port", strconv.Itoa(port))
	return way{name: ours, port: port, pids: map[string][]int{"front": {pid}}}, err
}

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
	"strconv"
	"strings"
	"time"
)

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
	r.Raw, r.Spoiled = append(r.Raw, l.Raw), append(r.Spoiled, l.Spoiled)
	return nil
}

// span is how long a subject is asked.
func (b *bench) span() time.Duration { return either(b.stretch, min(b.stretch, 600*time.Millisecond)) }

// long is how often a suite is played that takes minutes each time.
func (b *bench) long() int { return either(b.rounds, 1) }

// warm is how long a subject is asked before it counts: every connection at
// least once.
func (b *bench) warm(m mode) time.Duration {
	return either(300*time.Millisecond, 150*time.Millisecond) + time.Duration(m.clients)*100*time.Microsecond
}

// load runs the load generator on w. begin is called when it has warmed up,
// end when the last answer was there.
func (b *bench) load(ctx context.Context, w way, m mode, begin, end func() error) (load, error) {
	args := b.pinned(0, []string{b.self, "role", "load", "-port", strconv.Itoa(w.port), "-clients", strconv.Itoa(m.clients),
		"-rate", fmt.Sprint(m.rate), "-for", b.span().String(), "-warm", b.warm(m).String(), "-body", strconv.Itoa(m.body), "-fields", m.fields})
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

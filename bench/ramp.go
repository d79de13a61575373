package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// The ramp suite (B6): the real product, from ten requests a second to what the
// machine carries, open loop. What differs is the endpoint's policy. "waits" is an
// engine that has four places and works 50 ms on each request without a
// processor, as models do that call others: replicas add up. "logistic" is a
// model of scikit-learn in our Python worker: replicas share the processors.

const (
	rampCalm      = 10 * time.Second
	rampBusy      = 30 * time.Second
	rampSlow      = 10.0 // requests a second before the step
	rampShare     = 0.8  // of what the machine carries, after it
	rampObjective = 200 * time.Millisecond
)

// A rampRow is how one policy took the step.
type rampRow struct {
	Subject  string
	Policy   string
	Carried  float64 // requests a second that the machine carries
	Offered  float64 // a second after the step
	Errors   int
	Calm     float64 // 99th percentile before the step, ms
	Back     float64 // seconds from the step until the 99th percentile stays inside the objective; -1 never
	Decided  float64 // seconds from the step until more replicas were wanted; -1 never
	Load     float64 // seconds that the slowest replica took from start to ready
	Replicas int     // most that were ready
	End      float64 // 99th percentile of the last ten seconds, ms
}

func (b *bench) ramp(ctx context.Context) (any, error) {
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	var bodies []string
	data, err := os.ReadFile(filepath.Join(b.dir, "logistic.bodies.json"))
	if err == nil {
		err = json.Unmarshal(data, &bodies)
	}
	if err != nil {
		return nil, err
	}
	subjects := []rampSubject{
		{"waits", []string{"--command", "exec /usr/bin/python3 -B " + filepath.Join(b.dir, "waits.py"), "--health", "/", "--max", "8"}, "static:8", []string{"x"}, []string{"autopilot", "published:0.70", "static:1"}},
		{"logistic", []string{filepath.Join(b.dir, "logistic"), "--engine", "python"}, "static:2", bodies, []string{"autopilot", "static:1"}},
	}
	if err := os.WriteFile(filepath.Join(b.dir, "waits.py"), []byte(waits), 0o600); err != nil {
		return nil, err
	}
	var rows []rampRow
	var goals []goal
	for _, s := range subjects {
		carried, err := b.carries(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		for _, policy := range s.policies {
			row, err := b.rampOne(ctx, s, policy, carried)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", s.name, policy, err)
			}
			if rows = append(rows, row); policy == "autopilot" {
				back := row.Back
				if back < 0 {
					back = rampBusy.Seconds()
				}
				goals = append(goals, goal{s.name + ", autopilot: back inside the objective, s", back, 5 + row.Load, true},
					goal{s.name + ", autopilot: errors", float64(row.Errors), 0, true})
			}
		}
	}
	tab := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tab, "B6 ramp\tpolicy\t%.0f → /s\tof\tp99 calm ms\tback inside, s\tmore wanted, s\tload time, s\treplicas\tp99 at the end ms\terrors\n", rampSlow)
	for _, r := range rows {
		fmt.Fprintf(tab, "%s\t%s\t%.0f\t%.0f\t%.1f\t%.0f\t%.1f\t%.1f\t%d\t%.1f\t%d\n", r.Subject, r.Policy, r.Offered, r.Carried, r.Calm, r.Back, r.Decided, r.Load, r.Replicas, r.End, r.Errors)
	}
	tab.Flush()
	printGoals(os.Stdout, goals)
	return map[string]any{"rows": rows, "goals": goals}, nil
}

// A rampSubject is what takes the step.
type rampSubject struct {
	name     string
	deploy   []string // arguments beside the name
	most     string   // the policy with as many replicas as the machine has room for
	bodies   []string
	policies []string
}

const waits = `
import os, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

places = threading.Semaphore(4)

class Waits(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with places:
            time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 512

Server(("127.0.0.1", int(os.environ["PORT"])), Waits).serve_forever()
`

// carries finds what the machine carries: as many replicas as it has room for,
// asked by a closed loop.
func (b *bench) carries(ctx context.Context, s rampSubject) (float64, error) {
	if err := b.deployRamp(ctx, s, "most", s.most); err != nil {
		return 0, err
	}
	defer b.drop(ctx, "most")
	url := b.host + "/serving-endpoints/most/invocations"
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	measure := func(d time.Duration) (float64, error) {
		var wait sync.WaitGroup
		var mu sync.Mutex
		done, until := 0, time.Now().Add(d)
		var failed error
		for range 64 {
			wait.Go(func() {
				for i := 0; time.Now().Before(until) && ctx.Err() == nil; i++ {
					err := askOnce(ctx, client, url, s.bodies[i%len(s.bodies)])
					mu.Lock()
					if done++; err != nil {
						failed = err
					}
					mu.Unlock()
				}
			})
		}
		wait.Wait()
		return float64(done) / d.Seconds(), failed
	}
	if _, err := measure(5 * time.Second); err != nil {
		return 0, err
	}
	return measure(8 * time.Second)
}

func askOnce(ctx context.Context, client *http.Client, url, body string) error {
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", resp.Status, text)
	}
	return err
}

func (b *bench) deployRamp(ctx context.Context, s rampSubject, name, policy string) error {
	args := append([]string{"deploy", name}, s.deploy...)
	cmd := b.loadline(ctx, append(args, "--min", "1", "--policy", policy, "--objective", rampObjective.String())...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("deploy: %w: %s", err, text)
	}
	if size, static := strings.CutPrefix(policy, "static:"); static {
		if text, err := b.loadline(ctx, "wait", name, "--for", "replicas="+size).CombinedOutput(); err != nil {
			return fmt.Errorf("wait: %w: %s", err, text)
		}
	}
	return nil
}

func (b *bench) drop(ctx context.Context, name string) {
	_ = b.loadline(ctx, "delete", name, "--yes").Run() // the data folder goes with the run anyway
}

// An attempt is one request of the open loop.
type attempt struct {
	due  time.Time
	took time.Duration
	err  error
}

func (b *bench) rampOne(ctx context.Context, s rampSubject, policy string, carried float64) (rampRow, error) {
	row := rampRow{Subject: s.name, Policy: policy, Carried: carried, Offered: rampShare * carried, Back: -1, Decided: -1}
	name := s.name + "-" + strings.NewReplacer(":", "-", ".", "-").Replace(policy)
	if err := b.deployRamp(ctx, s, name, policy); err != nil {
		return row, err
	}
	defer b.drop(ctx, name)
	watch, stop := context.WithCancel(ctx)
	defer stop()
	start := time.Now()
	step := start.Add(rampCalm)
	watched := make(chan error, 1)
	go func() { watched <- b.watchRamp(watch, name, step, &row) }()
	shots := b.shoot(ctx, b.host+"/serving-endpoints/"+name+"/invocations", s.bodies, start, step, row.Offered)
	stop()
	if err := <-watched; err != nil {
		return row, err
	}
	row.judge(shots, step)
	return row, nil
}

// shoot sends requests when they are due, whatever became of those before.
func (b *bench) shoot(ctx context.Context, url string, bodies []string, start, step time.Time, rate float64) []attempt {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}, Timeout: 60 * time.Second}
	defer client.CloseIdleConnections()
	dice := rand.New(rand.NewPCG(6, 6))
	var mu sync.Mutex
	var shots []attempt
	var flying sync.WaitGroup
	end := step.Add(rampBusy)
	for due := start; due.Before(end) && ctx.Err() == nil; {
		time.Sleep(time.Until(due))
		at, body := due, bodies[dice.IntN(len(bodies))]
		flying.Go(func() {
			err := askOnce(ctx, client, url, body)
			mu.Lock()
			shots = append(shots, attempt{at, time.Since(at), err})
			mu.Unlock()
		})
		now := rampSlow
		if !due.Before(step) {
			now = rate
		}
		due = due.Add(time.Duration(dice.ExpFloat64() / now * 1e9))
	}
	flying.Wait()
	return shots
}

// judge reads the shots by the second in which they were due.
func (r *rampRow) judge(shots []attempt, step time.Time) {
	seconds := int(rampBusy / time.Second)
	by := make([][]float64, seconds)
	var calm, last []float64
	for _, s := range shots {
		if s.err != nil {
			r.Errors++
			if r.Errors <= 3 {
				fmt.Fprintln(os.Stderr, "bench: ramp:", r.Policy, s.err)
			}
		}
		ms := float64(s.took) / 1e6
		if s.due.Before(step) {
			calm = append(calm, ms)
			continue
		}
		i := min(seconds-1, int(s.due.Sub(step)/time.Second))
		by[i] = append(by[i], ms)
		if i >= seconds-10 {
			last = append(last, ms)
		}
	}
	r.Calm, r.End = quantile(calm, 0.99), quantile(last, 0.99)
	for i := seconds - 1; i >= 0 && quantile(by[i], 0.99) <= float64(rampObjective)/1e6; i-- {
		r.Back = float64(i)
	}
}

// watchRamp follows the endpoint's replicas from the API.
func (b *bench) watchRamp(ctx context.Context, name string, step time.Time, row *rampRow) error {
	token, err := os.ReadFile(filepath.Join(b.dir, "data", "token"))
	if err != nil {
		return err
	}
	var v struct {
		Entities []struct {
			Want, Ready int
			Replicas    []struct {
				State          string
				Started, Since time.Time
			}
		}
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, "GET", b.host+"/api/loadline/v1/endpoints/"+name, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
		resp, err := http.DefaultClient.Do(req)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		err = json.NewDecoder(resp.Body).Decode(&v)
		resp.Body.Close()
		if err != nil {
			return fmt.Errorf("read the endpoint: %w", err)
		}
		for _, e := range v.Entities {
			row.Replicas = max(row.Replicas, e.Ready)
			if after := time.Since(step).Seconds(); e.Want > 1 && row.Decided < 0 && after > 0 {
				row.Decided = after
			}
			for _, one := range e.Replicas {
				if one.State == "ready" {
					row.Load = max(row.Load, one.Since.Sub(one.Started).Seconds())
				}
			}
		}
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"loadline.dev/loadline/test/harness"
)

// A story is the demo's main job, step by step, on real parts: MLflow's
// tracking server, models logged by MLflow, the built binary.
type story struct {
	Bin    string    // the loadline binary
	Python string    // an interpreter with MLflow and the models' packages
	Root   string    // the repository
	Dir    string    // working folder, empty at the start
	Out    io.Writer // where the steps are told

	tracking *harness.Server
	port     int // where loadline listens, once it has
	server   *harness.Server
	models   []model
	began    time.Time
}

// step tells what was done and how long it took.
func (s *story) step(what string, do func() (string, error)) error {
	start := time.Now()
	note, err := do()
	if err != nil {
		fmt.Fprintf(s.Out, "%7.1fs  ✗ %s\n", time.Since(s.began).Seconds(), what)
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Fprintf(s.Out, "%7.1fs  %-46s %6.1fs  %s\n", time.Since(s.began).Seconds(), what, time.Since(start).Seconds(), note)
	return nil
}

// prepare starts the tracking server, trains the models, starts loadline.
func (s *story) prepare(ctx context.Context, only ...string) error {
	err := s.step("MLflow tracking server (SQLite, proxied artifacts)", func() (string, error) {
		var err error
		if s.tracking, err = s.track(ctx); err != nil {
			return "", err
		}
		return s.tracking.URL, nil
	})
	if err != nil {
		return err
	}
	err = s.step("train, log, register", func() (string, error) {
		var err error
		s.models, err = s.train(ctx, only...)
		return fmt.Sprintf("%d models, @champion", len(s.models)), err
	})
	if err != nil {
		return err
	}
	return s.step("loadline up", func() (string, error) {
		var err error
		s.server, err = s.up(ctx)
		return s.host(), err
	})
}

// deploy deploys each model by its alias.
func (s *story) deploy(ctx context.Context) error {
	for _, m := range s.models {
		err := s.step("deploy "+m.Name, func() (string, error) {
			_, err := s.loadline(ctx, "deploy", m.Name, "models:/"+m.Name+"@champion")
			return "models:/" + m.Name + "@champion", err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// compare asks each endpoint and MLflow's own server the same, and wants the
// same answers, byte for byte.
func (s *story) compare(ctx context.Context) error {
	for _, m := range s.models {
		err := s.step("compare "+m.Name+" with MLflow's own server", func() (string, error) {
			reference, err := harness.Scoring(ctx, s.Python, m.Dir, filepath.Join(s.Dir, m.Name+"-mlflow.log"))
			if err != nil {
				return "", err
			}
			defer reference.Stop()
			example, err := m.example()
			if err != nil {
				return "", err
			}
			bodies := append([]string{example}, m.Bodies...)
			for _, body := range bodies {
				if err := same(ctx, reference.URL+"/invocations", s.invocations(m.Name), body); err != nil {
					return "", err
				}
			}
			if err := s.byColumns(ctx, m, len(bodies)); err != nil {
				return "", err
			}
			return fmt.Sprintf("%d requests (example and 200 rows): equal, all by columns", len(bodies)), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// byColumns wants all n requests to have crossed to the worker as columns: each
// model of the demo has a typed signature, and each body fits it.
func (s *story) byColumns(ctx context.Context, m model, n int) error {
	return harness.Eventually(ctx, 2*time.Second, func() error {
		columns, err := s.metric(ctx, `loadline_gateway_crossed_total{as="columns",endpoint="`+m.Name+`"`)
		if err != nil {
			return err
		}
		raw, err := s.metric(ctx, `loadline_gateway_crossed_total{as="raw",endpoint="`+m.Name+`"`)
		if err == nil && (columns < float64(n) || raw > 0) {
			err = fmt.Errorf("%.0f requests crossed as columns and %.0f raw; want all %d as columns", columns, raw, n)
		}
		return err
	})
}

func same(ctx context.Context, theirs, ours, body string) error {
	status, want, err := harness.Ask(ctx, theirs, body)
	if err != nil {
		return err
	}
	gotStatus, got, err := harness.Ask(ctx, ours, body)
	if err != nil {
		return err
	}
	if status != 200 || gotStatus != status || got != want {
		return fmt.Errorf("answers differ for %s\nMLflow   %d %s\nLoadline %d %s", body, status, want, gotStatus, got)
	}
	return nil
}

// change deploys version 2, rolls back and kills a replica, all under load.
func (s *story) change(ctx context.Context, m model) error {
	loading, stop := context.WithCancel(ctx)
	l := newLoad(s.invocations(m.Name), m.Bodies, 100)
	done := make(chan struct{})
	go func() { l.run(loading); close(done) }()
	defer func() { stop(); <-done }()

	quiet := func(what string, args ...string) error {
		return s.step(what+" under 100 requests/s", func() (string, error) {
			from := time.Now()
			if _, err := s.loadline(ctx, args...); err != nil {
				return "", err
			}
			pause(ctx, time.Second)
			sum := l.since(from)
			if len(sum.failed) > 0 {
				return "", fmt.Errorf("%v; the first: %d %s", sum, sum.failed[0].status, sum.failed[0].err)
			}
			return sum.String(), nil
		})
	}
	if err := quiet("deploy version 2", "deploy", m.Name, "models:/"+m.Name+"/2"); err != nil {
		return err
	}
	if err := quiet("roll back", "rollback", m.Name); err != nil {
		return err
	}
	return s.step("kill -9 a replica under 100 requests/s", func() (string, error) { return s.kill(ctx, m, l) })
}

// kill ends one replica without warning. Only requests inside it may fail:
// those that were sent before it was seen dead and answered after the kill.
func (s *story) kill(ctx context.Context, m model, l *load) (string, error) {
	before, err := s.describe(ctx, m.Name)
	if err != nil {
		return "", err
	}
	victim := before.Entities[0].Replicas[0]
	from := time.Now()
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		return "", err
	}
	for harness.Alive(victim.PID) {
		time.Sleep(100 * time.Microsecond)
	}
	dead := time.Now()
	err = harness.Eventually(ctx, time.Minute, func() error {
		now, err := s.describe(ctx, m.Name)
		if err != nil {
			return err
		}
		r := now.Entities[0].Replicas[0]
		if r.ID == victim.ID || r.State != "ready" {
			return fmt.Errorf("replica %s is %s", r.ID, r.State)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	back := time.Since(from)
	pause(ctx, time.Second)
	sum := l.since(from.Add(-time.Second))
	if err := sum.honest(); err != nil {
		return "", err
	}
	inside := l.during(from, dead)
	if len(sum.failed) > inside {
		var when []string
		for _, a := range sum.failed {
			when = append(when, fmt.Sprintf("sent %v and answered %d %v after the kill: %s", a.sent.Sub(from), a.status, a.done.Sub(from), a.err))
		}
		return "", fmt.Errorf("%d requests failed, but only %d were in flight until it was dead, %v after the kill:\n%s",
			len(sum.failed), inside, dead.Sub(from), strings.Join(when, "\n"))
	}
	if harness.Alive(victim.Engine) {
		return "", fmt.Errorf("the killed replica's engine (pid %d) still runs", victim.Engine)
	}
	return fmt.Sprintf("in flight %d, failed %d; replaced in %.1f s", inside, len(sum.failed), back.Seconds()), nil
}

// restart kills the server itself and starts it again.
func (s *story) restart(ctx context.Context) error {
	pids := map[string]int{}
	err := s.step("kill -9 the server, start it again", func() (string, error) {
		for _, m := range s.models {
			d, err := s.describe(ctx, m.Name)
			if err != nil {
				return "", err
			}
			pids[m.Name] = d.Entities[0].Replicas[0].PID
		}
		if err := s.server.Kill(); err != nil {
			return "", err
		}
		var err error
		s.server, err = s.up(ctx)
		return "", err
	})
	if err != nil {
		return err
	}
	return s.step("all answer without being deployed again", func() (string, error) {
		kept := 0
		for _, m := range s.models {
			example, err := m.example()
			if err != nil {
				return "", err
			}
			status, text, err := harness.Ask(ctx, s.invocations(m.Name), example)
			if err != nil {
				return "", err
			}
			if status != 200 {
				return "", fmt.Errorf("%s answered %d: %s", m.Name, status, text)
			}
			d, err := s.describe(ctx, m.Name)
			if err != nil {
				return "", err
			}
			if d.Entities[0].Replicas[0].PID == pids[m.Name] {
				kept++
			}
		}
		if kept != len(s.models) {
			return "", fmt.Errorf("only %d of %d replicas were adopted", kept, len(s.models))
		}
		return fmt.Sprintf("%d of %d replicas adopted with their pid", kept, len(s.models)), nil
	})
}

// finish stops the server and looks for what it left behind.
func (s *story) finish(ctx context.Context) error {
	return s.step("delete all, stop, look for orphans", func() (string, error) {
		for _, m := range s.models {
			if _, err := s.loadline(ctx, "delete", m.Name, "--yes"); err != nil {
				return "", err
			}
		}
		s.server.Stop()
		err := harness.Eventually(ctx, 10*time.Second, func() error {
			if left := s.strays(); len(left) > 0 {
				return fmt.Errorf("still running:\n%s", strings.Join(left, "\n"))
			}
			return nil
		})
		return "no process left", err
	})
}

// table prints what is served.
func (s *story) table(ctx context.Context) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nENDPOINT\tMODEL\tENGINE\tENVIRONMENT\tREPLICAS\tP50\tREQUESTS")
	for _, m := range s.models {
		d, err := s.describe(ctx, m.Name)
		if err != nil {
			return err
		}
		p50, err := s.p50(ctx, m)
		if err != nil {
			return err
		}
		requests, err := s.metric(ctx, `loadline_gateway_requests_total{code="2xx",endpoint="`+m.Name+`"`)
		if err != nil {
			return err
		}
		e := d.Entities[0]
		fmt.Fprintf(w, "%s\t%s\t%s\t%.12s\t%d\t%.1f ms\t%.0f\n", m.Name, e.Model, e.Engine, e.Environment.Digest, len(e.Replicas), p50.Seconds()*1e3, requests)
	}
	return w.Flush()
}

// p50 asks a hundred times, one after another.
func (s *story) p50(ctx context.Context, m model) (time.Duration, error) {
	l := newLoad(s.invocations(m.Name), m.Bodies, 1)
	for i := range 100 {
		l.one(m.Bodies[i%len(m.Bodies)])
	}
	sum := l.since(time.Time{})
	if len(sum.failed) > 0 {
		return 0, fmt.Errorf("%s: %v", m.Name, sum)
	}
	return sum.p50, ctx.Err()
}

// pause lets the load go on for a while.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

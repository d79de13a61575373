package pyworker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
)

// A crowd is requests that meet in front of a worker that is busy.
type crowd struct {
	t    *testing.T
	e    *Engine
	gate string
	all  sync.WaitGroup
}

func numbers(values string) *agent.Request {
	body := `{"dataframe_records": [` + values + `]}`
	return &agent.Request{Method: "POST", Path: "/invocations", ContentType: "application/json", Body: strings.NewReader(body), Size: int64(len(body))}
}

func row(x float64) string { return fmt.Sprintf(`{"x": %v}`, x) }

// newCrowd occupies the worker, with one request of numbers behind, which
// nobody can join any more.
func newCrowd(t *testing.T) *crowd {
	t.Helper()
	c := &crowd{t: t, e: newEngine(t, io.Discard, "--gathers"), gate: filepath.Join(t.TempDir(), "gate")}
	if err := c.e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.all.Go(func() { _ = c.e.Do(t.Context(), post("wait "+c.gate), &recorder{}) })
	begun(t, c.gate)
	c.expect(1, row(1), 200, `{"predictions": [2.0]}`)
	waitFor(t, func() bool { return c.e.inFlight() == 2 })
	return c
}

// expect sends one request more, the n-th, and holds its answer against want.
func (c *crowd) expect(n int, values string, status int, want string) {
	c.send(n, c.t.Context(), values, func(r *recorder, err error) {
		if err != nil || r.status != status || r.body.String() != want {
			c.t.Errorf("%s: got %d %s (%v), want %d %s", values, r.status, r.body.String(), err, status, want)
		}
	})
}

func (c *crowd) send(n int, ctx context.Context, values string, check func(*recorder, error)) {
	c.all.Go(func() {
		var r recorder
		err := c.e.Do(ctx, numbers(values), &r)
		check(&r, err)
	})
	if n > 1 {
		waitFor(c.t, func() bool { return c.e.gather.size() == n-1 })
	}
}

func (c *crowd) open() {
	if err := os.WriteFile(c.gate, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.all.Wait()
}

func (g *gathering) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

func (c *crowd) calls(want string) {
	c.t.Helper()
	var got []uint64
	for i := range c.e.gather.calls {
		got = append(got, c.e.gather.calls[i].Load())
	}
	if fmt.Sprint(got) != want {
		c.t.Errorf("calls by how many requests were in them: %v, want %s", got, want)
	}
}

func TestThoseWhoWaitGoTogether(t *testing.T) {
	c := newCrowd(t)
	for n := 2; n <= 5; n++ {
		c.expect(n, row(float64(n)), 200, fmt.Sprintf(`{"predictions": [%d.0]}`, 2*n))
	}
	c.expect(6, row(6)+", "+row(7), 200, `{"predictions": [12.0, 14.0]}`)
	c.open()
	c.calls("[2 0 1 0 0 0 0]") // the first; 2, 3, 4 and 5; the one with two rows
}

func TestALoneRequestDoesNotWait(t *testing.T) {
	e := newEngine(t, io.Discard, "--gathers")
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var r recorder
		if err := e.Do(t.Context(), numbers(row(4)), &r); err != nil || r.body.String() != `{"predictions": [8.0]}` {
			t.Errorf("got %s, %v", r.body.String(), err)
		}
	}
	(&crowd{t: t, e: e}).calls("[3 0 0 0 0 0 0]")
}

func TestOneBadRequestSpoilsNoOther(t *testing.T) {
	c := newCrowd(t)
	c.expect(2, row(2), 200, `{"predictions": [4.0]}`)
	c.expect(3, row(-3), 400, "negative")
	c.expect(4, row(4), 200, `{"predictions": [8.0]}`)
	c.open()
	c.calls("[1 0 1 0 0 0 0]")
	if c.e.gather.limit != 1 {
		t.Errorf("rows of the next call: %d", c.e.gather.limit)
	}
	for range 3 {
		_ = c.e.Do(t.Context(), numbers(row(1)), &recorder{})
	}
	if c.e.gather.limit != 4 {
		t.Errorf("rows of a call after three good ones: %d", c.e.gather.limit)
	}
}

func TestOnlyAlikeGoTogether(t *testing.T) {
	c := newCrowd(t)
	c.expect(2, row(2), 200, `{"predictions": [4.0]}`)
	body := `{"instances": [{"x": 3}]}`
	c.all.Go(func() {
		var r recorder
		request := &agent.Request{Method: "POST", Path: "/invocations", ContentType: "application/json", Body: strings.NewReader(body), Size: -1}
		if err := c.e.Do(t.Context(), request, &r); err != nil || r.body.String() != `{"predictions": [6.0]}` {
			t.Errorf("got %s, %v", r.body.String(), err)
		}
	})
	waitFor(t, func() bool { return c.e.gather.size() == 2 })
	c.expect(4, row(4), 200, `{"predictions": [8.0]}`)
	c.open()
	c.calls("[2 1 0 0 0 0 0]")
}

func TestWhoLeavesWhileWaitingNeverBegins(t *testing.T) {
	c := newCrowd(t)
	ctx, leave := context.WithCancel(t.Context())
	c.send(2, ctx, row(666), func(_ *recorder, err error) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	leave()
	waitFor(t, func() bool { return c.e.gather.size() == 0 })
	c.expect(2, row(2), 200, `{"predictions": [4.0]}`)
	c.expect(3, row(3), 200, `{"predictions": [6.0]}`)
	c.open()
	c.calls("[1 1 0 0 0 0 0]")
}

func TestACrashBreaksItsCallAndHandsBackTheRest(t *testing.T) {
	c := newCrowd(t)
	for n, x := range []float64{666, 3, 4, 5} {
		c.send(n+2, t.Context(), row(x), func(_ *recorder, err error) {
			if err == nil || errors.Is(err, link.ErrNotTaken) {
				t.Errorf("%v, in the call: got %v", x, err)
			}
		})
	}
	c.send(6, t.Context(), row(6), func(_ *recorder, err error) {
		if !errors.Is(err, link.ErrNotTaken) {
			t.Errorf("not yet begun: got %v", err)
		}
	})
	c.open()
	<-c.e.Done()
}

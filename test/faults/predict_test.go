package faults

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// deployed gives a test a brute of its own.
func deployed(t *testing.T, name string, args ...string) replica {
	t.Helper()
	shared.must(t, append([]string{"deploy", name, model("brute"), "--command", brute, "--health", "/"}, args...)...)
	t.Cleanup(func() { shared.run("delete", name, "--yes") })
	return shared.replicas(t, name)[0]
}

// puppeteered gives a test a puppet of its own: our worker, a model of MLflow's.
func puppeteered(t *testing.T, name string) replica {
	t.Helper()
	shared.must(t, "deploy", name, model("puppet"))
	t.Cleanup(func() { shared.run("delete", name, "--yes") })
	return shared.replicas(t, name)[0]
}

// later asks without waiting for the answer.
func (h *house) later(t *testing.T, name, body string) <-chan answer {
	t.Helper()
	got := make(chan answer, 1)
	ctx := context.WithoutCancel(t.Context())
	go func() {
		a, err := h.ask(ctx, name, body)
		if err != nil {
			a.body = err.Error()
		}
		got <- a
	}()
	return got
}

// inside waits until so many requests are inside an endpoint.
func (h *house) inside(t *testing.T, name string, n int) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		_, _, text := h.call(t, "GET", "/metrics", "")
		sum := 0
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "loadline_gateway_in_flight{") && strings.Contains(line, `endpoint="`+name+`"`) {
				var v int
				fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &v)
				sum += v
			}
		}
		if sum != n {
			return fmt.Errorf("%d requests are inside %s, not %d", sum, name, n)
		}
		return nil
	})
}

// BAD-INPUTS 22, FAULTS 2 and 3: a request that does not end is answered 504 at
// its deadline; the engine that still works on it is replaced, and those who
// wait behind it are answered then.
func TestHangIsAnsweredAtItsDeadlineAndEndsTheEngine(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	before := puppeteered(t, "hanger")
	hung := shared.later(t, "hanger", rows(order{"do": "deaf", "seconds": 600}))
	shared.inside(t, "hanger", 1)
	a := <-hung
	if a.status != 504 || a.body != "Request processing time exceeded limit" || a.took < deadline || a.took > deadline+5*time.Second {
		t.Errorf("the one that hangs is answered %d %q after %v", a.status, a.body, a.took)
	}
	if a := shared.puppet(t, "hanger", order{"do": "own"}); a.status != 200 {
		t.Errorf("the next one is answered %d %s", a.status, a.body)
	}
	eventually(t, 5*time.Second, func() error {
		if after := shared.settle(t, "hanger", 1)[0]; after.Engine == before.Engine || after.PID != before.PID {
			return fmt.Errorf("the engine was %+v, and is %+v", before, after)
		}
		return nil
	})
	if log := shared.must(t, "logs", "hanger"); !strings.Contains(log, "a request with a deadline of "+deadline.String()+" was still running") {
		t.Errorf("its log does not say why:\n%s", log)
	}
}

// FAULTS 2: an engine that is stopped dead hangs like any other.
func TestStoppedEngineIsReplaced(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	before := deployed(t, "stopped")
	if err := syscall.Kill(before.Engine, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if a := shared.brute(t, "stopped", order{"do": "own"}); a.status != 504 {
		t.Errorf("a request to a stopped engine is answered %d %s", a.status, a.body)
	}
	if a := shared.brute(t, "stopped", order{"do": "own"}); a.status != 200 {
		t.Errorf("the next one is answered %d %s", a.status, a.body)
	}
	eventually(t, 5*time.Second, func() error { // what is told of it follows a moment later
		if after := shared.settle(t, "stopped", 1)[0]; after.Engine == before.Engine || harness.Alive(before.Engine) {
			return fmt.Errorf("the engine was %+v, and is %+v", before, after)
		}
		return nil
	})
}

// FAULTS 1: of the requests to an engine that is killed, those inside it fail
// with 502 and are not tried twice; those that wait are answered by the next.
func TestKilledEngineFailsOnlyWhatWasInsideIt(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	before := puppeteered(t, "killed")
	first := shared.later(t, "killed", rows(order{"do": "sleep", "seconds": 5}))
	shared.inside(t, "killed", 1)
	var others []<-chan answer
	for range 20 {
		others = append(others, shared.later(t, "killed", rows(order{"do": "own"})))
	}
	shared.inside(t, "killed", 21)
	if err := syscall.Kill(before.Engine, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if a := <-first; a.status != 502 || !strings.Contains(a.body, "ended while it had the request") {
		t.Errorf("the one inside is answered %d %s", a.status, a.body)
	}
	lost := 0
	for _, other := range others {
		switch a := <-other; a.status {
		case 200:
		case 502: // it was with the engine: up to three wait there for their turn
			lost++
		default:
			t.Errorf("one that waited is answered %d %s", a.status, a.body)
		}
	}
	if lost > 3 {
		t.Errorf("%d of those that waited were lost", lost)
	}
	eventually(t, 5*time.Second, func() error {
		if after := shared.settle(t, "killed", 1)[0]; after.Engine == before.Engine || after.Restarts != 1 {
			return fmt.Errorf("the engine was %+v, and is %+v", before, after)
		}
		return nil
	})
}

// A model may end its process in many ways; each costs its own request, and the
// next one is answered.
func TestModelThatEndsItselfCostsItsOwnRequest(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	puppeteered(t, "suicidal")
	for name, o := range map[string]order{
		"SystemExit": {"do": "shout", "what": "exit"}, "KeyboardInterrupt": {"do": "shout", "what": "interrupt"},
		"MemoryError": {"do": "shout", "what": "memory"}, "RecursionError": {"do": "shout", "what": "recursion"},
		"os._exit": {"do": "die"}, "SIGSEGV": {"do": "crash"},
	} {
		t.Run(name, func(t *testing.T) {
			if a := shared.puppet(t, "suicidal", o); a.status < 400 || a.status == 504 {
				t.Errorf("it is answered %d %s", a.status, a.body)
			}
			if a := shared.puppet(t, "suicidal", order{"do": "own"}); a.status != 200 {
				t.Errorf("the next is answered %d %s", a.status, a.body)
			}
		})
	}
}

// BAD-INPUTS 23: a client that leaves is noticed at once, and the place its
// request had is free when the model is done with it, not before.
func TestPlaceOfAClientThatLeftIsKeptUntilThePredictEnds(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	before := puppeteered(t, "left")
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", shared.port))
	if err != nil {
		t.Fatal(err)
	}
	body := rows(order{"do": "sleep", "seconds": 3})
	fmt.Fprintf(c, "POST /serving-endpoints/left/invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	shared.inside(t, "left", 1)
	start := time.Now()
	c.Close()
	shared.inside(t, "left", 0)
	if took := time.Since(start); took > time.Second { // a look at the metrics costs some of it
		t.Errorf("it took %v to see that the client had left", took)
	}
	if a := shared.puppet(t, "left", order{"do": "own"}); a.status != 200 || a.took < time.Second {
		t.Errorf("the next is answered %d after %v, while the model still slept", a.status, a.took)
	}
	if after := shared.replicas(t, "left")[0]; after.Engine != before.Engine {
		t.Error("the engine was replaced")
	}
}

// BAD-INPUTS 23: a client that leaves while it sends its body disturbs nobody.
func TestClientThatLeavesMidBodyIsForgotten(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	for range 20 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", shared.port))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /serving-endpoints/brute/invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n%s", strings.Repeat("x", 70_000))
		c.Close()
	}
	if a := shared.brute(t, "brute", order{"do": "own"}); a.status != 200 {
		t.Errorf("the next is answered %d %s", a.status, a.body)
	}
}

// BAD-INPUTS 25.
func TestStreamOfAModelThatCannotIsRefused(t *testing.T) {
	need(t)
	t.Parallel()
	body := strings.Replace(rows(order{"do": "own"}), "{", `{"stream": true, `, 1)
	if a := shared.get(t, "puppet", body); a.status != 400 || !strings.Contains(a.body, "stream") {
		t.Errorf("it is answered %d %s", a.status, a.body)
	}
}

// BAD-INPUTS 26.
func TestUnknownEndpointsAreNotFound(t *testing.T) {
	need(t)
	t.Parallel()
	deployed(t, "gone")
	shared.must(t, "delete", "gone", "--yes")
	for _, name := range []string{"nobody", "gone"} {
		if a := shared.get(t, name, "{}"); a.status != 404 || !strings.Contains(a.body, "RESOURCE_DOES_NOT_EXIST") {
			t.Errorf("%s is answered %d %s", name, a.status, a.body)
		}
	}
}

// BAD-INPUTS 54: what a model answers that no JSON can hold is an error of the
// model's, or as MLflow writes it; and the model lives on.
func TestOddPredictionsAreMLflowsWordsOrAnError(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	shared.must(t, "deploy", "odd", model("odd"))
	t.Cleanup(func() { shared.run("delete", "odd", "--yes") })
	engine := shared.replicas(t, "odd")[0].Engine
	for what, c := range map[string]struct {
		status int
		says   string
	}{
		"nan": {200, `{"predictions": [NaN, Infinity]}`}, "array": {200, `{"predictions": [1.5, NaN]}`}, "none": {200, `{"predictions": null}`},
		"bytes": {200, `YWI`}, "datetime": {200, "2026-01-02T00:00:00"}, "generator": {500, "cannot be written as JSON"}, "object": {500, "cannot be written as JSON"},
	} {
		t.Run(what, func(t *testing.T) {
			a := shared.get(t, "odd", order{"dataframe_records": []order{{"what": what, "n": 1}}}.text())
			if a.status != c.status || !strings.Contains(a.body, c.says) {
				t.Errorf("it is answered %d %.300s", a.status, a.body)
			}
		})
	}
	t.Run("large", func(t *testing.T) {
		a := shared.get(t, "odd", order{"dataframe_records": []order{{"what": "huge", "n": 100}}}.text())
		if a.status == 200 && len(a.body) < 100<<20 || a.status != 200 && (a.status < 400 || !strings.Contains(a.body, "bytes")) {
			t.Errorf("100 MB are answered %d, %d bytes: %.300s", a.status, len(a.body), a.body)
		}
	})
	if after := shared.replicas(t, "odd")[0]; after.Engine != engine {
		t.Errorf("the engine was replaced: %+v", after)
	}
}

// An SSE-like answer without end: the client that stops reading holds up only itself.
func TestSilentConnectionsCostNothing(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	for _, opening := range []string{"", "POST /serv", "GET /ping HTTP/1.1\r\nHost:", "\x16\x03\x01\x02\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", shared.port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, opening)
		if strings.HasPrefix(opening, "PRI") {
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, " 4") && !strings.Contains(line, " 5") {
				t.Errorf("HTTP/2 is answered %q, %v", line, err)
			}
		}
	}
	if a := shared.brute(t, "brute", order{"do": "own"}); a.status != 200 {
		t.Errorf("the next is answered %d %s", a.status, a.body)
	}
}

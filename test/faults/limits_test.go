package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BAD-INPUTS 48, FAULTS 8: what an engine takes too much of is refused to it,
// and it goes on.
func TestEngineThatTakesTooMuchIsRefused(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	before := shared.replicas(t, "brute")[0]
	for name, c := range map[string]struct {
		order order
		holds func(map[string]any) bool
	}{
		"forks": {order{"do": "fork", "most": 5000}, func(m map[string]any) bool {
			return m["refused"] == "EAGAIN" && m["children"].(float64) < 600
		}},
		"threads": {order{"do": "threads", "most": 5000}, func(m map[string]any) bool {
			return m["refused"] != "" && m["threads"].(float64) < 600
		}},
		"a file of a terabyte": {order{"do": "huge_file", "bytes": 1 << 40}, func(m map[string]any) bool {
			return m["truncate"] == "EFBIG" && m["write"] == "EFBIG"
		}},
		"open files": {order{"do": "open_files", "most": 1 << 20}, func(m map[string]any) bool {
			return m["refused"] == "EMFILE" && m["files"].(float64) < 5000
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var m map[string]any
			shared.brute(t, "brute", c.order).result(t, &m)
			if !c.holds(m) {
				t.Errorf("it got %v", m)
			}
		})
	}
	if after := shared.replicas(t, "brute")[0]; after.Engine != before.Engine || after.State != "ready" {
		t.Errorf("the engine was %+v, and is %+v", before, after)
	}
}

// What an engine forked and hid in sessions of its own ends with it, or the
// next one would find no room.
func TestForkedProcessesEndWithTheirEngine(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	shared.must(t, "deploy", "forker", model("brute"), "--command", brute, "--health", "/")
	engine := shared.replicas(t, "forker")[0].Engine
	var m map[string]any
	shared.brute(t, "forker", order{"do": "fork", "most": 100, "stay": true}).result(t, &m)
	if m["children"].(float64) != 100 {
		t.Fatalf("got %v", m)
	}
	if a := shared.brute(t, "forker", order{"do": "die"}); a.status != 502 {
		t.Errorf("a request that ends its engine is answered %d %s", a.status, a.body)
	}
	eventually(t, 10*time.Second, func() error {
		left := 0
		for _, pid := range shared.processes() {
			if group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(group), "brute.py") {
				if vars, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); strings.Contains(string(vars), shared.replicas(t, "forker")[0].ID) {
					left++
				}
			}
		}
		if left > 1 {
			return fmt.Errorf("%d processes of the engine %d are left", left, engine)
		}
		return nil
	})
	if a := shared.brute(t, "forker", order{"do": "own"}); a.status != 200 {
		t.Errorf("the next engine answers %d %s", a.status, a.body)
	}
	shared.must(t, "delete", "forker", "--yes")
}

// BAD-INPUTS 48, FAULTS 7: out of memory ends that replica's engine alone, and
// is named.
func TestOutOfMemoryIsNamedAndEndsThatReplicaAlone(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	shared.must(t, "deploy", "eater", model("brute"), "--command", brute, "--health", "/")
	a := shared.brute(t, "eater", order{"do": "allocate"})
	if a.status != 502 {
		t.Errorf("the request that took all memory is answered %d %s", a.status, a.body)
	}
	if a := shared.brute(t, "eater", order{"do": "own"}); a.status != 200 {
		t.Errorf("afterwards it answers %d %s", a.status, a.body)
	}
	log := shared.must(t, "logs", "eater")
	if !strings.Contains(log, "out of memory") || !strings.Contains(log, "--memory") {
		t.Errorf("its log gives no reason and no way out:\n%s", log)
	}
	// An engine is back sooner than the server looks again.
	eventually(t, 10*time.Second, func() error {
		if events := shared.must(t, "events", "eater"); !strings.Contains(events, "ReplicaDied") {
			return fmt.Errorf("no event says so:\n%s", events)
		}
		return nil
	})
	shared.must(t, "delete", "eater", "--yes")
}

// BAD-INPUTS 55: a model that prints without end costs a bounded file, can be
// read without harm, and answers.
func TestChatterIsBoundedAndReadable(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	shared.must(t, "deploy", "chatter", model("brute"), "--command", brute, "--health", "/", "--env", "API_TOKEN=sesame-open")
	r := shared.replicas(t, "chatter")[0]
	done := make(chan answer, 1)
	go func() {
		a, _ := shared.ask(context.WithoutCancel(t.Context()), "chatter", order{"do": "chatter", "megabytes": 1024, "long": 100}.text())
		done <- a
	}()
	for talking := true; talking; {
		select {
		case a := <-done:
			if talking = false; a.status != 200 {
				t.Errorf("the one that prints is answered %d %s", a.status, a.body)
			}
		default:
			if a := shared.brute(t, "chatter", order{"do": "sleep", "seconds": 0}); a.status != 200 || a.took > 2*time.Second {
				t.Errorf("meanwhile it answers %d after %v", a.status, a.took)
			}
		}
	}
	var kept int64
	logs, _ := filepath.Glob(filepath.Join(shared.data, "replicas", r.ID, "*.log*"))
	for _, path := range logs {
		if info, err := os.Stat(path); err == nil {
			kept += info.Size()
		}
	}
	if kept == 0 || kept > 20<<20 {
		t.Errorf("%d bytes of log are kept", kept)
	}
	eventually(t, 5*time.Second, func() error {
		log := shared.must(t, "logs", "chatter")
		for _, want := range []string{`bad \xff\xfe bytes`, "the last line", "more bytes"} {
			if !strings.Contains(log, want) {
				return fmt.Errorf("no %q in the log, which ends with %q", want, log[max(0, len(log)-500):])
			}
		}
		if strings.ContainsAny(log, "\x1b\x07") {
			t.Error("the log would steer a terminal")
		}
		for line := range strings.Lines(log) {
			if len(line) > 20<<10 {
				t.Fatalf("a line of %d bytes", len(line))
			}
		}
		return nil
	})
	shared.must(t, "delete", "chatter", "--yes")
}

package faults

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A herd comes at once to an endpoint that sleeps: one replica is started, all
// are held, and every one is answered.
func TestHerdAtASleepingEndpointIsHeldAndAnswered(t *testing.T) {
	const herd = 1000
	h := ownHouse(t)
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	engine := filepath.Join(t.TempDir(), "engine.py")
	if err := os.WriteFile(engine, []byte(`
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
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

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Engine).serve_forever()
`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must(t, "deploy", "herd", "--command", "exec /usr/bin/python3 -B "+engine, "--health", "/", "--min", "0", "--idle", "1s")
	h.must(t, "wait", "herd", "--for", "replicas=0", "--timeout", "1m")

	var all sync.WaitGroup
	var mu sync.Mutex
	wrong := map[string]int{}
	for range herd {
		all.Go(func() {
			a, err := h.ask(t.Context(), "herd", "hello")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				wrong[err.Error()]++
			case a.status != 200 || a.body != "hello":
				wrong[a.body]++
			}
		})
	}
	all.Wait()
	if len(wrong) > 0 {
		t.Errorf("of %d at once: %v", herd, wrong)
	}
	var said struct {
		Decisions []struct {
			Axis, Rule string
			From, To   int
			Ready      int
		}
	}
	if err := json.Unmarshal([]byte(h.must(t, "explain", "herd", "--last", "1000", "-o", "json")), &said); err != nil {
		t.Fatal(err)
	}
	woken := 0
	for _, d := range said.Decisions {
		if d.Axis != "replicas" || d.From == d.To {
			continue
		}
		if d.Rule == "woken" {
			woken++
		}
		if d.Ready == 0 && d.To > 1 {
			t.Errorf("%d replicas were wanted before one was ready (%s)", d.To, d.Rule)
		}
	}
	if woken == 0 {
		t.Errorf("nothing was woken: %+v", said.Decisions)
	}
}

package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"testing"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

var (
	smallAnswer = []byte(`{"predictions": [0.25]}`)
	jsonHeader  = []link.Field{{Name: "Content-Type", Value: "application/json"}}
)

// readAndAnswer is an engine that costs nothing itself. It is asked one thing at a time.
func readAndAnswer() func(context.Context, *agent.Request, agent.Answerer) error {
	var buf [512]byte
	return func(_ context.Context, r *agent.Request, w agent.Answerer) error {
		for {
			if _, err := r.Body.Read(buf[:]); err != nil {
				break
			}
		}
		if err := w.Head(200, jsonHeader, int64(len(smallAnswer))); err != nil {
			return err
		}
		_, err := w.Write(smallAnswer)
		return err
	}
}

// path is a gateway in front of a running agent, and a client's connection to it.
func path(t testing.TB, s *scene) (ask func()) {
	g := gateway.New(gateway.Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(context.Background(), l) }()
	t.Cleanup(func() { g.Close(); <-served })
	g.Publish(serving.Route{Tenant: "default", Endpoint: "iris", ID: "1", Generation: 1, Entities: []serving.RouteEntity{
		{Name: "iris", Percent: 100, Replicas: []serving.Replica{s.ready()}}}})
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	const body = `{"inputs": [[1, 2, 3, 4]]}`
	request := []byte("POST /serving-endpoints/iris/invocations HTTP/1.1\r\nHost: h\r\nUser-Agent: python-requests/2.32\r\nAccept: */*\r\n" +
		"Authorization: Bearer dapi123\r\nContent-Type: application/json\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n\r\n" + body)
	buf, ok := make([]byte, 4096), []byte("HTTP/1.1 200 ")
	return func() {
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		n, err := nc.Read(buf)
		if err != nil || !bytes.HasPrefix(buf[:n], ok) || !bytes.HasSuffix(buf[:n], smallAnswer) {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
}

// What a request leaves behind for the collector, at every one of thousands a
// second, is paid by all of them: gateway, link and agent together leave nothing.
func TestRequestLeavesNoGarbage(t *testing.T) {
	s := stage(t, "exec sleep 1000", nil, func(e *shell) { e.do = readAndAnswer() })
	ask := path(t, s)
	for range 200 {
		ask()
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // pools keep what they have
	const requests = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range requests {
		ask()
	}
	runtime.ReadMemStats(&after)
	// Not none: what the process does by the clock is not a request's, and under
	// the race detector a sync.Pool loses one thing in four on purpose, which is
	// three quarters of one a request. Whatever is made anew adds a whole one.
	if n := float64(after.Mallocs-before.Mallocs) / requests; n > 1.25 {
		t.Errorf("%.2f allocations a request", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	s := stage(b, "exec sleep 1000", nil, func(e *shell) { e.do = readAndAnswer() })
	ask := path(b, s)
	b.ReportAllocs()
	for b.Loop() {
		ask()
	}
}

package gateways

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// crowd asks a gateway again and again, each client on a connection of its own
// that it keeps, and never twice. stop ends it and says what was answered.
func crowd(t *testing.T, d *door, clients int, broken *atomic.Int64, tolerate func(error) bool) (answered *atomic.Int64, stop func()) {
	t.Helper()
	answered = new(atomic.Int64)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c := client()
			defer c.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				body := fmt.Sprintf("%s/%d/%d 3ms", d.url, i, n)
				status, text, err := ask(t.Context(), c, d.url, body)
				if err == nil && status == 200 && text == body {
					answered.Add(1)
					continue
				}
				if tolerate != nil && tolerate(err) {
					return
				}
				if err == nil && status == 502 && broken != nil {
					broken.Add(1)
					continue
				}
				t.Errorf("%s: %d %.200q %v", d.url, status, text, err)
				return
			}
		})
	}
	return answered, func() { cancel(); all.Wait() }
}

// refused says that nobody listens any more: the connection before was closed
// as announced.
func refused(err error) bool {
	return err != nil && strings.Contains(err.Error(), "connection refused")
}

// more waits until that many more were answered.
func more(d *door, answered *atomic.Int64, n int64) {
	d.t.Helper()
	want := answered.Load() + n
	d.eventually(fmt.Sprintf("answering %d more", n), func() bool { return answered.Load() >= want })
}

// A gateway that is told to end loses nothing. A killed one takes with it what
// engines were at for it: never more than there are places, others' requests
// that it was home to among them, and none is sent twice. Its places come back.
func TestGatewayThatGoesDisturbsNobody(t *testing.T) {
	for name, how := range map[string]struct {
		signal   syscall.Signal
		tolerate func(error) bool
	}{
		"drained": {syscall.SIGTERM, refused},
		"killed":  {syscall.SIGKILL, func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			a := h.agent("r0", 3)
			h.publish(a)
			doors := h.gateways(3)
			var counts []*atomic.Int64
			var broken atomic.Int64
			for i, d := range doors {
				var tolerate func(error) bool
				if i == 0 {
					tolerate = how.tolerate
				}
				answered, stop := crowd(t, d, 4, &broken, tolerate)
				defer stop()
				counts = append(counts, answered)
			}
			for i, d := range doors {
				more(d, counts[i], 20)
			}
			doors[0].signal(how.signal)
			<-doors[0].gone
			for i, d := range doors[1:] {
				more(d, counts[i+1], 50)
			}
			back := h.gateway()
			answered, stop := crowd(t, back, 4, nil, nil)
			defer stop()
			more(back, answered, 20)
			if n := broken.Load(); n > a.line || n > 0 && how.signal == syscall.SIGTERM {
				t.Errorf("%d requests of other gateways broke", n)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			for body, n := range a.seen {
				if n > 1 {
					t.Errorf("request %s reached the engine %d times", body, n)
				}
			}
		})
	}
}

// While the server is away its gateways serve what they know; a new one of it
// tells them what has changed meanwhile.
func TestServerAwayIsNotMissed(t *testing.T) {
	h := newHouse(t)
	first, second := h.agent("r0", 2), h.agent("r1", 2)
	h.publish(first)
	d := h.gateway()
	answered, stop := crowd(t, d, 2, nil, nil)
	defer stop()
	more(d, answered, 10)
	h.server.Config.Handler.(*switchable).away.Store(true)
	h.server.CloseClientConnections()
	more(d, answered, 50)
	h.publish(first, second)
	if status, text, err := d.get("/api/2.0/serving-endpoints"); err != nil || status != 401 && status != 503 {
		t.Errorf("the API is answered %d %s, %v", status, text, err)
	}
	if second.served.Load() > 0 {
		t.Error("a route was heard of from a server that is away")
	}
	h.server.Config.Handler.(*switchable).away.Store(false)
	d.eventually("serving by the new route", func() bool { return second.served.Load() > 0 })
	stop()
	h.hub.Withdraw(h.route.Tenant, h.route.Endpoint)
	stopped := client()
	defer stopped.CloseIdleConnections()
	if status, text, err := ask(t.Context(), stopped, d.url, "late"); err != nil || status != 404 {
		t.Errorf("an endpoint that is gone is answered %d %s, %v", status, text, err)
	}
}

// A switchable server can be away.
type switchable struct {
	http.Handler
	away atomic.Bool
}

// ServeHTTP implements [http.Handler].
func (s *switchable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.away.Load() {
		panic(http.ErrAbortHandler)
	}
	s.Handler.ServeHTTP(w, r)
}

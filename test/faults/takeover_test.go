package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// asEngine makes this program an engine: it answers a POST with its body, or,
// where the body asks for it, with five events.
const asEngine = "BE_AN_ENGINE"

func beEngine() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != "events" {
			_, _ = w.Write(body)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	})
	fmt.Println(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux))
}

// A tally is what clients saw.
type tally struct {
	answered, lost, reconnected atomic.Int64

	mu   sync.Mutex
	took []time.Duration
	why  []string
}

func (a *tally) miss(format string, args ...any) {
	a.lost.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.why) < 10 {
		a.why = append(a.why, fmt.Sprintf(format, args...))
	}
}

// client asks on one connection, again and again at its own pace, and connects
// anew only when it is told that the connection ends. It never asks twice.
func (a *tally) client(ctx context.Context, addr string, pace time.Duration, turn int) {
	var nc net.Conn
	var in *bufio.Reader
	defer func() {
		if nc != nil {
			nc.Close()
		}
	}()
	next := time.Now().Add(pace * time.Duration(turn%7) / 7)
	for i := 0; ctx.Err() == nil; i++ {
		time.Sleep(time.Until(next))
		next = next.Add(pace)
		if nc == nil {
			var err error
			if nc, err = net.DialTimeout("tcp", addr, 10*time.Second); err != nil {
				nc = nil
				a.miss("connect: %v", err)
				continue
			}
			a.reconnected.Add(1)
			in = bufio.NewReader(nc)
		}
		body := fmt.Sprintf("%d/%d", turn, i)
		want := body
		if i%20 == 7 {
			body, want = "events", "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n"
		}
		began := time.Now()
		nc.SetDeadline(began.Add(30 * time.Second))
		fmt.Fprintf(nc, "POST /serving-endpoints/engine/invocations HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", addr, len(body), body)
		ends, err := a.read(in, want)
		if err != nil {
			a.miss("request %d of client %d, %v after it was sent: %v", i, turn, time.Since(began), err)
		}
		if err != nil || ends {
			nc.Close()
			nc = nil
		}
		a.mu.Lock()
		a.took = append(a.took, time.Since(began))
		a.mu.Unlock()
	}
}

func (a *tally) read(in *bufio.Reader, want string) (ends bool, err error) {
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return false, err
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 || string(got) != want {
		return false, fmt.Errorf("%s %.200q, %w", r.Status, got, err)
	}
	a.answered.Add(1)
	return r.Close, nil
}

// FAULTS 10, 34: the server is replaced again and again under load, and not one
// request is lost: each is answered whole, on the connection it was sent on.
// LOADLINE_TAKEOVER_RATE asks more often, to report.
func TestTakeoverLosesNothing(t *testing.T) {
	rate, takeovers, pause := 150, 3, 1500*time.Millisecond
	if text := os.Getenv("LOADLINE_TAKEOVER_RATE"); text != "" {
		rate, _ = strconv.Atoi(text)
		takeovers, pause = 10, 9200*time.Millisecond
	}
	h := ownHouse(t)
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.must(t, "deploy", "engine", "--command", "exec "+self, "--health", "/health", "--env", asEngine+"=1", "--min", "2", "--max", "2")
	before := h.settle(t, "engine", 2)

	const clients = 32
	var a tally
	ctx, stop := context.WithCancel(context.Background())
	var crowd sync.WaitGroup
	for i := range clients {
		crowd.Go(func() {
			a.client(ctx, fmt.Sprintf("127.0.0.1:%d", h.port), time.Duration(clients)*time.Second/time.Duration(rate), i)
		})
	}
	defer crowd.Wait()
	defer stop()
	var old []*harness.Server
	h.args = append(h.args, "--takeover")
	for range takeovers {
		time.Sleep(pause)
		old = append(old, h.server)
		if h.server, err = takeOver(h); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(pause)
	stop()
	crowd.Wait()

	slices.Sort(a.took)
	at := func(share float64) time.Duration {
		return a.took[int(float64(len(a.took)-1)*share)].Round(10 * time.Microsecond)
	}
	t.Logf("%d takeovers at %d requests/s: %d answered, %d lost, %d connections; p50 %v, p99 %v, p99.9 %v, longest %v", takeovers, rate,
		a.answered.Load(), a.lost.Load(), a.reconnected.Load(), at(.5), at(.99), at(.999), at(1))
	if a.lost.Load() > 0 {
		t.Errorf("lost %d:\n%s", a.lost.Load(), strings.Join(a.why, "\n"))
	}
	if a.answered.Load() < int64(rate) {
		t.Errorf("only %d were asked", a.answered.Load())
	}
	for i, r := range h.settle(t, "engine", 2) {
		if !slices.ContainsFunc(before, func(b replica) bool { return b.PID == r.PID && b.Engine == r.Engine }) {
			t.Errorf("replica %d was started anew: %+v, before %+v", i, r, before)
		}
	}
	for _, s := range old {
		eventually(t, 30*time.Second, func() error {
			if harness.Alive(s.PID) {
				return fmt.Errorf("the replaced server %d still runs", s.PID)
			}
			return nil
		})
	}
}

// takeOver starts the next server and waits until the one before knows of it.
func takeOver(h *house) (*harness.Server, error) {
	old := h.log()
	_ = os.Rename(old, old+".before")
	defer os.Remove(old + ".before")
	was := h.server
	if err := h.up(); err != nil {
		return was, err
	}
	err := harness.Eventually(h.ctx, 30*time.Second, func() error {
		if text, _ := os.ReadFile(old + ".before"); !strings.Contains(string(text), "another process serves now") {
			return fmt.Errorf("the server before was not told: %s", text)
		}
		return nil
	})
	return h.server, err
}

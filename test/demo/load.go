package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A load sends one request after another at a constant rate, whether or not
// earlier ones were answered, and retries nothing.
type load struct {
	url    string
	bodies []string
	rate   int // requests a second

	client *http.Client

	mu    sync.Mutex
	seen  []answer
	tasks sync.WaitGroup
}

// An answer is what became of one request.
type answer struct {
	sent, done time.Time
	status     int // 0 when no answer came
	retryAfter string
	err        string
}

func newLoad(url string, bodies []string, rate int) *load {
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	return &load{url: url, bodies: bodies, rate: rate, client: &http.Client{Transport: transport, Timeout: time.Minute}}
}

// run sends until ctx ends, then waits for the answers still out.
func (l *load) run(ctx context.Context) {
	tick := time.NewTicker(time.Second / time.Duration(l.rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			l.tasks.Wait()
			l.client.CloseIdleConnections()
			return
		case <-tick.C:
			l.tasks.Go(func() { l.one(l.bodies[i%len(l.bodies)]) })
		}
	}
}

func (l *load) one(body string) {
	a := answer{sent: time.Now()}
	// A GetBody would let the client resend by itself; "retries nothing" is
	// meant, so the body is one that can be read only once.
	request, err := http.NewRequest(http.MethodPost, l.url, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		panic(err) // the URL is ours
	}
	request.ContentLength = int64(len(body))
	request.Header.Set("Content-Type", "application/json")
	response, err := l.client.Do(request)
	if err != nil {
		a.err = err.Error()
	} else {
		var text bytes.Buffer
		if _, err := text.ReadFrom(response.Body); err != nil {
			a.err = err.Error()
		} else {
			a.status = response.StatusCode
		}
		response.Body.Close()
		a.retryAfter = response.Header.Get("Retry-After")
		if a.status != http.StatusOK && a.err == "" {
			a.err = text.String()
		}
	}
	a.done = time.Now()
	l.mu.Lock()
	l.seen = append(l.seen, a)
	l.mu.Unlock()
}

// A tally sums up a stretch of answers.
type tally struct {
	requests int
	failed   []answer // everything but 200
	p50, p99 time.Duration
}

// since sums up the requests sent from t on.
func (l *load) since(t time.Time) tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum tally
	var took []time.Duration
	for _, a := range l.seen {
		if a.sent.Before(t) {
			continue
		}
		sum.requests++
		took = append(took, a.done.Sub(a.sent))
		if a.status != http.StatusOK {
			sum.failed = append(sum.failed, a)
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		sum.p50, sum.p99 = took[len(took)/2], took[len(took)*99/100]
	}
	return sum
}

// during counts the requests that were sent by dead and not yet answered at kill.
func (l *load) during(kill, dead time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, a := range l.seen {
		if !a.sent.After(dead) && !a.done.Before(kill) {
			n++
		}
	}
	return n
}

// honest reports the first failure that a client may not be shown: anything
// but 502, or 503 with a Retry-After.
func (t tally) honest() error {
	for _, a := range t.failed {
		if a.status == http.StatusBadGateway || a.status == http.StatusServiceUnavailable && a.retryAfter != "" {
			continue
		}
		return fmt.Errorf("a request was answered %d: %s", a.status, a.err)
	}
	return nil
}

// String lists the failures by status: "502 ×3".
func (t tally) String() string {
	if len(t.failed) == 0 {
		return fmt.Sprintf("%d requests, all 200", t.requests)
	}
	by := map[int]int{}
	for _, a := range t.failed {
		by[a.status]++
	}
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%d ×%d", status, by[status]))
	}
	return fmt.Sprintf("%d requests, %s, the rest 200", t.requests, strings.Join(parts, ", "))
}

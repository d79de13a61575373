package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// hold answers when release is closed, and tells began and left of each request.
func hold(began chan<- string, left chan<- string, release <-chan struct{}) link.Handler {
	return func(ctx context.Context, in *link.Incoming) {
		body, _ := io.ReadAll(in)
		began <- string(body)
		select {
		case <-release:
			in.Reply(&link.Answer{Status: 200, Size: 2})
			in.Write([]byte("ok"))
		case <-ctx.Done():
			left <- string(body)
		}
	}
}

// A client that leaves is noticed within 100 ms, both while its request waits
// and while it runs; its place goes to the next.
func TestLeavingClientIsCancelled(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	began, gone, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
	g.Publish(iris(startAgent(t, "r", 1, hold(began, gone, release)).replica()))
	runs, waits := dial(t, addr), dial(t, addr)
	io.WriteString(runs, post(iPath, "runs"))
	<-began
	io.WriteString(waits, post(iPath, "waits"))
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 1 })
	third := make(chan string, 1)
	go func() { third <- talk(t, addr, post(iPath, "third", last)) }()
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 2 })

	waits.Close()
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 1 })
	left := time.Now()
	runs.Close()
	if who := <-gone; who != "runs" || time.Since(left) > 100*time.Millisecond {
		t.Errorf("%s cancelled after %v", who, time.Since(left))
	}
	if who := <-began; who != "third" {
		t.Errorf("then %s began", who)
	}
	close(release)
	if got := <-third; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("got %q", got)
	}
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_in_flight") == 0 })
}

// A pipelined request is no reason to think that the client has left, and is
// still there afterwards.
func TestWatchingStealsNoBytes(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	began, gone, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
	g.Publish(iris(startAgent(t, "r", 1, hold(began, gone, release)).replica()))
	nc := dial(t, addr)
	io.WriteString(nc, post(iPath, "one"))
	<-began
	io.WriteString(nc, post(iPath, "two", last))
	select {
	case who := <-gone:
		t.Fatalf("%s was cancelled", who)
	case <-time.After(150 * time.Millisecond): // several looks of the watch
	}
	close(release)
	all, _ := io.ReadAll(nc)
	if n := strings.Count(string(all), "HTTP/1.1 200 OK"); n != 2 {
		t.Errorf("%d answers: %q", n, all)
	}
}

func TestDeadlineIsAnsweredAndCancels(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	began, gone := make(chan string, 9), make(chan string, 9)
	g.Publish(iris(startAgent(t, "r", 1, hold(began, gone, nil)).replica()))
	started := time.Now()
	runs := make(chan string, 1)
	go func() { runs <- talk(t, addr, post(iPath, "runs", last, "X-Request-Timeout: 0.3")) }()
	<-began
	waits := talk(t, addr, post(iPath, "waits", last, "X-Request-Timeout: 100ms"))
	if took := time.Since(started); took > 250*time.Millisecond {
		t.Errorf("the one that waits was answered after %v", took)
	}
	for _, got := range []string{waits, <-runs} {
		if !strings.HasPrefix(got, "HTTP/1.1 504 ") || !strings.HasSuffix(got, "\r\n\r\nRequest processing time exceeded limit") || !strings.Contains(got, "Content-Type: text/plain") {
			t.Errorf("got %q", got)
		}
	}
	if took := time.Since(started); took < 300*time.Millisecond || took > 500*time.Millisecond {
		t.Errorf("the one that runs was answered after %v", took)
	}
	<-gone
}

// Nobody took it: it goes elsewhere. Somebody took it: it does not.
func TestOnlyUntakenRequestsGoElsewhere(t *testing.T) {
	var asked, taken atomic.Int32
	refuser := startAgent(t, "refuser", 1, func(_ context.Context, in *link.Incoming) {
		asked.Add(1)
		in.Refuse("not now")
	})
	taker := startAgent(t, "taker", 1, func(ctx context.Context, in *link.Incoming) {
		taken.Add(1)
		body, _ := io.ReadAll(in)
		if string(body) == "die" {
			in.Fail("the engine died")
			return
		}
		in.Reply(&link.Answer{Status: 200, Size: -1})
		in.Write(body)
	})
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(refuser.replica(), taker.replica()))
	for asked.Load() == 0 {
		if got := talk(t, addr, post(iPath, "live", last)); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Fatalf("got %q", got)
		}
	}
	if n := metric(t, g, "loadline_gateway_retries_total"); n < 1 {
		t.Errorf("%v retries", n)
	}
	before := taken.Load()
	got := talk(t, addr, post(iPath, "die", last))
	if !strings.HasPrefix(got, "HTTP/1.1 502 ") || !strings.Contains(got, "the engine died") || taken.Load() != before+1 {
		t.Errorf("taken %d times, got %q", taken.Load()-before, got)
	}
}

// While nobody takes it, a request ends in 503 rather than going round for ever.
func TestRequestNobodyTakesEnds(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) { in.Refuse("never") }).replica()))
	if got := talk(t, addr, post(iPath, "{}", last)); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "\r\nRetry-After: 1\r\n") {
		t.Errorf("got %q", got)
	}
}

// A new revision takes over: the old replica finishes what it has and gets
// nothing new, those who wait go to the new one, nothing is lost.
func TestRevisionChangeLosesNothing(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	began, gone, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
	g.Publish(iris(startAgent(t, "old", 1, hold(began, gone, release)).replica()))
	old, waits := make(chan string, 1), make(chan string, 1)
	go func() { old <- talk(t, addr, post(iPath, "old", last)) }()
	<-began
	go func() { waits <- talk(t, addr, post(iPath, "waits", last)) }()
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 1 })
	// The entity has another name now, as default names carry the version.
	next := iris(startAgent(t, "new", 1, echo).replica())
	next.Generation, next.Entities[0].Name = 1, "iris-2"
	g.Publish(next)
	if got := <-waits; !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "served-model-name: iris-2") {
		t.Errorf("who waited: %q", got)
	}
	if got := talk(t, addr, post(iPath, "{}", last)); !strings.Contains(got, "served-model-name: iris-2") {
		t.Errorf("newcomer: %q", got)
	}
	close(release)
	if got := <-old; !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "served-model-name: iris-1") {
		t.Errorf("who ran: %q", got)
	}
	stale := iris()
	stale.Generation = 0
	g.Publish(stale) // late news changes nothing
	if got := talk(t, addr, post(iPath, "{}", last)); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("after late news: %q", got)
	}
	g.Withdraw("default", "iris")
	if got := talk(t, addr, post(iPath, "{}", last)); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("withdrawn: %q", got)
	}
}

// Under steady load through many changes of replicas, every request is answered.
func TestChangesUnderLoadLoseNothing(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	agents := make([]*agent, 4)
	for i := range agents {
		agents[i] = startAgent(t, fmt.Sprint("r", i), 1+i%3, echo)
	}
	publish := func(n int) {
		r := iris(agents[n%4].replica(), agents[(n+1)%4].replica())
		r.Generation = uint64(n)
		g.Publish(r)
	}
	publish(0)
	var clients sync.WaitGroup
	var answered atomic.Int64
	stop := make(chan struct{})
	for range 8 {
		clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := client.Post("http://"+addr+iPath, "text/csv", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := io.ReadAll(a.Body); a.StatusCode != 200 || string(body) != "x" || err != nil {
					t.Errorf("%d %s %v", a.StatusCode, body, err)
				}
				a.Body.Close()
				answered.Add(1)
			}
		})
	}
	for n := 1; n <= 60; n++ {
		target := answered.Load() + 20
		eventually(t, func() bool { return answered.Load() >= target || t.Failed() })
		publish(n)
	}
	close(stop)
	clients.Wait()
}

func TestAgentThatRestartsIsDialledAgain(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	a := startAgent(t, "r", 1, echo)
	g.Publish(iris(a.replica()))
	if got := talk(t, addr, post(iPath, "{}", last)); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Fatalf("got %q", got)
	}
	a.restart(t, 1, echo)
	if got := talk(t, addr, post(iPath, "{}", last)); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("got %q", got)
	}
}

func TestFullQueueIsRefusedWithRetryAfter(t *testing.T) {
	c := gateway.Config{}
	c.Queue.Bytes = 1
	g, addr := start(t, c)
	began, gone, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
	a := startAgent(t, "r", 1, hold(began, gone, release))
	g.Publish(iris(a.replica()))
	both := make(chan string, 2)
	go func() { both <- talk(t, addr, post(iPath, "runs", last)) }()
	<-began
	go func() { both <- talk(t, addr, post(iPath, "waits", last)) }()
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 1 })
	if got := talk(t, addr, post(iPath, "{}", last)); !strings.HasPrefix(got, "HTTP/1.1 429 ") || !strings.Contains(got, "\r\nRetry-After: ") || !strings.Contains(got, "RESOURCE_EXHAUSTED") {
		t.Errorf("at its maximum: %q", got)
	}
	coming := iris(a.replica())
	coming.Entities[0].Coming = true
	g.Publish(coming)
	if got := talk(t, addr, post(iPath, "{}", last)); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "\r\nRetry-After: ") || !strings.Contains(got, "TEMPORARILY_UNAVAILABLE") {
		t.Errorf("with more on its way: %q", got)
	}
	close(release)
	for range 2 {
		if got := <-both; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("got %q", got)
		}
	}
}

// What was waited for will not come: those who wait hear why.
func TestEntityThatGoesDownEndsTheWait(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	r := iris()
	r.Entities[0].Coming = true
	g.Publish(r)
	waits := make(chan string, 1)
	go func() { waits <- talk(t, addr, post(iPath, "{}", last)) }()
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 1 })
	down := iris()
	down.Entities[0].Down = "no module named x"
	g.Publish(down)
	if got := <-waits; !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "no module named x") {
		t.Errorf("got %q", got)
	}
}

func TestDrainFinishesWhatRuns(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	began, gone, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
	g.Publish(iris(startAgent(t, "r", 1, hold(began, gone, release)).replica()))
	idle, runs := dial(t, addr), dial(t, addr)
	io.WriteString(runs, post(iPath, "runs"))
	<-began
	drained := make(chan error, 1)
	go func() { drained <- g.Drain(t.Context()) }()
	eventually(t, func() bool { return !g.Ready() })
	close(release)
	a, err := http.ReadResponse(bufio.NewReader(runs), nil)
	if err != nil || a.StatusCode != 200 || !a.Close {
		t.Errorf("got %v, %v", a, err)
	}
	if n, err := idle.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the idle connection: %d bytes, %v", n, err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// Nobody gets in, and nothing of the body is read, before the judge has spoken.
func TestJudgeComesFirst(t *testing.T) {
	seen := make(chan string, 9)
	g, addr := start(t, gateway.Config{
		Judge: func(c *gateway.Caller) auth.Verdict {
			seen <- fmt.Sprintf("%s %s host=%s token=%s origin=%s", c.Method, c.Path, c.Host, c.Token, c.Origin)
			switch c.Token {
			case "good":
				return auth.Verdict{Caller: auth.Principal{Name: "me", Tenant: "default"}}
			case "weak":
				return auth.Verdict{Answer: auth.No, Why: "not you"}
			}
			return auth.Verdict{Answer: auth.Unknown, Why: "who are you"}
		},
		API: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, gateway.Who(r).Name) }),
	})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	head := "POST " + iPath + " HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
	for raw, want := range map[string]string{
		head + "\r\n": "HTTP/1.1 401 |WWW-Authenticate: Bearer|UNAUTHENTICATED|who are you",
		head + "Authorization: Bearer weak\r\n\r\n":                               "HTTP/1.1 403 |PERMISSION_DENIED|not you",
		head + "Authorization: Basic Z29vZA\r\n\r\n":                              "HTTP/1.1 401 ",
		head + "Authorization: Bearer good\r\nAuthorization: Bearer good\r\n\r\n": "HTTP/1.1 401 ",
		post(iPath, "abc", last, "Authorization: bearer good"):                    "HTTP/1.1 200 |abc",
		post("/serving-endpoints/none/invocations", "abc", last):                  "HTTP/1.1 401 ", // not told that it does not exist
		post("/api/x", "", last, "Authorization: Bearer good"):                    "HTTP/1.1 200 |\r\n\r\nme",
		post("/api/x", "", last):                                                  "HTTP/1.1 401 ",
	} {
		got := talk(t, addr, raw)
		for _, w := range strings.Split(want, "|") {
			if !strings.Contains(got, w) || strings.Contains(got, "100 Continue") {
				t.Errorf("%.200q: no %q in %q", raw, w, got)
			}
		}
	}
	close(seen)
	var all []string
	for s := range seen {
		all = append(all, s)
	}
	if want := "POST " + iPath + " host=a token=weak origin=http://b"; !strings.Contains(strings.Join(all, "\n"), want) {
		t.Errorf("no %q in %q", want, all)
	}
}

func TestSplitIsDrawnAndNamedEntitiesAreNot(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	r := iris(startAgent(t, "a", 1, echo).replica())
	r.Entities[0].Percent = 50
	r.Entities = append(r.Entities, serving.RouteEntity{Name: "other", Percent: 50, Replicas: []serving.Replica{startAgent(t, "b", 1, echo).replica()}})
	g.Publish(r)
	count := map[bool]int{}
	for range 60 {
		count[strings.Contains(talk(t, addr, post(iPath, "{}", last)), "served-model-name: other")]++
	}
	if count[true] < 10 || count[false] < 10 {
		t.Errorf("drew %v", count)
	}
	for range 5 {
		if got := talk(t, addr, post("/serving-endpoints/iris/served-models/other/invocations", "{}", last)); !strings.Contains(got, "served-model-name: other") {
			t.Errorf("got %q", got)
		}
	}
}

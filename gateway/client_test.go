package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
)

// Clients that take their time are answered 408 or closed, in bounded time.
func TestSlowClients(t *testing.T) {
	c := gateway.Config{Patience: gateway.Patience{Head: 100 * time.Millisecond, Idle: 200 * time.Millisecond, Body: 100 * time.Millisecond}}
	g, addr := start(t, c)
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	for sentence, c := range map[string]struct{ raw, want string }{
		"nothing sent":   {"", ""},
		"half a head":    {"POST " + iPath + " HTTP/1.1\r\nHo", "HTTP/1.1 408 "},
		"half a body":    {"POST " + iPath + " HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 408 "},
		"half a chunk":   {"POST " + iPath + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf", "HTTP/1.1 408 "},
		"idle afterward": {post(iPath, "{}"), "HTTP/1.1 200 "},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			nc := dial(t, addr)
			io.WriteString(nc, c.raw)
			started := time.Now()
			all, err := io.ReadAll(nc)
			if took := time.Since(started); !strings.HasPrefix(string(all), c.want) || len(c.want) == 0 && len(all) > 0 || err != nil || took > 3*time.Second {
				t.Errorf("got %q, %v after %v", all, err, took)
			}
		})
	}
}

// Byte by byte is slow but within the rules.
func TestSlowlySentRequestIsAnswered(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	nc := dial(t, addr)
	for _, b := range []byte(post(iPath, `{"inputs":[1]}`, last)) {
		nc.Write([]byte{b})
	}
	if all, err := io.ReadAll(nc); !strings.HasSuffix(string(all), `{"inputs":[1]}`) {
		t.Errorf("%q, %v", all, err)
	}
}

// A client that pipelines and never reads is not executed any further.
func TestUnreadAnswersStopExecution(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	var executed atomic.Int64
	answer := []byte(strings.Repeat("x", 8<<10))
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		executed.Add(1)
		in.Reply(&link.Answer{Status: 200, Size: int64(len(answer))})
		in.Write(answer)
	}).replica()))
	nc := dial(t, addr)
	nc.(*net.TCPConn).SetReadBuffer(8 << 10)
	const sent = 20_000
	go func() {
		for range sent {
			if _, err := io.WriteString(nc, post(iPath, "{}")); err != nil {
				return
			}
		}
	}()
	still := int64(-1)
	eventually(t, func() bool { // until nothing more is executed for a while
		time.Sleep(100 * time.Millisecond)
		before := still
		still = executed.Load()
		return still == before && still > 0
	})
	if still > 200 {
		t.Errorf("%d of %d requests were executed with none of their answers read", still, sent)
	}
}

func TestTooManyConnectionsAreTurnedAway(t *testing.T) {
	g, addr := start(t, gateway.Config{Connections: 2})
	a, b := dial(t, addr), dial(t, addr)
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_connections") == 2 })
	if got := talk(t, addr, ""); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "Retry-After: 1") {
		t.Errorf("got %q", got)
	}
	a.Close()
	b.Close()
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_connections") == 0 })
	if got := talk(t, addr, post("/serving-endpoints/none/invocations", "", last)); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("got %q", got)
	}
}

// Large bodies of many clients at once are bounded in sum.
func TestBodiesTogetherAreBounded(t *testing.T) {
	g, addr := start(t, gateway.Config{Memory: 1 << 20})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	head := "POST " + iPath + " HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
	once := strings.Replace(head, "Host: a\r\n", "Host: a\r\nConnection: close\r\n", 1) + strings.Repeat("x", 900_000)
	var first net.Conn
	second := ""
	eventually(t, func() bool { // unless the second overtook the first, which then is refused too
		first = dial(t, addr)
		io.WriteString(first, head+strings.Repeat("x", 800_000))
		second = talk(t, addr, once)
		first.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := first.Read(make([]byte, 1))
		first.SetReadDeadline(time.Time{})
		return !strings.HasPrefix(second, "HTTP/1.1 200 ") && errors.Is(err, os.ErrDeadlineExceeded)
	})
	if !strings.HasPrefix(second, "HTTP/1.1 503 ") || !strings.Contains(second, "Retry-After: 1") {
		t.Errorf("got %.200q", second)
	}
	io.WriteString(first, strings.Repeat("x", 100_000))
	a, err := http.ReadResponse(bufio.NewReader(first), nil)
	if err != nil || a.StatusCode != 200 {
		t.Fatalf("the first: %v, %v", a, err)
	}
	io.Copy(io.Discard, a.Body) // until it was answered whole, its body is held
	eventually(t, func() bool {
		return strings.HasPrefix(talk(t, addr, once), "HTTP/1.1 200 ")
	})
}

// Another endpoint, another connection: untouched by any of this.
func TestFieldsWithUnderscoresAreDroppedAndCounted(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(raw(startAgent(t, "r", 1, echo).replica()))
	got := talk(t, addr, post(iPath, "{}", last, "X_User: root", "X-Ok: 1"))
	if !strings.Contains(got, "Seen-Fields: content-type x-ok traceparent x-request-id x-forwarded-host\r\n") {
		t.Errorf("got %q", got)
	}
	if n := metric(t, g, "loadline_gateway_dropped_fields_total"); n != 1 {
		t.Errorf("%v counted", n)
	}
}

func TestRequestsAreCounted(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	for range 3 {
		talk(t, addr, post(iPath, "{}", last))
	}
	talk(t, addr, "GET "+iPath+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	talk(t, addr, "bad\r\n\r\n")
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_requests_total") == 4 })
	if n := metric(t, g, "loadline_gateway_request_seconds"); n != 4+3*3 {
		t.Errorf("%v observations", n)
	}
	if n := metric(t, g, "loadline_gateway_refused_total"); n != 1 {
		t.Errorf("%v refused", n)
	}
	g.Withdraw("default", "iris")
	if n := metric(t, g, "loadline_gateway_requests_total"); n != 0 {
		t.Errorf("%v counted for an endpoint that is gone", n)
	}
}

func TestAPI(t *testing.T) {
	left := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), 413)
			return
		}
		w.Header().Set("X-Saw", fmt.Sprintf("%d %s %s %s %s", r.ContentLength, r.Host, r.URL.RawQuery, r.Header.Get("X-A"), r.Header["Cookie"]))
		w.WriteHeader(201)
		w.Write(body)
	})
	mux.HandleFunc("GET /big", func(w http.ResponseWriter, r *http.Request) {
		for range 100 {
			w.Write([]byte(strings.Repeat("y", 1000)))
		}
	})
	mux.HandleFunc("GET /follow", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "line\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("oops") })
	mux.HandleFunc("GET /abort", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	_, addr := start(t, gateway.Config{API: mux, MaxBody: 1000})
	get := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	}
	for raw, want := range map[string]string{
		post("/echo?q=1", "hello", last, "X-A: b", "Cookie: c"):                                                          "HTTP/1.1 201 Created\r\n|X-Saw: 5 a q=1 b [c]\r\n|Content-Length: 5\r\n|\r\n\r\nhello|X-Request-Id: ",
		"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n": "X-Saw: -1 |\r\n\r\nabc",
		"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n":                                                 "HTTP/1.1 413 |REQUEST_TOO_LARGE",
		"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + strings.Repeat("x", 1001):        "HTTP/1.1 413 |too large",
		get("/big"):    "Transfer-Encoding: chunked\r\n|yyy|\r\n0\r\n\r\n",
		get("/panic"):  "HTTP/1.1 500 |INTERNAL_ERROR",
		get("/none"):   "HTTP/1.1 404 ",
		get("/%2e%2e"): "HTTP/1.1 400 ",
		"HEAD /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n": "HTTP/1.1 200 |Connection: close\r\n\r\n",
		get("/abort"): "HTTP/1.1 200 |half\r\n",
		post("/echo", "a") + get("/none") + post("/echo", "b", last): "\r\n\r\na|HTTP/1.1 404 ",
	} {
		started := time.Now()
		got := talk(t, addr, raw)
		if took := time.Since(started); took > 3*time.Second {
			t.Errorf("%.60q took %v", raw, took)
		}
		for _, w := range strings.Split(want, "|") {
			if !strings.Contains(got, w) {
				t.Errorf("%.60q: no %q in %.400q", raw, w, got)
			}
		}
		if strings.HasPrefix(raw, "GET /abort") && strings.HasSuffix(got, "0\r\n\r\n") {
			t.Errorf("an aborted answer ends as if it were whole: %q", got)
		}
	}
	nc := dial(t, addr)
	io.WriteString(nc, "GET /follow HTTP/1.1\r\nHost: a\r\n\r\n")
	if line, err := bufio.NewReader(nc).ReadString('\n'); line != "HTTP/1.1 200 OK\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	nc.Close()
	select {
	case <-left:
	case <-time.After(5 * time.Second):
		t.Error("the handler was not told that its client has left")
	}
}

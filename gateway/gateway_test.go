package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// An agent is the other end of a link, with a handler in place of an engine.
type agent struct {
	server *link.Server
	addr   string
	id     string
}

// startAgent listens with a load line of line.
func startAgent(t testing.TB, id string, line int, h link.Handler) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &agent{addr: filepath.Join(dir, "s"), id: id}
	a.listen(t, line, h)
	return a
}

func (a *agent) listen(t testing.TB, line int, h link.Handler) {
	t.Helper()
	l, err := net.Listen("unix", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	server := link.NewServer(h, nil)
	server.Lined = server.SetLine
	server.SetLine(line)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	a.server = server
}

// restart ends the agent and starts another at the same address.
func (a *agent) restart(t *testing.T, line int, h link.Handler) {
	t.Helper()
	a.server.Close()
	a.listen(t, line, h)
}

func (a *agent) replica() serving.Replica {
	return serving.Replica{ID: a.id, State: serving.Ready, Addr: a.addr}
}

// echo answers with the body it got, and what it saw of the head.
func echo(_ context.Context, in *link.Incoming) {
	body, err := io.ReadAll(in)
	if err != nil {
		in.Fail(err.Error())
		return
	}
	var names []string
	for _, f := range in.Header {
		names = append(names, f.Name)
	}
	in.Reply(&link.Answer{Status: 200, Size: int64(len(body)), Header: []link.Field{
		{Name: "Content-Type", Value: "application/json"}, {Name: "Seen", Value: in.Method + " " + in.Path},
		{Name: "Seen-Fields", Value: strings.Join(names, " ")}}})
	in.Write(body)
}

// start runs a gateway on a loopback port.
func start(t *testing.T, c gateway.Config) (*gateway.Gateway, string) {
	t.Helper()
	c.Metrics = prometheus.NewRegistry()
	g := gateway.New(c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		g.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g, l.Addr().String()
}

func iris(replicas ...serving.Replica) serving.Route {
	return serving.Route{Tenant: "default", Endpoint: "iris", ID: "1", Entities: []serving.RouteEntity{
		{Name: "iris-1", Percent: 100, Replicas: replicas, MLflow: "3.17.2"}}}
}

// talk sends raw bytes on a connection of their own and returns all that comes
// back until the gateway closes it.
func talk(t *testing.T, addr, raw string) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(nc, raw)
	all, err := io.ReadAll(nc)
	if err != nil && len(all) == 0 {
		t.Fatalf("%.60q: %v", raw, err)
	}
	return string(all)
}

func post(path, body string, fields ...string) string {
	f := strings.Join(append(fields, ""), "\r\n")
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", path, len(body), f, body)
}

const iPath = "/serving-endpoints/iris/invocations"

// last makes a request the last one on its connection.
const last = "Connection: close"

func TestInvocationIsAnswered(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	got := talk(t, addr, post(iPath, `{"inputs":[1]}`, last, "X-Request-Id: my-id", "Authorization: Bearer secret", "Cookie: a=b", "User-Agent: x", "Accept: */*"))
	for _, want := range []string{"HTTP/1.1 200 OK\r\n", "\r\nX-Request-Id: my-id\r\n", "\r\nserved-model-name: iris-1\r\n", "\r\nContent-Length: 14\r\n",
		"\r\nSeen: POST /invocations\r\n", "\r\nSeen-Fields: content-type accept traceparent x-request-id\r\n", "\r\n\r\n{\"inputs\":[1]}"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

// What the data plane answers on its own, with nobody asked.
func TestRefusals(t *testing.T) {
	g, addr := start(t, gateway.Config{Root: "iris"})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	down := iris()
	down.Endpoint, down.Entities[0].Down = "down", "the model cannot be loaded: no module named x"
	g.Publish(down)
	cases := map[string]struct{ raw, want string }{
		"unknown endpoint":         {post("/serving-endpoints/none/invocations", "{}", last), "404 Not Found\r\n|\"error_code\":\"RESOURCE_DOES_NOT_EXIST\""},
		"unknown entity":           {post("/serving-endpoints/iris/served-models/x/invocations", "{}", last), "404 Not Found\r\n|no served entity x"},
		"another path":             {post("/serving-endpoints/iris/v1/models", "{}", last), "404 Not Found\r\n|has no path /v1/models"},
		"wrong method":             {"GET " + iPath + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "405 Method Not Allowed\r\n|\r\nAllow: POST\r\n"},
		"wrong method at the root": {"GET /invocations HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "405 Method Not Allowed\r\n|{\"detail\":\"Method Not Allowed\"}"},
		"POST to ping":             {post("/ping", "", last), "405 Method Not Allowed\r\n|{\"detail\":\"Method Not Allowed\"}"},
		"a body too large":         {"POST " + iPath + " HTTP/1.1\r\nHost: a\r\nContent-Length: 16777217\r\n\r\n", "413 Request Entity Too Large\r\n|\"error_code\":\"REQUEST_TOO_LARGE\"|\r\nConnection: close\r\n"},
		"a body of a terabyte":     {"POST " + iPath + " HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n", "413 Request Entity Too Large\r\n"},
		"chunks too large":         {"POST " + iPath + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000001\r\nx", "413 Request Entity Too Large\r\n"},
		"broken chunks":            {"POST " + iPath + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400 Bad Request\r\n|chunk size is not|\r\nConnection: close\r\n"},
		"both framings":            {"POST " + iPath + " HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 Bad Request\r\n|both Content-Length and Transfer-Encoding|\r\nConnection: close\r\n|X-Request-Id: "},
		"a strange expectation":    {post(iPath, "{}", "Expect: tea"), "417 Expectation Failed\r\n"},
		"a TLS hello":              {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "this port speaks plain HTTP, not TLS\n"},
		"a strange timeout":        {post(iPath, "{}", last, "X-Request-Timeout: soon"), "400 Bad Request\r\n|INVALID_PARAMETER_VALUE"},
		"an entity that is down":   {post("/serving-endpoints/down/invocations", "{}", last), "503 Service Unavailable\r\n|no module named x|\r\nRetry-After: 10\r\n|TEMPORARILY_UNAVAILABLE"},
		"an ID with strange bytes": {post("/serving-endpoints/none/invocations", "{}", last, "X-Request-Id: <script>"), "404 Not Found\r\n"},
	}
	for sentence, c := range cases {
		t.Run(sentence, func(t *testing.T) {
			got := talk(t, addr, c.raw)
			for _, want := range strings.Split(c.want, "|") {
				if !strings.Contains(got, want) || strings.Contains(got, "script") {
					t.Errorf("no %q in %q", want, got)
				}
			}
		})
	}
}

func TestRootAnswersAsMLflowDoes(t *testing.T) {
	g, addr := start(t, gateway.Config{Root: "iris"})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	for raw, want := range map[string]string{
		"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":    "\r\nContent-Type: application/json\r\nContent-Length: 1\r\nConnection: close\r\n\r\n\n",
		"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":  "\r\nContent-Type: application/json\r\nContent-Length: 1\r\nConnection: close\r\n\r\n\n",
		"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n": "\r\nContent-Type: application/json\r\nContent-Length: 6\r\nConnection: close\r\n\r\n3.17.2",
		post("/invocations", "{}", last):                                "\r\n\r\n{}",
	} {
		if got := talk(t, addr, raw); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, want) {
			t.Errorf("%.20q: got %q, want …%q", raw, got, want)
		}
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 2, echo).replica()))
	chunked := "POST " + iPath + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nX: y\r\n\r\n"
	got := talk(t, addr, post(iPath, "one")+chunked+post("/serving-endpoints/none/invocations", "skipped")+post(iPath, "three", last))
	var bodies []string
	for r := bufio.NewReader(strings.NewReader(got)); ; {
		a, err := http.ReadResponse(r, nil)
		if err != nil {
			break
		}
		b, _ := io.ReadAll(a.Body)
		bodies = append(bodies, fmt.Sprint(a.StatusCode, " ", string(b[:min(len(b), 5)])))
	}
	if want := "200 one,200 two,404 {\"err,200 three"; strings.Join(bodies, ",") != want {
		t.Errorf("got %q, want %q", bodies, want)
	}
}

// The body is asked for only after everything that can refuse the request.
func TestContinueOnlyWhenTheBodyIsWanted(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	head := func(path string, size int) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", path, size)
	}
	for raw, want := range map[string]string{
		head("/serving-endpoints/none/invocations", 3): "HTTP/1.1 404 ",
		head(iPath, 17<<20):                            "HTTP/1.1 413 ",
	} {
		if got := talk(t, addr, raw); !strings.HasPrefix(got, want) || !strings.Contains(got, "Connection: close") {
			t.Errorf("got %q, want %q…", got, want)
		}
	}
	nc := dial(t, addr)
	io.WriteString(nc, head(iPath, 3))
	r := bufio.NewReader(nc)
	if line, err := r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	r.ReadString('\n')
	io.WriteString(nc, "abc")
	if a, err := http.ReadResponse(r, nil); err != nil || a.StatusCode != 200 {
		t.Fatalf("got %v, %v", a, err)
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { nc.Close() })
	return nc
}

func TestBodiesUpToTheLimitPass(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	for _, size := range []int{0, 1, 4000, 5000, 70_000, 1 << 20, 16<<20 - 1, 16 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		for _, chunked := range []bool{false, true} {
			var r io.Reader = bytes.NewReader(body)
			if chunked {
				r = struct{ io.Reader }{r}
			}
			a, err := http.Post("http://"+addr+iPath, "text/csv", r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(a.Body)
			a.Body.Close()
			if a.StatusCode != 200 || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, chunked %v: status %d, %d bytes back, %v", size, chunked, a.StatusCode, len(got), err)
			}
		}
	}
	a, err := http.Post("http://"+addr+iPath, "text/csv", bytes.NewReader(make([]byte, 16<<20+1)))
	if err != nil || a.StatusCode != 413 {
		t.Errorf("one byte more: %v, %v", a, err)
	}
}

// A request that comes before its replica is held, not refused.
func TestRequestWaitsForTheFirstReplica(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	r := iris()
	r.Entities[0].Coming = true
	g.Publish(r)
	answers := make(chan string, 3)
	for range 3 {
		go func() { answers <- talk(t, addr, post(iPath, "{}", last)) }()
	}
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 3 })
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	for range 3 {
		if got := <-answers; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("got %q", got)
		}
	}
}

// metric sums the samples of one of the gateway's metrics.
func metric(t *testing.T, g *gateway.Gateway, name string) float64 {
	t.Helper()
	families, err := g.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// eventually waits for something that happens elsewhere, on a socket.
func eventually(t *testing.T, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within ten seconds")
		}
	}
}

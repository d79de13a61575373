package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

// What follows a request that two servers could read in two ways reaches nobody.
func TestNothingBehindARefusalIsExecuted(t *testing.T) {
	var executed atomic.Int64
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		executed.Add(1)
		in.Reply(&link.Answer{Status: 200})
	}).replica()))
	inner := post(iPath, "smuggled")
	for sentence, head := range map[string]string{
		"CL and TE":           "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
		"two CL":              "Content-Length: 0\r\nContent-Length: " + fmt.Sprint(len(inner)) + "\r\n\r\n",
		"TE with a tab":       "Transfer-Encoding: \x0bchunked\r\nContent-Length: 0\r\n\r\n",
		"TE in an underscore": "Transfer_Encoding: chunked\r\n\r\n",
		"bare LF":             "X: y\nContent-Length: 0\r\n\r\n",
		"bad chunk":           "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
		"bare LF in trailers": "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
		"long extension":      "Transfer-Encoding: chunked\r\n\r\n0;" + strings.Repeat("a", 5000) + "\r\n\r\n",
	} {
		got := talk(t, addr, "POST "+iPath+" HTTP/1.1\r\nHost: a\r\n"+head+inner)
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Count(got, "HTTP/1.1 ") != 1 || executed.Load() != 0 {
			t.Errorf("%s: %d executed, got %.200q", sentence, executed.Load(), got)
		}
	}
}

// An upgrade is answered as the plain request it also is.
func TestUpgradeIsStripped(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(raw(startAgent(t, "r", 1, echo).replica()))
	got := talk(t, addr, "GET /serving-endpoints/iris/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, "Seen-Fields: sec-websocket-version traceparent x-request-id x-forwarded-host\r\n") {
		t.Errorf("got %q", got)
	}
}

// TLS wraps the same parser, and leaving is noticed through it.
func TestOverTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	g := gateway.New(gateway.Config{})
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- g.Serve(context.Background(), tls.NewListener(plain, &tls.Config{Certificates: certified.TLS.Certificates}))
	}()
	defer func() { g.Close(); <-served }()
	began, gone := make(chan string, 9), make(chan string, 9)
	g.Publish(iris(startAgent(t, "r", 1, hold(began, gone, nil)).replica()))
	nc, err := tls.Dial("tcp", plain.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(nc, post("/serving-endpoints/none/invocations", "{}"))
	if a, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil || a.StatusCode != 404 {
		t.Errorf("%v, %v", a, err)
	}
	io.WriteString(nc, post(iPath, "runs"))
	<-began
	nc.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("nobody noticed that the client has left")
	}
}

// Two gateways share one place: an idle one is asked back for whoever waits.
func TestTwoGatewaysShareAPlace(t *testing.T) {
	a := startAgent(t, "r", 1, echo)
	var addrs []string
	for range 2 {
		g, addr := start(t, gateway.Config{})
		g.Publish(iris(a.replica()))
		addrs = append(addrs, addr)
	}
	for i := range 20 {
		if got := talk(t, addrs[i%2], post(iPath, "{}", last, "X-Request-Timeout: 5")); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Fatalf("request %d: %q", i, got)
		}
	}
}

// A request is not held up by a slow replica while another has a place.
func TestIdleReplicaIsFound(t *testing.T) {
	release := make(chan struct{})
	began, gone := make(chan string, 9), make(chan string, 9)
	g, addr := start(t, gateway.Config{})
	stuck := startAgent(t, "stuck", 1, hold(began, gone, release))
	quick := startAgent(t, "quick", 1, echo)
	g.Publish(iris(stuck.replica()))
	held := make(chan string, 1)
	go func() { held <- talk(t, addr, post(iPath, "held", last)) }()
	<-began
	g.Publish(iris(stuck.replica(), quick.replica()))
	for range 10 {
		if got := talk(t, addr, post(iPath, "quick", last, "X-Request-Timeout: 5")); !strings.HasSuffix(got, "quick") {
			t.Fatalf("got %q", got)
		}
	}
	close(release)
	<-held
}

package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
)

// startTLS runs a gateway that speaks TLS, and returns a client of HTTP/2.
func startTLS(t *testing.T, c gateway.Config) (*gateway.Gateway, string, *http.Client) {
	t.Helper()
	c, trust := encrypted(t, c)
	g, addr := start(t, c)
	return g, "https://" + addr, client2(t, trust)
}

func client2(t *testing.T, trust *tls.Config) *http.Client {
	two := new(http.Protocols)
	two.SetHTTP2(true)
	transport := &http.Transport{TLSClientConfig: trust.Clone(), Protocols: two, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// send asks over HTTP/2 and reads the whole answer.
func send(t *testing.T, client *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	a, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	if a.ProtoMajor != 2 {
		t.Fatalf("answered over %s", a.Proto)
	}
	return a, string(body)
}

func ask(method, url, body string, fields ...string) *http.Request {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Set(name, value)
	}
	return r
}

func TestHTTP2IsAnsweredAsHTTP1Is(t *testing.T) {
	g, host, client := startTLS(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 4, echo).replica()))
	a, body := send(t, client, ask("POST", host+iPath, "hello", "Content-Type: application/json", "X-Request-Id: mine", "X-Other: no"))
	if a.StatusCode != 200 || body != "hello" || a.Header.Get("X-Request-Id") != "mine" || a.Header.Get("served-model-name") != "iris-1" ||
		a.Header.Get("Content-Type") != "application/json" || a.ContentLength != 5 || a.Header.Get("Date") == "" ||
		a.Header.Get("Seen") != "POST /invocations" || a.Header.Get("Seen-Fields") != "content-type traceparent x-request-id" {
		t.Errorf("%v %q", a, body)
	}
	large := strings.Repeat("0123456789abcdef", 1<<20)
	if a, body := send(t, client, ask("POST", host+iPath, large)); a.StatusCode != 200 || body != large {
		t.Errorf("%v, %d bytes", a.Status, len(body))
	}
	var crowd sync.WaitGroup
	for i := range 50 {
		crowd.Go(func() {
			mine := fmt.Sprintf("request %d", i)
			if a, body := send(t, client, ask("POST", host+iPath, mine)); a.StatusCode != 200 || body != mine {
				t.Errorf("%v %q", a.Status, body)
			}
		})
	}
	crowd.Wait()
	if n := metric(t, g, "loadline_gateway_connections"); n != 1 {
		t.Errorf("%v connections for one client", n)
	}
}

// What is refused over HTTP/1.1 is refused over HTTP/2, in the same words.
func TestHTTP2IsJudgedByTheSameRules(t *testing.T) {
	g, host, client := startTLS(t, gateway.Config{MaxBody: 1000, Judge: func(who *gateway.Caller) auth.Verdict {
		if who.Token == "wrong" || !who.Secure {
			return auth.Verdict{Answer: auth.Unknown, Why: "not valid"}
		}
		return auth.Verdict{Caller: auth.Anonymous}
	}})
	g.Publish(iris(startAgent(t, "r", 4, echo).replica()))
	many := make([]string, 130)
	for i := range many {
		many[i] = fmt.Sprintf("X-%d: y", i)
	}
	unknown := ask("POST", host+iPath, "")
	unknown.Body, unknown.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", 1001))), -1
	chunked := ask("POST", host+iPath, "")
	chunked.Body, chunked.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("in "), strings.NewReader("parts"))), -1
	opaque := func(target string) *http.Request {
		r := ask("POST", host+"/x", "{}")
		r.URL.Opaque = target
		return r
	}
	for sentence, c := range map[string]struct {
		r      *http.Request
		status int
		body   string
	}{
		"a body in parts":          {chunked, 200, "in parts"},
		"no token that counts":     {ask("POST", host+iPath, "{}", "Authorization: Bearer wrong"), 401, "UNAUTHENTICATED"},
		"too large, and says so":   {ask("POST", host+iPath, strings.Repeat("x", 1001)), 413, "REQUEST_TOO_LARGE"},
		"too large, unannounced":   {unknown, 413, "REQUEST_TOO_LARGE"},
		"no such endpoint":         {ask("POST", host+"/serving-endpoints/none/invocations", "{}"), 404, "RESOURCE_DOES_NOT_EXIST"},
		"another method":           {ask("GET", host+iPath, ""), 405, "METHOD_NOT_ALLOWED"},
		"a method nobody knows":    {ask("BREW", host+iPath, ""), 501, "NOT_IMPLEMENTED"},
		"dots":                     {opaque("/a/../b"), 400, "BAD_REQUEST"},
		"escaped dots":             {opaque("/a/%2e%2e/b"), 400, "BAD_REQUEST"},
		"an escaped NUL":           {opaque("/a%00"), 400, "BAD_REQUEST"},
		"two slashes":              {opaque("/a//b"), 400, "BAD_REQUEST"},
		"a blank":                  {opaque("/a b"), 400, "BAD_REQUEST"},
		"a target over 8 kB":       {opaque("/" + strings.Repeat("x", 9000)), 414, "BAD_REQUEST"},
		"130 fields":               {ask("POST", host+iPath, "{}", many...), 431, "BAD_REQUEST"},
		"a head over 32 kB":        {ask("POST", host+iPath, "{}", "X-A: "+strings.Repeat("y", 33<<10)), 431, "BAD_REQUEST"},
		"24 kB of head":            {ask("POST", host+iPath, "{}", "X-A: "+strings.Repeat("y", 24<<10)), 200, "{}"},
		"a shadow":                 {ask("POST", host+iPath, "{}", "X_Forwarded_For: 1"), 400, "BAD_REQUEST"},
		"another expectation":      {ask("POST", host+iPath, "{}", "Expect: 200-ok"), 417, "BAD_REQUEST"},
		"a time-out that is none":  {ask("POST", host+iPath, "{}", "X-Request-Timeout: soon"), 400, "INVALID_PARAMETER_VALUE"},
		"and then one that is not": {ask("POST", host+iPath, "{}"), 200, "{}"},
	} {
		a, body := send(t, client, c.r)
		if a.StatusCode != c.status || !strings.Contains(body, c.body) || a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %s %.200q", sentence, a.Status, body)
		}
		if c.status >= 400 && a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v", sentence, a.Header)
		}
	}
}

func TestHTTP2EventsAreFlushedOneByOne(t *testing.T) {
	next := make(chan struct{})
	g, host, client := startTLS(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 200, Size: -1, Header: []link.Field{{Name: "Content-Type", Value: "text/event-stream"}}})
		for i := range 3 {
			fmt.Fprintf(in, "data: %d\n\n", i)
			in.Flush()
			<-next
		}
	}).replica()))
	a, err := client.Do(ask("POST", host+iPath, "{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	lines := bufio.NewReader(a.Body)
	for i := range 3 {
		if line, err := lines.ReadString('\n'); line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("event %d: %q, %v", i, line, err)
		}
		lines.ReadString('\n')
		next <- struct{}{}
	}
	if rest, err := io.ReadAll(lines); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v after the last event", rest, err)
	}
}

// A stream that is reset cancels its request and no other.
func TestHTTP2ResetCancels(t *testing.T) {
	g, host, client := startTLS(t, gateway.Config{})
	began, gone, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
	g.Publish(iris(startAgent(t, "r", 2, hold(began, gone, release)).replica()))
	stays := make(chan string, 1)
	go func() {
		_, body := send(t, client, ask("POST", host+iPath, "stays"))
		stays <- body
	}()
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := client.Do(ask("POST", host+iPath, "leaves").WithContext(ctx))
		failed <- err
	}()
	<-began
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if who := <-gone; who != "leaves" {
		t.Errorf("%s was cancelled", who)
	}
	close(release)
	if got := <-stays; got != "ok" {
		t.Errorf("the other got %q", got)
	}
}

func TestHTTP2DeadlineIsAnswered(t *testing.T) {
	g, host, client := startTLS(t, gateway.Config{Patience: gateway.Patience{Body: 200 * time.Millisecond}})
	began, gone := make(chan string, 9), make(chan string, 9)
	g.Publish(iris(startAgent(t, "r", 1, hold(began, gone, nil)).replica()))
	a, body := send(t, client, ask("POST", host+iPath, "late", "X-Request-Timeout: 0.2"))
	if a.StatusCode != 504 || body != "Request processing time exceeded limit" {
		t.Errorf("%s %q", a.Status, body)
	}
	<-gone
	for _, length := range []int64{10, -1} {
		never, writer := io.Pipe() // a body of which nothing comes
		defer writer.Close()
		r := ask("POST", host+iPath, "")
		r.Body, r.ContentLength = never, length
		if a, body := send(t, client, r); a.StatusCode != 408 {
			t.Errorf("length %d: %s %q", length, a.Status, body)
		}
	}
}

// What breaks in the middle is reset, so that nobody takes half for the whole.
func TestHTTP2TornAnswerIsReset(t *testing.T) {
	g, host, client := startTLS(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 200, Size: -1})
		io.WriteString(in, "half")
		in.Flush()
		in.Fail("broken")
	}).replica()))
	a, err := client.Do(ask("POST", host+iPath, "{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if got, err := io.ReadAll(a.Body); string(got) != "half" || err == nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHTTP2StreamsBothWays(t *testing.T) {
	g, host, client := startTLS(t, gateway.Config{})
	g.Publish(raw(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 200, Size: -1})
		buf := make([]byte, 100)
		for {
			n, err := in.Read(buf)
			in.Write(bytes.ToUpper(buf[:n]))
			in.Flush()
			if err != nil {
				return
			}
		}
	}).replica()))
	body, words := io.Pipe()
	r := ask("POST", host+"/serving-endpoints/iris/talk", "")
	r.Body, r.ContentLength = body, -1
	go io.WriteString(words, "one")
	a, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	for i, word := range []string{"one", "two", "three"} {
		if i > 0 {
			io.WriteString(words, word)
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(a.Body, got); string(got) != strings.ToUpper(word) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	words.Close()
	if rest, err := io.ReadAll(a.Body); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// A gateway that drains finishes its streams, and clients go elsewhere with the next.
func TestHTTP2Drains(t *testing.T) {
	g, host, client := startTLS(t, gateway.Config{})
	began, gone, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
	g.Publish(iris(startAgent(t, "r", 2, hold(began, gone, release)).replica()))
	answered := make(chan string, 1)
	go func() {
		_, body := send(t, client, ask("POST", host+iPath, "runs"))
		answered <- body
	}()
	<-began
	drained := make(chan error, 1)
	go func() { drained <- g.Drain(t.Context()) }()
	eventually(t, func() bool { return !g.Ready() })
	close(release)
	if got := <-answered; got != "ok" {
		t.Errorf("got %q", got)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if a, err := client.Do(ask("POST", host+iPath, "more")); err == nil {
		a.Body.Close()
		t.Error("a drained gateway answers")
	}
}

// The API is reached over HTTP/2, too, and a handler that panics is told apart
// from one that aborts.
func TestHTTP2API(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Saw", fmt.Sprint(r.Proto, " ", r.ContentLength, " ", r.Host != ""))
		w.Write(body)
	})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("oops") })
	mux.HandleFunc("GET /abort", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	_, host, client := startTLS(t, gateway.Config{API: mux})
	if a, body := send(t, client, ask("POST", host+"/echo", "hello")); body != "hello" || a.Header.Get("X-Saw") != "HTTP/2.0 5 true" || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%v %q", a, body)
	}
	if a, _ := send(t, client, ask("GET", host+"/panic", "")); a.StatusCode != 500 {
		t.Errorf("a panic: %s", a.Status)
	}
	a, err := client.Do(ask("GET", host+"/abort", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if got, err := io.ReadAll(a.Body); err == nil {
		t.Errorf("an aborted answer seems whole: %q", got)
	}
}

// A reader that takes nothing is cut off, and holds up no other stream.
func TestHTTP2SlowReaderIsCutOff(t *testing.T) {
	g, host, client := startTLS(t, gateway.Config{Patience: gateway.Patience{Write: 300 * time.Millisecond}})
	ended := make(chan struct{})
	g.Publish(iris(startAgent(t, "r", 4, func(ctx context.Context, in *link.Incoming) {
		if body, _ := io.ReadAll(in); string(body) != "much" {
			in.Reply(&link.Answer{Status: 200, Size: 2})
			io.WriteString(in, "ok")
			return
		}
		in.Reply(&link.Answer{Status: 200, Size: -1})
		piece := make([]byte, 64<<10)
		for ctx.Err() == nil {
			if _, err := in.Write(piece); err != nil {
				break
			}
		}
		close(ended)
	}).replica()))
	a, err := client.Do(ask("POST", host+iPath, "much"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if _, body := send(t, client, ask("POST", host+iPath, "little")); body != "ok" {
		t.Errorf("the other stream: %q", body)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the engine writes on for nobody")
	}
	if _, err := io.Copy(io.Discard, a.Body); err == nil {
		t.Error("the answer seems whole")
	}
}

// Clients of other makes agree on HTTP/2, where they are installed.
func TestOtherClientsOfHTTP2(t *testing.T) {
	c, _ := encrypted(t, gateway.Config{})
	chain, key := writeCertificate(t, t.TempDir(), "this machine")
	certificate, err := tls.LoadX509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	c.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	g, addr := start(t, c)
	g.Publish(iris(startAgent(t, "r", 4, echo).replica()))
	url := "https://" + addr + iPath
	large := filepath.Join(t.TempDir(), "large.json")
	if err := os.WriteFile(large, bytes.Repeat([]byte("[1]"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("curl", func(t *testing.T) {
		curl, err := exec.LookPath("curl")
		if err != nil {
			t.Skip("no curl here")
		}
		if v, _ := exec.Command(curl, "--version").Output(); !bytes.Contains(v, []byte("HTTP2")) {
			t.Skip("this curl speaks no HTTP/2")
		}
		for _, body := range []string{`{"inputs": [1]}`, "@" + large} {
			out, err := exec.Command(curl, "-sS", "--http2", "--cacert", chain, "-w", "%{http_version} %{http_code} %{size_download}", "-o", os.DevNull,
				"-H", "Content-Type: application/json", "--data-binary", body, url).CombinedOutput()
			size := len(body)
			if body[0] == '@' {
				size = 3 << 20
			}
			if want := fmt.Sprint("2 200 ", size); string(out) != want || err != nil {
				t.Errorf("%q, %v; want %q", out, err, want)
			}
		}
	})
	t.Run("httpx", func(t *testing.T) {
		python := os.Getenv("LOADLINE_TEST_HTTPX_PYTHON")
		if python == "" {
			t.Skip("LOADLINE_TEST_HTTPX_PYTHON names no Python with httpx and h2; make test builds one")
		}
		const script = `import sys, ssl, httpx
with httpx.Client(http2=True, verify=ssl.create_default_context(cafile=sys.argv[1])) as c:
    for _ in range(3):
        a = c.post(sys.argv[2], json={"inputs": [1]})
        print(a.http_version, a.status_code, a.text, a.headers["served-model-name"])
`
		out, err := exec.Command(python, "-c", script, chain, url).CombinedOutput()
		if want := strings.Repeat("HTTP/2 200 {\"inputs\":[1]} iris-1\n", 3); string(out) != want || err != nil {
			t.Errorf("%s, %v", out, err)
		}
	})
}

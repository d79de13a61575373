package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

func raw(replicas ...serving.Replica) serving.Route {
	r := iris(replicas...)
	r.Entities[0].Raw = true
	return r
}

// Each event of an answer of unknown length reaches the client before the next
// one is made.
func TestEventsAreFlushedOneByOne(t *testing.T) {
	next := make(chan struct{})
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 200, Size: -1, Header: []link.Field{{Name: "Content-Type", Value: "text/event-stream"}}})
		for i := range 3 {
			fmt.Fprintf(in, "data: %d\n\n", i)
			in.Flush()
			<-next
		}
	}).replica()))
	nc := dial(t, addr)
	io.WriteString(nc, post(iPath, "{}"))
	a, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || len(a.TransferEncoding) != 1 || a.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%v, %v", a, err)
	}
	lines := bufio.NewReader(a.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("event %d: %q, %v", i, line, err)
		}
		lines.ReadString('\n')
		next <- struct{}{}
	}
	if rest, err := io.ReadAll(lines); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v after the last event", rest, err)
	}
	// The connection serves on.
	io.WriteString(nc, post("/serving-endpoints/none/invocations", "{}", last))
	if a, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil || a.StatusCode != 404 {
		t.Errorf("%v, %v", a, err)
	}
}

// An HTTP/1.0 client knows no chunks: the end of the connection ends the answer.
func TestUnknownLengthForAnOldClient(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 200, Size: -1})
		io.WriteString(in, "hello")
	}).replica()))
	got := talk(t, addr, "POST "+iPath+" HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}")
	if !strings.HasSuffix(got, "Connection: close\r\n\r\nhello") || strings.Contains(got, "chunked") {
		t.Errorf("got %q", got)
	}
}

// An engine of a user's own answers while the request is still being sent.
func TestBothWaysStreamAtOnce(t *testing.T) {
	g, addr := start(t, gateway.Config{})
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
	nc := dial(t, addr)
	io.WriteString(nc, "POST /serving-endpoints/iris/talk HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	r := bufio.NewReader(nc)
	var a *http.Response
	for i, word := range []string{"one", "two", "three"} {
		fmt.Fprintf(nc, "%x\r\n%s\r\n", len(word), word)
		if i == 0 {
			var err error
			if a, err = http.ReadResponse(r, nil); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(a.Body, got); string(got) != strings.ToUpper(word) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	io.WriteString(nc, "0\r\n\r\n")
	if rest, err := io.ReadAll(a.Body); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestLargeStreamsCrossWhole(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(raw(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 200, Size: in.Size})
		io.Copy(struct{ io.Writer }{in}, in)
	}).replica()))
	body := bytes.Repeat([]byte("0123456789abcdef"), 10<<16)
	for _, chunked := range []bool{false, true} {
		var r io.Reader = bytes.NewReader(body)
		if chunked {
			r = struct{ io.Reader }{r}
		}
		a, err := http.Post("http://"+addr+"/serving-endpoints/iris/x", "text/csv", r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(a.Body); !bytes.Equal(got, body) || err != nil {
			t.Errorf("chunked %v: %d bytes of %d, %v", chunked, len(got), len(body), err)
		}
		a.Body.Close()
	}
}

// An engine may answer without having read the body: the client gets the
// answer, and the connection is closed behind it.
func TestAnswerBeforeTheBodyWasRead(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(raw(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 403, Size: 2})
		in.Write([]byte("no"))
	}).replica()))
	nc := dial(t, addr)
	io.WriteString(nc, "POST /serving-endpoints/iris/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	a, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || a.StatusCode != 403 || !a.Close {
		t.Fatalf("%v, %v", a, err)
	}
	if body, err := io.ReadAll(a.Body); string(body) != "no" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
}

func TestBrokenUploadIsTheClientsFault(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	gone := make(chan error, 9)
	g.Publish(raw(startAgent(t, "r", 1, func(ctx context.Context, in *link.Incoming) {
		_, err := io.Copy(io.Discard, in)
		gone <- err
		in.Reply(&link.Answer{Status: 200})
	}).replica()))
	head := "POST /serving-endpoints/iris/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
	if got := talk(t, addr, head+"zz\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "chunk size") {
		t.Errorf("broken chunk: %q", got)
	}
	if err := <-gone; err == nil {
		t.Error("the engine was told that the body ended well")
	}
	nc := dial(t, addr)
	io.WriteString(nc, head)
	nc.Close()
	if err := <-gone; err == nil {
		t.Error("the client left, and the engine was told that the body ended well")
	}
	big := fmt.Sprintf("%x\r\n%s\r\n", 1<<20, bytes.Repeat([]byte("x"), 1<<20))
	if got := talk(t, addr, head+strings.Repeat(big, 17)); !strings.HasPrefix(got, "HTTP/1.1 413 ") {
		t.Errorf("too large: %.300q", got)
	}
}

// Engines of a user's own see any path and query, and the client's own fields,
// but never who it is.
func TestRawEngineSeesThePath(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(raw(startAgent(t, "r", 1, echo).replica()))
	got := talk(t, addr, "DELETE /serving-endpoints/iris/v1/things/%41?x=1&y=%20 HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nCookie: c=d\r\n"+
		"Authorization: Bearer x\r\nX-Forwarded-For: 1.2.3.4\r\nX-Mine: 1\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTracestate: a=b\r\n\r\n")
	for _, want := range []string{"\r\nSeen: DELETE /v1/things/%41?x=1&y=%20\r\n", "\r\nSeen-Fields: cookie x-mine traceparent tracestate x-request-id x-forwarded-host\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	got = talk(t, addr, post("/serving-endpoints/iris/served-models/iris-1/v1/x", "{}", last, "Traceparent: 00-short-01"))
	if !strings.Contains(got, "\r\nSeen: POST /v1/x\r\n") || !strings.Contains(got, "Seen-Fields: content-type traceparent x-request-id") {
		t.Errorf("got %q", got)
	}
	if got = talk(t, addr, "HEAD /serving-endpoints/iris/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\n") || !strings.Contains(got, "Content-Length: 0") {
		t.Errorf("HEAD: %q", got)
	}
}

// Whatever an engine answers, the client gets one answer and no second one is
// hidden in it.
func TestMisbehavingEngines(t *testing.T) {
	reply := func(a link.Answer, body string) link.Handler {
		return func(_ context.Context, in *link.Incoming) {
			in.Reply(&a)
			io.WriteString(in, body)
		}
	}
	big := strings.Repeat("x", 200_000)
	cases := map[string]struct {
		engine link.Handler
		want   string // how the answer begins; "" is a connection closed under it
	}{
		"status 099":                 {reply(link.Answer{Status: 99}, ""), "HTTP/1.1 502 "},
		"status 1000":                {reply(link.Answer{Status: 1000}, ""), "HTTP/1.1 502 "},
		"status 101":                 {reply(link.Answer{Status: 101}, ""), "HTTP/1.1 502 "},
		"line end in a value":        {reply(link.Answer{Status: 200, Header: []link.Field{{Name: "X", Value: "a\r\nSet-Cookie: b"}}}, ""), "HTTP/1.1 502 "},
		"line end in a name":         {reply(link.Answer{Status: 200, Header: []link.Field{{Name: "X\r\nY", Value: "a"}}}, ""), "HTTP/1.1 502 "},
		"empty name":                 {reply(link.Answer{Status: 200, Header: []link.Field{{Name: "", Value: "a"}}}, ""), "HTTP/1.1 502 "},
		"body shorter than said":     {reply(link.Answer{Status: 200, Size: 10}, "short"), "HTTP/1.1 502 "},
		"body longer than said":      {reply(link.Answer{Status: 200, Size: 2}, "HTTP/1.1 200 OK"), "HTTP/1.1 502 "},
		"large body shorter":         {reply(link.Answer{Status: 200, Size: 1 << 20}, big), "HTTP/1.1 200 "},
		"no answer at all":           {func(_ context.Context, in *link.Incoming) {}, "HTTP/1.1 502 "},
		"framing of its own":         {reply(link.Answer{Status: 200, Size: 2, Header: []link.Field{{Name: "Content-Length", Value: "7"}, {Name: "transfer-encoding", Value: "chunked"}, {Name: "Connection", Value: "keep-alive"}}}, "ok"), "HTTP/1.1 200 "},
		"a cookie and a redirection": {reply(link.Answer{Status: 302, Size: 2, Header: []link.Field{{Name: "Set-Cookie", Value: "a=b"}, {Name: "Location", Value: "http://evil"}}}, "ok"), "HTTP/1.1 302 "},
		"a body with 204":            {reply(link.Answer{Status: 204, Size: 2}, "ok"), "HTTP/1.1 204 "},
		"dead within its answer": {func(_ context.Context, in *link.Incoming) {
			in.Reply(&link.Answer{Status: 200, Size: -1})
			io.WriteString(in, "half")
			in.Flush()
			in.Fail("killed")
		}, "HTTP/1.1 200 "},
	}
	for sentence, c := range cases {
		t.Run(sentence, func(t *testing.T) {
			g, addr := start(t, gateway.Config{})
			g.Publish(iris(startAgent(t, "r", 1, c.engine).replica()))
			got := talk(t, addr, post(iPath, "{}", last))
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("got %.300q, want %s…", got, c.want)
			}
			for _, never := range []string{"chunked\r\nConnection: keep-alive", "Content-Length: 7", "evil", "Set-Cookie", "\r\n0\r\n\r\n"} {
				if strings.Contains(got, never) {
					t.Errorf("%q in %.300q", never, got)
				}
			}
			if n := strings.Count(got, "HTTP/1.1 "); n != 1 {
				t.Errorf("%d answers in %.300q", n, got)
			}
		})
	}
}

// A client that does not read its stream is cut off, and the place is free again.
func TestSlowReaderIsCutOff(t *testing.T) {
	c := gateway.Config{}
	c.Patience.Write = 200 * time.Millisecond
	g, addr := start(t, c)
	gone := make(chan error, 1)
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 200, Size: -1})
		event := bytes.Repeat([]byte("x"), 10_000)
		for {
			if _, err := in.Write(event); err != nil {
				gone <- err
				return
			}
		}
	}).replica()))
	nc := dial(t, addr)
	io.WriteString(nc, post(iPath, "{}"))
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the engine still writes")
	}
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_connections") == 0 })
}

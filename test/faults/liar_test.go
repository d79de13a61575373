package faults

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// BAD-INPUTS 66: an answer that two readers could understand differently never
// reaches a client, and what an engine sends beyond its answer is nobody's.
func TestLyingAnswersAreRefusedAndNeverSplit(t *testing.T) {
	need(t)
	shared.watch(t)
	shared.must(t, "deploy", "liar", model("liar"), "--command", "exec /usr/bin/python3 -B $MODEL_DIR/liar.py", "--health", "/")
	t.Cleanup(func() { shared.run("delete", "liar", "--yes") })
	engine := shared.replicas(t, "liar")[0].Engine
	for name, c := range map[string]struct {
		status int // 0 is an answer that breaks off
		body   string
	}{
		"two lengths": {502, ""}, "length and chunks": {502, ""}, "endless head": {502, ""}, "huge field": {502, ""},
		"storm of interims": {502, ""}, "switch": {502, ""}, "status 99": {502, ""}, "status 1000": {502, ""}, "HTTP/0.9": {502, ""},
		"negative length": {502, ""}, "length too large": {502, ""}, "bare line feed in a field": {502, ""}, "folded field": {502, ""},
		"odd coding": {502, ""}, "nothing": {502, ""},
		// Its head was passed on before the lie could be seen: the client must see it break off.
		"garbage for a chunk": {0, ""}, "short body": {0, ""},
		"long body":  {0, "ok"}, // refused, or cut to what it said, as the bytes come
		"hop by hop": {200, "ok"}, "honest": {200, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", shared.port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			in := bufio.NewReader(conn)
			got, body := talk(t, conn, in, "liar", name)
			switch {
			case c.status == 0:
				if got != nil && body != "broken off" && got.StatusCode != 502 && (c.body == "" || body != c.body) {
					t.Errorf("it is answered %d %.200q", got.StatusCode, body)
				}
			case got == nil:
				t.Fatal(body)
			case got.StatusCode != c.status || c.status == 200 && body != c.body || c.status == 502 && !strings.Contains(body, "error_code"):
				t.Errorf("it is answered %d %.300q", got.StatusCode, body)
			}
			if got != nil {
				for _, field := range []string{"X-Smuggled", "X-Secret", "Keep-Alive", "Proxy-Authenticate", "Upgrade"} {
					if v := got.Header.Get(field); v != "" {
						t.Errorf("%s: %s reached the client", field, v)
					}
				}
			}
			if got == nil || got.Close || c.status == 0 {
				conn.Close()
				if conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", shared.port)); err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				in = bufio.NewReader(conn)
			}
			// The next answers, on the same connection where it lives, are their own.
			for range 3 {
				if got, body := talk(t, conn, in, "liar", "honest"); got == nil || got.StatusCode != 200 || body != "ok" || got.Header.Get("X-Smuggled") != "" {
					t.Fatalf("the next is answered %v %q", got, body)
				}
			}
		})
	}
	if after := shared.replicas(t, "liar")[0]; after.Engine != engine {
		t.Errorf("the engine was replaced: %+v", after)
	}
}

// talk sends one request on a connection and reads its answer.
func talk(t *testing.T, conn net.Conn, in *bufio.Reader, name, body string) (*http.Response, string) {
	t.Helper()
	fmt.Fprintf(conn, "POST /serving-endpoints/%s/invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", name, len(body), body)
	got, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err.Error()
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		return got, "broken off"
	}
	return got, string(text)
}

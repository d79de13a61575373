package upstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/agent"
)

// Python's http.server writes the head, then the body, on a connection with
// Nagle's algorithm: forty times 40 ms, unless the head is acknowledged at once.
func TestAnswersInTwoPiecesAreNotHeldBack(t *testing.T) {
	l := listen(t)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_ = nc.(*net.TCPConn).SetNoDelay(false)
		in := bufio.NewReader(nc)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
			_, _ = io.WriteString(nc, "ok")
		}
	}()
	e := engineAt(t, l, true)
	began := time.Now()
	for range 40 {
		w := &recorder{}
		err := e.Do(t.Context(), &agent.Request{Method: "POST", Path: "/", Body: strings.NewReader("{}"), Size: 2}, w)
		if err != nil || w.body.String() != "ok" {
			t.Fatalf("got %q, %v", w.body.String(), err)
		}
	}
	if took := time.Since(began); took > 700*time.Millisecond {
		t.Errorf("40 answers took %v", took)
	}
}

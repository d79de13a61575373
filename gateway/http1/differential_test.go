package http1

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// An oracle is net/http's server, asked how it splits a stream.
type oracle struct {
	conns chan net.Conn
	done  chan struct{}

	mu    sync.Mutex
	whole []request
}

func newOracle(t *testing.T) *oracle {
	o := &oracle{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		target := r.RequestURI
		if r.URL.IsAbs() {
			target = r.URL.RequestURI()
		}
		o.mu.Lock()
		o.whole = append(o.whole, request{r.Method, target, string(body)})
		o.mu.Unlock()
	})}
	go server.Serve(o)
	t.Cleanup(func() { server.Close() })
	return o
}

func (o *oracle) Accept() (net.Conn, error) {
	select {
	case c := <-o.conns:
		return c, nil
	case <-o.done:
		return nil, net.ErrClosed
	}
}

func (o *oracle) Close() error {
	close(o.done)
	return nil
}

func (o *oracle) Addr() net.Addr { return &net.UnixAddr{Name: "oracle"} }

// split returns the requests net/http executes, after it has closed the connection.
func (o *oracle) split(stream []byte) []request {
	o.whole = nil
	here, there := net.Pipe()
	o.conns <- there
	go func() {
		here.Write(stream)
		// The server reads to the end of the stream before it can see this one.
		here.Write([]byte("GET /the-end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
	}()
	io.Copy(io.Discard, here)
	here.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.whole
}

// A stream that we read to its end is split by net/http into the very same
// requests; and what we execute before we refuse something, it executes too.
func TestNothingAcceptedIsSplitOtherwiseElsewhere(t *testing.T) {
	const seed, streams = 20260101, 50000
	n := streams
	if testing.Short() {
		n = 2000
	}
	dice := rand.New(rand.NewPCG(seed, 0))
	o := newOracle(t)
	accepted := 0
	for i := range n {
		stream := generate(dice)
		// The end is read by ours as by the other one, so that a stream cut
		// short in a body is cut the same way.
		ours, refusal := split(append(bytes.Clone(stream), "GET /the-end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"...), 1+dice.IntN(200))
		if len(ours) == 0 {
			continue
		}
		theirs := o.split(stream)
		if refusal == nil {
			accepted++
		}
		if len(theirs) < len(ours) || refusal == nil && len(theirs) != len(ours) || fmt.Sprint(theirs[:len(ours)]) != fmt.Sprint(ours) {
			t.Fatalf("seed %d, stream %d\n%q\nours:   %q (%v)\ntheirs: %q", seed, i, stream, ours, refusal, theirs)
		}
	}
	t.Logf("%d of %d streams accepted whole", accepted, n)
	if accepted < n/20 {
		t.Errorf("only %d of %d generated streams were accepted: the test compares too little", accepted, n)
	}
}

// generate makes a few requests out of parts that matter to framing, mostly
// good ones, and sometimes changes bytes.
func generate(dice *rand.Rand) []byte {
	var b bytes.Buffer
	for range 1 + dice.IntN(3) {
		body := strings.Repeat("x", dice.IntN(20))
		if dice.IntN(4) == 0 {
			body = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"
		}
		pick := func(options ...string) string {
			if dice.IntN(8) > 0 {
				return options[0]
			}
			return options[dice.IntN(len(options))]
		}
		fmt.Fprintf(&b, "%s %s %s%s", pick("POST", "GET", "PUT", "DELETE", "post", "CONNECT"),
			pick("/p", "/p?q=1", "/a%20b", "http://a/x", "http://b/x", "//x", "/a/../b", "*", "/p?a b"),
			pick("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "http/1.1"), pick("\r\n", "\n"))
		b.WriteString("Host" + pick(": a", ":a", ": b", " : a") + pick("\r\n", "\n", "\r\nHost: a\r\n"))
		for range dice.IntN(3) {
			b.WriteString(pick("X-A: b\r\n", "X_A: b\r\n", "Connection: close\r\n", "Connection: keep-alive\r\n", "Connection: X-A\r\n",
				"X:\r\n fold\r\n", "X: \x00\r\n", "Expect: 100-continue\r\n", "Upgrade: h2c\r\nConnection: upgrade\r\n", "Content_Length: 3\r\n", ": x\r\n"))
		}
		length := fmt.Sprintf("Content-Length%s%s%d%s\r\n", pick(":", " :"), pick(" ", "", "\t", " +", " 0", " -"), len(body), pick("", " ", ", 3", "x"))
		encoding := "Transfer-Encoding" + pick(": ", ":", " : ", ":\t") + pick("chunked", "Chunked", "chunked ", "gzip, chunked", "identity", "xchunked", "\x0bchunked") + "\r\n"
		switch dice.IntN(10) {
		case 0:
			b.WriteString(length + encoding + "\r\n" + body)
		case 1:
			b.WriteString(encoding + length + "\r\n0\r\n\r\n")
		case 2:
			b.WriteString(length + length + "\r\n" + body)
		case 3:
			b.WriteString("\r\n")
		case 4, 5, 6:
			b.WriteString(length + "\r\n" + body)
		default:
			b.WriteString(encoding + "\r\n")
			for rest := body; rest != ""; {
				n := 1 + dice.IntN(len(rest))
				b.WriteString(pick(fmt.Sprintf("%x", n), fmt.Sprintf("0%X", n), fmt.Sprintf(" %x", n), fmt.Sprintf("%x ", n), fmt.Sprintf("0x%x", n)) +
					pick("", ";a=b", ";", ";a=\"\n\"", "; a") + pick("\r\n", "\n", "\r") + rest[:n] + pick("\r\n", "\n", ""))
				rest = rest[n:]
			}
			b.WriteString("0" + pick("\r\n", "\n", ";x\r\n") + pick("", "X: y\r\n", "X: y\n", "Content-Length: 3\r\n") + pick("\r\n", "\n"))
		}
	}
	s := b.Bytes()
	if dice.IntN(3) == 0 {
		const interesting = "\r\n\x00 \t:;,0aF/%._\x0b\x85\xa0"
		switch at := dice.IntN(len(s)); dice.IntN(3) {
		case 0:
			s[at] = interesting[dice.IntN(len(interesting))]
		case 1:
			s = append(s[:at], s[at+1:]...)
		default:
			s = append(s[:at], append([]byte{interesting[dice.IntN(len(interesting))]}, s[at:]...)...)
		}
	}
	return s
}

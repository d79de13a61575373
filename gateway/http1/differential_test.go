package http1

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// An oracle is net/http's server, asked how it splits a stream.
type oracle struct {
	conns chan net.Conn
	done  chan struct{}

	mu     sync.Mutex
	whole  []request
	fields []http.Header
}

func newOracle(t testing.TB) *oracle {
	o := &oracle{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		o.mu.Lock()
		o.whole = append(o.whole, asked(r, body))
		o.fields = append(o.fields, r.Header)
		o.mu.Unlock()
	})}
	go server.Serve(o)
	t.Cleanup(func() { server.Close() })
	return o
}

// asked is a request as the parser would have it.
func asked(r *http.Request, body []byte) request {
	target := r.RequestURI
	if r.URL.IsAbs() {
		target = r.URL.RequestURI()
	}
	// A query of nothing is no query: "/x?" is passed on as "/x".
	if path, query, _ := strings.Cut(target, "?"); query == "" {
		target = path
	}
	return request{r.Method, target, string(body)}
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
func (o *oracle) split(stream []byte) ([]request, []http.Header) {
	o.mu.Lock()
	o.whole, o.fields = nil, nil
	o.mu.Unlock()
	c := &played{rest: stream, over: make(chan struct{})}
	o.conns <- c
	<-c.over
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.whole, o.fields
}

// A played is a connection on which a client has sent a stream and its end.
type played struct {
	rest []byte
	over chan struct{}
	once sync.Once
}

func (p *played) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *played) Write(b []byte) (int, error) { return len(b), nil }

func (p *played) Close() error {
	p.once.Do(func() { close(p.over) })
	return nil
}

func (p *played) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "here"} }
func (p *played) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "there"} }
func (p *played) SetDeadline(time.Time) error      { return nil }
func (p *played) SetReadDeadline(time.Time) error  { return nil }
func (p *played) SetWriteDeadline(time.Time) error { return nil }

// theirTrailers is how many bytes of trailers net/http reads at least; it refuses
// more than fit into its buffer. What one refuses is split in one way only.
const theirTrailers = 3 << 10

// theEnd is put behind each stream, so that it ends for both in the same way
// wherever it breaks off.
const theEnd = "GET /the-end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// disagreement says in what the parser and net/http differ about a stream that
// comes in pieces of the given size, and whether the parser accepted all of it.
// What we accept must be split by net/http into the very same requests, with
// the same fields; what we execute before we refuse something, it executes too;
// and nothing we accept is ambiguous.
func (o *oracle) disagreement(stream []byte, piece int) (what string, accepted bool) {
	ended := append(bytes.Clone(stream), theEnd...)
	ours, refusal := exchanges(ended, piece)
	if len(ours) == 0 {
		return "", false
	}
	theirs, fields := o.split(ended)
	if n := len(theirs); n < len(ours) && ours[n].trailers > theirTrailers {
		ours, refusal = ours[:n], errTrailers
	}
	if len(theirs) < len(ours) || refusal == nil && len(theirs) != len(ours) {
		return fmt.Sprintf("%d requests here (%v), %d there, which are %.1000q", len(ours), refusal, len(theirs), theirs), false
	}
	for i, e := range ours {
		if theirs[i] != e.request {
			return fmt.Sprintf("request %d: %.500q here, %.500q there", i, e.request, theirs[i]), false
		}
		if why := ambiguity(e.raw); why != "" {
			return fmt.Sprintf("request %d is ambiguous: %s: %.500q", i, why, e.raw), false
		}
		seen := map[string]int{}
		for _, f := range e.fields {
			name, value, _ := strings.Cut(f, ": ")
			name = textproto.CanonicalMIMEHeaderKey(name)
			n := seen[name]
			seen[name]++
			if there := fields[i][name]; n >= len(there) || there[n] != value {
				return fmt.Sprintf("request %d: field %q here, %q there", i, f, there), false
			}
		}
	}
	return "", refusal == nil
}

// A stream that we accept is split by net/http into the very same requests, and
// is not ambiguous.
func TestNothingAcceptedIsSplitOtherwiseElsewhere(t *testing.T) {
	const seed, streams = 20260101, 30000
	n := streams
	if testing.Short() {
		n = 4000
	}
	dice := rand.New(rand.NewPCG(seed, 0))
	o, seeds := newOracle(t), corpus()
	kinds := []struct {
		name     string
		make     func() []byte
		n        int
		accepted int
	}{
		{name: "made of parts", make: func() []byte { return generate(dice) }},
		{name: "changed", make: func() []byte { return mutate(dice, seeds) }},
	}
	for i := range n {
		k := &kinds[i%len(kinds)]
		stream := k.make()
		what, accepted := o.disagreement(stream, 1+dice.IntN(200))
		if what != "" {
			t.Fatalf("seed %d, stream %d, %s\n%q\n%s", seed, i, k.name, stream, what)
		}
		k.n++
		if accepted {
			k.accepted++
		}
	}
	for _, k := range kinds {
		t.Logf("%s: %d of %d streams accepted whole", k.name, k.accepted, k.n)
		if k.accepted < k.n/20 {
			t.Errorf("%s: only %d of %d streams were accepted: the test compares too little", k.name, k.accepted, k.n)
		}
	}
}

// FuzzSplit looks for streams that the parser accepts and net/http splits
// otherwise, or that are ambiguous.
func FuzzSplit(f *testing.F) {
	for _, stream := range corpus() {
		if len(stream) < 2<<10 {
			f.Add(stream, uint8(7))
		}
	}
	o := newOracle(f)
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		if len(stream) > 64<<10 {
			return
		}
		if what, _ := o.disagreement(stream, 1+int(piece)); what != "" {
			t.Fatalf("%q\n%s", stream, what)
		}
	})
}

// corpus is every stream that the tables of the other tests know, in an order
// that is always the same.
func corpus() (seeds [][]byte) {
	for _, name := range slices.Sorted(maps.Keys(legal)) {
		seeds = append(seeds, []byte(legal[name].stream))
	}
	for _, name := range slices.Sorted(maps.Keys(strange)) {
		seeds = append(seeds, []byte(strange[name].stream))
	}
	return seeds
}

// mutate puts one to three streams of the corpus behind each other, more of them
// legal than strange, and changes a few bytes, words or lines of them.
func mutate(dice *rand.Rand, seeds [][]byte) []byte {
	var s []byte
	for range 1 + dice.IntN(3) {
		i := dice.IntN(len(legal))
		if dice.IntN(4) == 0 {
			i = dice.IntN(len(seeds))
		}
		s = append(s, seeds[i]...)
	}
	for range dice.IntN(4) {
		s = change(dice, s, seeds)
	}
	return s
}

// change makes one change of some kind somewhere.
func change(dice *rand.Rand, s []byte, seeds [][]byte) []byte {
	if len(s) < 2 {
		return s
	}
	at := dice.IntN(len(s))
	words := []string{"\r\n", "\n", "\r", "\x00", " ", "\t", "\x0b", "\x0c", "\x85", "\xa0", ":", ";", ",", "0", "%00", "%2e", "%2f", "..", "//", "_", "+", "-", "0x",
		"Content-Length: 3\r\n", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n", "Host: b\r\n", "Host: a\r\n",
		"Connection: close\r\n", "Connection: content-length\r\n", "Expect: 100-continue\r\n", "X: y\r\n", " X: y\r\n", "X : y\r\n", "\r\n\r\n", "0\r\n\r\n", "HTTP/1.0", "chunked"}
	lines := bytes.SplitAfter(s, []byte("\n"))
	line := dice.IntN(len(lines))
	switch dice.IntN(9) {
	case 0:
		s[at] ^= 1 << dice.IntN(8)
		return s
	case 1:
		return slices.Delete(s, at, min(len(s), at+1+dice.IntN(4)))
	case 2, 3:
		return slices.Insert(s, at, []byte(words[dice.IntN(len(words))])...)
	case 4: // a word at the start of a line
		return bytes.Join(slices.Insert(lines, line, []byte(words[dice.IntN(len(words))])), nil)
	case 5: // a line twice
		return bytes.Join(slices.Insert(lines, line, lines[dice.IntN(len(lines))]), nil)
	case 6: // two lines exchanged
		other := dice.IntN(len(lines))
		lines[line], lines[other] = lines[other], lines[line]
		return bytes.Join(lines, nil)
	case 7: // half of another
		other := seeds[dice.IntN(len(seeds))]
		return append(slices.Clone(s[:at]), other[dice.IntN(len(other)):]...)
	default: // the case of letters
		for i := at; i < len(s) && i < at+5; i++ {
			if c := s[i] | 0x20; c >= 'a' && c <= 'z' {
				s[i] ^= 0x20
			}
		}
		return s
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

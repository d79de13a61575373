package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("UPSTREAM_TEST_ENGINE"); mode != "" {
		playEngine(mode)
	}
	goleak.VerifyTestMain(m)
}

// A recorder is a caller that keeps its answer.
type recorder struct {
	status  int
	header  []link.Field
	size    int64
	body    bytes.Buffer
	flushed chan string // receives what was written since the last flush; may be nil
	mark    int
	fail    error // of Write
}

func (r *recorder) Head(status int, header []link.Field, size int64) error {
	r.status, r.header, r.size = status, header, size
	return nil
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.fail != nil {
		return 0, r.fail
	}
	return r.body.Write(p)
}

func (r *recorder) Flush() error {
	if r.flushed != nil {
		r.flushed <- r.body.String()[r.mark:]
		r.mark = r.body.Len()
	}
	return nil
}

// engineAt is an engine without a process, that speaks to l.
func engineAt(t *testing.T, l net.Listener, raw bool) *Engine {
	t.Helper()
	e := New(Config{Raw: raw})
	e.conns.open(l.Addr().(*net.TCPAddr).Port)
	t.Cleanup(func() { e.conns.close(); l.Close() })
	return e
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// scripted answers every request (without a body) on every connection with the
// same bytes and closes when it has, if asked to.
func scripted(l net.Listener, answer string, closing bool) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			in := bufio.NewReader(nc)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					if _, err := io.WriteString(nc, answer); err != nil || closing {
						return
					}
				}
			}
		}()
	}
}

func get(e *Engine, method string) (*recorder, error) {
	w := &recorder{}
	err := e.Do(context.Background(), &agent.Request{Method: method, Path: "/", Body: strings.NewReader("")}, w)
	return w, err
}

func TestAnswersThatCouldBeReadTwoWaysAreRefused(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for sentence, answer := range map[string]string{
		"two lengths":                  ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
		"a length and chunks":          ok + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"lengths in a list":            ok + "Content-Length: 2, 2\r\n\r\nhi",
		"a signed length":              ok + "Content-Length: +2\r\n\r\nhi",
		"an empty length":              ok + "Content-Length:\r\n\r\nhi",
		"a huge length":                ok + "Content-Length: 99999999999999999999\r\n\r\nhi",
		"an unknown coding":            ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"chunks twice":                 ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks in HTTP/1.0":           "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/0.9":                     "hello\r\n",
		"HTTP/2.0":                     "HTTP/2.0 200 OK\r\n\r\n",
		"status 099":                   "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
		"status 1000":                  "HTTP/1.1 1000 High\r\nContent-Length: 0\r\n\r\n",
		"status 600":                   "HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
		"status +20":                   "HTTP/1.1 +20 Odd\r\nContent-Length: 0\r\n\r\n",
		"switching protocols":          "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
		"a thousand interim answers":   strings.Repeat("HTTP/1.1 102 Wait\r\n\r\n", 1000) + ok + "Content-Length: 2\r\n\r\nhi",
		"an interim answer with bytes": "HTTP/1.1 100 Go\r\nContent-Length: 3\r\n\r\nabc" + ok + "Content-Length: 2\r\n\r\nhi",
		"a bare line feed":             "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
		"a bare CR in a value":         ok + "X: a\rb\r\nContent-Length: 2\r\n\r\nhi",
		"a NUL in a value":             ok + "X: a\x00b\r\nContent-Length: 2\r\n\r\nhi",
		"a folded field":               ok + "X: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
		"a blank in a name":            ok + "Content-Length : 2\r\n\r\nhi",
		"no name":                      ok + ": 2\r\n\r\nhi",
		"no colon":                     ok + "nonsense\r\n\r\nhi",
		"a field of a megabyte":        ok + "X: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"fields without end":           ok + strings.Repeat("X: a\r\n", 100_000),
		"200 small fields":             ok + strings.Repeat("X: a\r\n", 200) + "Content-Length: 2\r\n\r\nhi",
		"a body shorter than it says":  ok + "Content-Length: 10\r\n\r\nhi",
		"a body longer than it says":   ok + "Content-Length: 1\r\n\r\nhi",
		"a second answer behind":       ok + "Content-Length: 2\r\n\r\nhi" + ok + "Content-Length: 3\r\n\r\nbad",
		"a body after 204":             "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nhi",
		"an empty answer":              "",
		"a head cut short":             ok + "Content-Le",
	} {
		t.Run(sentence, func(t *testing.T) {
			l := listen(t)
			go scripted(l, answer, true)
			w, err := get(engineAt(t, l, true), "GET")
			if err == nil || errors.Is(err, link.ErrNotTaken) {
				t.Errorf("got %v, want a broken answer", err)
			}
			if w.status != 0 {
				t.Errorf("status %d and %q were passed on", w.status, w.body.String())
			}
		})
	}
}

// These are found out after the head has been passed on: the answer ends in an
// error, never in a whole body.
func TestBrokenBodiesEndInAnError(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	long := strings.Repeat("x", whole+1)
	for sentence, answer := range map[string]string{
		"no chunk size":           ok + "\r\nhi",
		"chunk size xyz":          ok + "xyz\r\nhi",
		"a signed chunk size":     ok + "+2\r\nhi\r\n0\r\n\r\n",
		"a huge chunk size":       ok + "ffffffffffffffffff\r\nhi",
		"a chunk beyond its size": ok + "1\r\nhi\r\n0\r\n\r\n",
		"bare line feeds":         ok + "2\nhi\n0\n\n",
		"5 kB of extensions":      ok + "2;" + strings.Repeat("x", 5000) + "\r\nhi\r\n0\r\n\r\n",
		"a trailer without end":   ok + "0\r\n" + strings.Repeat("X: a\r\n", 10_000),
		"no last chunk":           ok + "2\r\nhi\r\n",
		"a chunk cut short":       ok + "10\r\nhi",
		"bytes behind the end":    ok + "2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"a long body cut short":   fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(long)+1) + long,
	} {
		t.Run(sentence, func(t *testing.T) {
			l := listen(t)
			go scripted(l, answer, true)
			if _, err := get(engineAt(t, l, true), "GET"); err == nil || errors.Is(err, link.ErrNotTaken) {
				t.Errorf("got %v, want a broken answer", err)
			}
		})
	}
}

func TestSoundAnswersPass(t *testing.T) {
	long := strings.Repeat("x", 3*whole)
	for sentence, c := range map[string]struct {
		method, answer string
		closing        bool
		status         int
		size           int64
		body           string
	}{
		"a length":                 {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, 200, 2, "hi"},
		"a long body":              {"GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long), false, 200, int64(len(long)), long},
		"chunks":                   {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;a=b\r\nhi\r\n3 \r\n ho\r\n0\r\nX-Sum: 1\r\n\r\n", false, 200, -1, "hi ho"},
		"the connection's end":     {"GET", "HTTP/1.1 200 OK\r\n\r\nto the end", true, 200, -1, "to the end"},
		"HTTP/1.0":                 {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", true, 200, 2, "hi"},
		"no reason phrase":         {"GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, 200, 0, ""},
		"an interim answer before": {"GET", "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, 200, 2, "hi"},
		"HEAD":                     {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false, 200, 0, ""},
		"204":                      {"GET", "HTTP/1.1 204 No\r\n\r\n", false, 204, 0, ""},
		"304 with a length":        {"GET", "HTTP/1.1 304 Same\r\nContent-Length: 2\r\n\r\n", false, 304, 0, ""},
		"the engine's own 500":     {"GET", "HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", false, 500, 2, "no"},
	} {
		t.Run(sentence, func(t *testing.T) {
			l := listen(t)
			go scripted(l, c.answer, c.closing)
			e := engineAt(t, l, true)
			for range 2 { // the second may be on the same connection
				w, err := get(e, c.method)
				if err != nil || w.status != c.status || w.size != c.size || w.body.String() != c.body {
					t.Errorf("got %d, size %d, %.40q, %v; want %d, %d, %.40q", w.status, w.size, w.body.String(), err, c.status, c.size, c.body)
				}
			}
			if idle := len(e.conns.idle); idle == 1 == c.closing {
				t.Errorf("%d idle connections", idle)
			}
		})
	}
}

func TestFieldsOfOneConnectionStayThere(t *testing.T) {
	l := listen(t)
	asked := make(chan string, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		in, head := bufio.NewReader(nc), ""
		for !strings.HasSuffix(head, "\r\n\r\n") {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			head += line
		}
		asked <- head
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nConnection: close, X-Private\r\nX-Private: a\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
	}()
	e := engineAt(t, l, true)
	w := &recorder{}
	r := &agent.Request{Method: "GET", Path: "/a?b", Body: strings.NewReader(""), Header: []link.Field{
		{Name: "Host", Value: "elsewhere"}, {Name: "Connection", Value: "upgrade"}, {Name: "Upgrade", Value: "x"}, {Name: "TE", Value: "trailers"},
		{Name: "Transfer-Encoding", Value: "chunked"}, {Name: "Content-Length", Value: "5"}, {Name: "Expect", Value: "100-continue"},
		{Name: "X-Evil", Value: "a\r\nX-Split: b"}, {Name: "Accept", Value: "*/*"}}}
	if err := e.Do(t.Context(), r, w); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("GET /a?b HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\n\r\n", l.Addr()); <-asked != want {
		t.Errorf("the engine was not asked as %q", want)
	}
	if want := []link.Field{{Name: "Set-Cookie", Value: "a=b"}}; !reflect.DeepEqual(w.header, want) {
		t.Errorf("passed on %v, want %v", w.header, want)
	}
	if len(e.conns.idle) != 0 {
		t.Error("a connection that the engine closes is kept")
	}
}

func TestStreamedAnswerIsFlushedPieceByPiece(t *testing.T) {
	l := listen(t)
	next := make(chan string)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for piece := range next {
			fmt.Fprintf(nc, "%x\r\n%s\r\n", len(piece), piece)
		}
		io.WriteString(nc, "0\r\n\r\n")
		io.Copy(io.Discard, nc)
	}()
	e := engineAt(t, l, true)
	w := &recorder{flushed: make(chan string)}
	done := make(chan error)
	go func() {
		done <- e.Do(context.Background(), &agent.Request{Method: "GET", Path: "/", Body: strings.NewReader("")}, w)
	}()
	for _, piece := range []string{"data: 1\n\n", "data: 2\n\n"} {
		next <- piece
		if got := <-w.flushed; got != piece {
			t.Errorf("got %q, want %q", got, piece)
		}
	}
	close(next)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLongAndUnmeasuredBodiesReachTheEngine(t *testing.T) {
	body := strings.Repeat("0123456789", whole/5)
	for sentence, size := range map[string]int64{"a length": int64(len(body)), "chunks": -1} {
		t.Run(sentence, func(t *testing.T) {
			l := listen(t)
			got := make(chan string, 1)
			go func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				in := bufio.NewReader(nc)
				for line := ""; line != "\r\n"; {
					if line, err = in.ReadString('\n'); err != nil {
						return
					}
				}
				var src io.Reader = io.LimitReader(in, size)
				if size < 0 {
					src = httputil.NewChunkedReader(in)
				}
				b, _ := io.ReadAll(src)
				got <- string(b)
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				io.Copy(io.Discard, nc)
			}()
			e := engineAt(t, l, true)
			err := e.Do(t.Context(), &agent.Request{Method: "POST", Path: "/", Body: strings.NewReader(body), Size: size}, &recorder{})
			if err != nil {
				t.Fatal(err)
			}
			if b := <-got; b != body {
				t.Errorf("%d bytes came, want %d", len(b), len(body))
			}
		})
	}
}

func TestEarlyAnswerEndsTheUpload(t *testing.T) {
	l := listen(t)
	go scripted(l, "HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n", false)
	e := engineAt(t, l, true)
	r, stuck := io.Pipe()
	defer stuck.Close()
	go stuck.Write([]byte("start"))
	w := &recorder{}
	if err := e.Do(t.Context(), &agent.Request{Method: "POST", Path: "/", Body: r, Size: -1}, w); err != nil || w.status != 413 {
		t.Errorf("got %d, %v", w.status, err)
	}
	if len(e.conns.idle) != 0 {
		t.Error("a connection with half a request on it is kept")
	}
}

func TestLeavingClientFreesARawEngineAtOnceAndWaitsForAnyOther(t *testing.T) {
	for _, raw := range []bool{true, false} {
		t.Run(fmt.Sprint("raw ", raw), func(t *testing.T) {
			l := listen(t)
			finish, closed := make(chan bool), make(chan bool, 1)
			asked := make(chan bool, 1)
			go func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				nc.Read(make([]byte, 1000))
				asked <- true
				go func() { nc.Read(make([]byte, 1)); closed <- true }()
				<-finish
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}()
			e := engineAt(t, l, raw)
			ctx, leave := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- e.Do(ctx, &agent.Request{Method: "GET", Path: "/ping", Body: strings.NewReader("")}, &recorder{})
			}()
			<-asked
			leave()
			if raw {
				<-closed
			} else {
				select {
				case err := <-done:
					t.Fatalf("Do returned (%v) while the engine was at work", err)
				case <-time.After(50 * time.Millisecond):
				}
			}
			close(finish)
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEngineThatIsNotThereHasNotSeenTheRequest(t *testing.T) {
	l := listen(t)
	e := engineAt(t, l, true)
	l.Close()
	if _, err := get(e, "GET"); !errors.Is(err, link.ErrNotTaken) {
		t.Errorf("got %v, want not taken", err)
	}
}

func TestOnlyScoringRoutesPassUnlessRaw(t *testing.T) {
	l := listen(t)
	go scripted(l, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)
	e := engineAt(t, l, false)
	for request, want := range map[string]int{"POST /invocations?a": 200, "GET /ping": 200, "GET /version": 200,
		"GET /invocations": 405, "POST /ping": 405, "GET /admin": 404, "DELETE /": 404} {
		method, path, _ := strings.Cut(request, " ")
		w := &recorder{}
		err := e.Do(t.Context(), &agent.Request{Method: method, Path: path, Body: strings.NewReader("")}, w)
		if err != nil || w.status != want {
			t.Errorf("%s: got %d, %v; want %d", request, w.status, err, want)
		}
	}
}

// Whatever an engine says, it is understood or refused, within bounds.
func FuzzAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n")
	f.Add("HTTP/1.1 100 Go\r\n\r\nHTTP/1.0 200 OK\r\nConnection: x\r\n\r\nrest")
	f.Fuzz(func(t *testing.T, answer string) {
		in := bufio.NewReaderSize(strings.NewReader(answer), maxHead)
		h, err := readHead(in, "GET")
		if err != nil {
			return
		}
		for _, field := range h.header {
			if !token(field.Name) || !plain(field.Value) || strings.ContainsAny(field.Name+field.Value, "\r\n\x00") {
				t.Errorf("field %q: %q was passed on", field.Name, field.Value)
			}
		}
		n, err := io.Copy(io.Discard, &body{in: in, left: h.size, chunked: h.chunked})
		if n > int64(len(answer)) || err == nil && h.size >= 0 && n != h.size {
			t.Errorf("%d body bytes (%v), the head said %d", n, err, h.size)
		}
	})
}

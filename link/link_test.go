package link_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with the request's method, path and body.
func echo(ctx context.Context, in *link.Incoming) {
	body, err := io.ReadAll(in)
	if err != nil {
		in.Fail(err.Error())
		return
	}
	in.Reply(&link.Answer{Status: 200, Size: int64(len(body)), Header: []link.Field{{Name: "X-Asked", Value: in.Method + " " + in.Path}}})
	in.Write(body)
}

// pair is a gateway's connection to a server with that load line.
type pair struct {
	*link.Server
	*link.Conn
	granted chan int
}

func connect(t *testing.T, s *link.Server, h link.Hooks) *pair {
	t.Helper()
	a, b := net.Pipe()
	return join(t, s, h, a, b)
}

func join(t *testing.T, s *link.Server, h link.Hooks, a, b net.Conn) *pair {
	t.Helper()
	p := &pair{Server: s, granted: make(chan int, 100)}
	h.Granted = func(n int) { p.granted <- n }
	go s.ServeConn(b)
	c, err := link.NewConn(t.Context(), a, h)
	if err != nil {
		t.Fatal(err)
	}
	p.Conn = c
	t.Cleanup(func() { c.Close(); <-c.Done(); s.Close() })
	return p
}

// wait returns once the grants add up to n.
func (p *pair) wait(t *testing.T, n int) {
	t.Helper()
	for n != 0 {
		select {
		case d := <-p.granted:
			n -= d
		case <-time.After(5 * time.Second):
			t.Fatalf("waited in vain for %d more places", n)
		}
	}
}

func ask(c *link.Conn, body string) (string, error) {
	s, err := c.Open(&link.Request{Method: "POST", Path: "/invocations", Size: int64(len(body))}, []byte(body), true)
	if err != nil {
		return "", err
	}
	defer s.Close()
	return answer(s)
}

func answer(s *link.Stream) (string, error) {
	a, err := s.Answer(context.Background())
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(s)
	return fmt.Sprint(a.Status, a.Header, " ", string(b)), err
}

func TestRequestIsAnsweredOverAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := link.NewServer(echo, nil)
	s.SetLine(2)
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	granted := make(chan int, 10)
	c, err := link.Dial(t.Context(), path, link.Hooks{Granted: func(n int) { granted <- n }})
	if err != nil {
		t.Fatal(err)
	}
	if n := <-granted; n != 2 {
		t.Errorf("%d places were granted, want 2", n)
	}
	got, err := ask(c, "hello")
	if want := "200 [{X-Asked POST /invocations}] hello"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	c.Close()
	<-c.Done()
	s.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestManyRequestsShareAConnection(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.SetLine(8)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 8)
	go func() { // the sum of grants is not looked at any more
		for range p.granted {
		}
	}()
	defer func() { p.Conn.Close(); <-p.Conn.Done(); close(p.granted) }()
	var wg sync.WaitGroup
	var answered atomic.Int32
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				body := fmt.Sprint(g, "/", i)
				got, err := ask(p.Conn, body)
				for errors.Is(err, link.ErrNoPlace) {
					got, err = ask(p.Conn, body)
				}
				if err != nil || !strings.HasSuffix(got, " "+body) {
					t.Errorf("got %q, %v; want %q", got, err, body)
					return
				}
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	if n := answered.Load(); n != 1600 {
		t.Errorf("%d answers, want 1600", n)
	}
}

// What carried one request carries the next, and nothing of the one before.
func TestRequestAfterAnotherStartsAnew(t *testing.T) {
	type seen struct {
		path, header, body string
		deadline           bool
		ended              error
	}
	heard := make(chan seen, 1)
	over := make(chan struct{})
	s := link.NewServer(func(ctx context.Context, in *link.Incoming) {
		body, _ := io.ReadAll(in)
		_, deadline := ctx.Deadline()
		heard <- seen{strings.Clone(in.Path), strings.Clone(fmt.Sprint(in.Header)), string(body), deadline, ctx.Err()}
		if in.Path == "/kept" {
			context.AfterFunc(ctx, func() { close(over) })
		}
		in.Reply(&link.Answer{Status: 200, Size: 0})
	}, nil)
	s.SetLine(1)
	p := connect(t, s, link.Hooks{})
	for _, r := range []link.Request{
		{Path: "/long", Timeout: time.Minute, Header: []link.Field{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}},
		{Path: "/kept", Timeout: time.Minute},
		{Path: "/", Header: []link.Field{{Name: "c", Value: "3"}}},
	} {
		p.wait(t, 1)
		st, err := p.Open(&r, []byte(r.Path), true)
		if err != nil {
			t.Fatal(err)
		}
		want := seen{r.Path, fmt.Sprint(r.Header), r.Path, r.Timeout > 0, nil}
		if got := <-heard; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if _, err := answer(st); err != nil {
			t.Error(err)
		}
		st.Close()
	}
	select {
	case <-over:
	case <-time.After(5 * time.Second):
		t.Error("the context of a request outlives it")
	}
}

func TestLargeBodiesPassBothWaysThroughTheirWindows(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.SetLine(1)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 1)
	body := bytes.Repeat([]byte("0123456789abcdef"), 5*link.Window/16)
	got, err := ask(p.Conn, string(body))
	if err != nil || !strings.HasSuffix(got, " "+string(body)) {
		t.Errorf("%d bytes came back (%v), want %d", len(got), err, len(body))
	}
}

func TestSlowReaderHoldsBackTheWriterAndNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wrote atomic.Int64
		s := link.NewServer(func(ctx context.Context, in *link.Incoming) {
			in.Reply(&link.Answer{Status: 200, Size: -1})
			if in.Path == "/flood" {
				for {
					n, err := in.Write(make([]byte, 10_000))
					if err != nil {
						return
					}
					wrote.Add(int64(n))
				}
			}
		}, nil)
		s.SetLine(2)
		p := connect(t, s, link.Hooks{})
		p.wait(t, 2)
		flood, err := p.Open(&link.Request{Path: "/flood"}, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := flood.Answer(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := wrote.Load(); n > link.Window {
			t.Errorf("%d bytes were written to a reader that does not read, want at most %d", n, link.Window)
		}
		if _, err := ask(p.Conn, ""); err != nil {
			t.Errorf("another request beside a slow reader: %v", err)
		}
		if _, err := io.CopyN(io.Discard, flood, 3*link.Window); err != nil {
			t.Error(err)
		}
		flood.Close()
		synctest.Wait()
		p.Conn.Close()
		<-p.Conn.Done()
		s.Close()
	})
}

func TestOpenWithoutAPlaceIsNotTaken(t *testing.T) {
	s := link.NewServer(echo, nil)
	p := connect(t, s, link.Hooks{})
	if _, err := ask(p.Conn, ""); !errors.Is(err, link.ErrNoPlace) || !errors.Is(err, link.ErrNotTaken) {
		t.Errorf("got %v, want %v", err, link.ErrNoPlace)
	}
}

func TestRefusedRequestIsNotTaken(t *testing.T) {
	s := link.NewServer(func(_ context.Context, in *link.Incoming) { in.Refuse("the engine is gone") }, nil)
	s.SetLine(1)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 1)
	_, err := ask(p.Conn, "x")
	if !errors.Is(err, link.ErrNotTaken) || !strings.Contains(err.Error(), "the engine is gone") {
		t.Errorf("got %v, want not taken, with its reason", err)
	}
	p.wait(t, 1) // the place is free again
}

func TestFailedAndForgottenAnswersAreBroken(t *testing.T) {
	for sentence, handler := range map[string]link.Handler{
		"no answer was given": func(context.Context, *link.Incoming) {},
		"engine died":         func(_ context.Context, in *link.Incoming) { in.Fail("engine died") },
		"in the middle": func(_ context.Context, in *link.Incoming) {
			in.Reply(&link.Answer{Status: 200, Size: 10})
			in.Write([]byte("half"))
			in.Fail("in the middle")
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			s := link.NewServer(handler, nil)
			s.SetLine(1)
			p := connect(t, s, link.Hooks{})
			p.wait(t, 1)
			_, err := ask(p.Conn, "x")
			broken, ok := errors.AsType[*link.BrokenError](err)
			if !ok || !broken.Taken || broken.Why != sentence || errors.Is(err, link.ErrNotTaken) {
				t.Errorf("got %#v, want it broken because %q", err, sentence)
			}
		})
	}
}

func TestCancelReachesTheHandler(t *testing.T) {
	left := make(chan error, 1)
	started := make(chan bool, 1)
	s := link.NewServer(func(ctx context.Context, in *link.Incoming) {
		started <- true
		<-ctx.Done()
		left <- context.Cause(ctx)
		if _, err := in.Read(make([]byte, 1)); !errors.Is(err, link.ErrCancelled) {
			t.Errorf("read after cancel: %v", err)
		}
	}, nil)
	s.SetLine(1)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 1)
	r, err := p.Open(&link.Request{Method: "POST"}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	<-started
	waiting := make(chan error)
	go func() { _, err := r.Answer(context.Background()); waiting <- err }()
	start := time.Now()
	r.Cancel()
	if err := <-left; !errors.Is(err, link.ErrCancelled) {
		t.Errorf("the handler's context ended with %v", err)
	}
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("cancel took %v to arrive, want at most 100ms", took)
	}
	if err := <-waiting; !errors.Is(err, link.ErrCancelled) {
		t.Errorf("who waited for the answer got %v", err)
	}
	p.wait(t, 1)
}

func TestDeadlineIsADurationOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		s := link.NewServer(func(ctx context.Context, in *link.Incoming) {
			start := time.Now()
			<-ctx.Done()
			took <- time.Since(start)
			in.Reply(&link.Answer{Status: 504})
		}, nil)
		s.SetLine(1)
		p := connect(t, s, link.Hooks{})
		p.wait(t, 1)
		r, err := p.Open(&link.Request{Timeout: 7 * time.Second}, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := answer(r); got != "504 [] " || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if d := <-took; d != 7*time.Second {
			t.Errorf("the context ended after %v, want 7s", d)
		}
		p.Conn.Close()
		<-p.Conn.Done()
		s.Close()
	})
}

func TestAnswerBeforeTheBodyEndsTheBody(t *testing.T) {
	s := link.NewServer(func(_ context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 413, Size: 0})
	}, nil)
	s.SetLine(1)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 1)
	r, err := p.Open(&link.Request{Method: "POST", Size: -1}, []byte("start"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for err == nil {
		err = r.Write(make([]byte, 1000), false)
	}
	if !errors.Is(err, link.ErrAnswered) {
		t.Errorf("writing on ended with %v, want %v", err, link.ErrAnswered)
	}
	if got, err := answer(r); got != "413 [] " || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestIdlePlacesAreRecalledForWhoWaits(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.SetLine(4)
	first := connect(t, s, link.Hooks{})
	first.wait(t, 4)
	second := connect(t, s, link.Hooks{})
	second.Want(3)
	second.wait(t, 3)
	first.wait(t, -3)
	if a, b := first.Places(), second.Places(); a != 1 || b != 3 {
		t.Errorf("%d and %d places, want 1 and 3", a, b)
	}
}

func TestPlacesOfALostConnectionGoToOthers(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.SetLine(3)
	first := connect(t, s, link.Hooks{})
	first.wait(t, 3)
	second := connect(t, s, link.Hooks{})
	first.Conn.Close()
	<-first.Conn.Done()
	second.wait(t, 3)
	first.wait(t, -3)
}

func TestLoweredLineTakesPlacesBack(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.SetLine(5)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 5)
	p.Want(5)
	s.SetLine(2)
	p.wait(t, -3)
	s.SetLine(3)
	p.wait(t, 1)
}

func TestDrainFinishesWhatIsInsideAndTakesNothingNew(t *testing.T) {
	begun, finish := make(chan bool), make(chan bool)
	s := link.NewServer(func(_ context.Context, in *link.Incoming) {
		close(begun)
		<-finish
		in.Reply(&link.Answer{Status: 200})
	}, nil)
	s.SetLine(2)
	draining := make(chan bool, 1)
	p := connect(t, s, link.Hooks{Draining: func() { draining <- true }})
	p.wait(t, 2)
	r, err := p.Open(&link.Request{}, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	drained := make(chan error)
	go func() { drained <- s.Drain(t.Context()) }()
	p.wait(t, -1)
	<-draining
	if _, err := p.Open(&link.Request{}, nil, true); !errors.Is(err, link.ErrNotTaken) {
		t.Errorf("a draining agent took a request: %v", err)
	}
	select {
	case err := <-drained:
		t.Errorf("drained (%v) with a request inside", err)
	default:
	}
	close(finish)
	if got, err := answer(r); got != "200 [] " || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Errorf("draining again: %v", err)
	}
}

func TestBrokenConnectionBreaksItsRequestsAndCancelsTheirs(t *testing.T) {
	gone := make(chan bool)
	s := link.NewServer(func(ctx context.Context, in *link.Incoming) {
		in.Reply(&link.Answer{Status: 200, Size: -1})
		in.Write([]byte("begun"))
		in.Flush()
		<-ctx.Done()
		close(gone)
	}, nil)
	s.SetLine(1)
	a, b := net.Pipe()
	closed := make(chan error, 1)
	p := join(t, s, link.Hooks{Closed: func(err error) { closed <- err }}, a, b)
	p.wait(t, 1)
	r, err := p.Open(&link.Request{}, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	_, err = r.Read(make([]byte, 1))
	if broken, ok := errors.AsType[*link.BrokenError](err); !ok || !broken.Taken {
		t.Errorf("got %v, want a broken answer", err)
	}
	<-gone
	if err := <-closed; err == nil {
		t.Error("Closed was called without a reason")
	}
}

func TestLoadIsReportedWithAnswersAndOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := link.NewServer(echo, func(l *link.Load) {
			l.State, l.Service, l.Waiting, l.Answered, l.Restarts = serving.Ready, 3*time.Millisecond, 1, 7, 2
		})
		s.SetLine(3)
		var mu sync.Mutex
		var loads []link.Load
		p := connect(t, s, link.Hooks{Load: func(l link.Load) {
			mu.Lock()
			defer mu.Unlock()
			loads = append(loads, l)
		}})
		p.wait(t, 3)
		if _, err := ask(p.Conn, "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5500 * time.Millisecond)
		p.Conn.Close()
		<-p.Conn.Done()
		s.Close()
		// One in greeting, one with the answer, then five beats less the first,
		// which the answer made needless.
		if len(loads) != 6 {
			t.Fatalf("%d reports, want 6: %v", len(loads), loads)
		}
		want := link.Load{Sequence: 2, Line: 3, Waiting: 1, Service: 3 * time.Millisecond, State: serving.Ready,
			Counters: link.Counters{Answered: 7, Restarts: 2}}
		if loads[1] != want {
			t.Errorf("got %+v, want %+v", loads[1], want)
		}
		if !slices.IsSortedFunc(loads, func(a, b link.Load) int { return int(a.Sequence) - int(b.Sequence) }) {
			t.Errorf("sequence runs back: %v", loads)
		}
	})
}

func TestSilentAgentIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		go func() {
			io.ReadFull(b, make([]byte, 18))
			b.Write([]byte("\x06\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00LLNK\x01\x00"))
			io.Copy(io.Discard, b)
		}()
		start := time.Now()
		closed := make(chan error, 1)
		c, err := link.NewConn(t.Context(), a, link.Hooks{Closed: func(err error) { closed <- err }})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-closed; !strings.Contains(err.Error(), "nothing was heard for 10s") {
			t.Errorf("closed because %v", err)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("given up after %v, want 10s", took)
		}
		<-c.Done()
		b.Close()
	})
}

func TestConnectionNotAdmittedIsClosed(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.Admit = func(net.Conn) error { return errors.New("a stranger") }
	a, b := net.Pipe()
	go s.ServeConn(b)
	if _, err := link.NewConn(t.Context(), a, link.Hooks{}); err == nil {
		t.Error("a stranger was admitted")
	}
	s.Close()
}

func TestSlowGreetingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := link.NewConn(ctx, a, link.Hooks{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		b.Close()
	})
}

func TestTooLargeAHeadIsRefusedAndCostsNoPlace(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.SetLine(1)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 1)
	_, err := p.Open(&link.Request{Path: strings.Repeat("x", 100_000)}, nil, true)
	if !errors.Is(err, serving.Invalid) {
		t.Errorf("got %v, want an invalid request", err)
	}
	if got, err := ask(p.Conn, "small"); err != nil || !strings.HasSuffix(got, "small") {
		t.Errorf("got %q, %v", got, err)
	}
}

// A request that was on its way when the agent began to drain is answered or
// refused; its fate is never left open by a connection that breaks.
func TestDrainLeavesNoRequestInDoubt(t *testing.T) {
	for range 200 {
		s := link.NewServer(echo, nil)
		s.SetLine(1)
		p := connect(t, s, link.Hooks{})
		p.wait(t, 1)
		go func() { s.Drain(context.Background()); s.Close() }()
		r, err := p.Open(&link.Request{}, []byte("x"), true)
		if err == nil {
			_, err = answer(r)
			r.Close()
		}
		if err != nil && !errors.Is(err, link.ErrNotTaken) {
			t.Fatalf("nobody knows what became of a request: %v", err)
		}
		<-p.Done()
	}
}

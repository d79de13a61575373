package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("AGENT_TEST_DIR"); dir != "" {
		beAgent(dir)
	}
	goleak.VerifyTestMain(m)
}

// beAgent is what the test binary does when it is started as an agent.
func beAgent(dir string) {
	ctx, drain, stop := agent.Signals(context.Background())
	defer stop()
	err := agent.Run(ctx, agent.Options{Dir: dir, Drain: drain, Log: slog.New(slog.DiscardHandler),
		Command: func(_ serving.Assignment, argv []string, _ map[string]string, _ []int) (*exec.Cmd, error) {
			return exec.Command(argv[0], argv[1:]...), nil
		},
		Engine: func(l *agent.Launch) agent.Engine { return &shell{launch: l, done: make(chan struct{})} },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A shell is an engine whose process is a shell command, and whose answers are
// a function of the test's.
type shell struct {
	launch *agent.Launch
	do     func(ctx context.Context, r *agent.Request, w agent.Answerer) error
	load   func(ctx context.Context) error // after the process has started
	health func(ctx context.Context) error // nil is well
	cmd    *exec.Cmd
	done   chan struct{}
}

func (s *shell) Start(ctx context.Context) error {
	cmd, err := s.launch.Command(0)
	if err != nil {
		return err
	}
	if err := s.launch.Spawn(cmd); err != nil {
		return err
	}
	s.cmd = cmd
	go func() { cmd.Wait(); close(s.done) }()
	if s.load != nil {
		return s.load(ctx)
	}
	return nil
}

func (s *shell) Do(ctx context.Context, r *agent.Request, w agent.Answerer) error {
	return s.do(ctx, r, w)
}
func (s *shell) Healthy(ctx context.Context) error {
	if s.health == nil {
		return nil
	}
	return s.health(ctx)
}
func (s *shell) Done() <-chan struct{} { return s.done }
func (s *shell) Stop(time.Duration) {
	if s.cmd != nil {
		syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.done
	}
}
func (s *shell) PID() int { return s.cmd.Process.Pid }

// A scene is a running agent.
type scene struct {
	t     testing.TB
	dir   string
	drain chan struct{}
	end   context.CancelFunc
	over  chan error
}

// stage starts an agent whose engine runs the shell command and answers by do.
func stage(t testing.TB, command string, change func(*serving.Assignment), tune func(*shell)) *scene {
	t.Helper()
	s := &scene{t: t, dir: t.TempDir(), drain: make(chan struct{}), over: make(chan error, 2)}
	a := serving.Assignment{Replica: "r1", Endpoint: "iris", Revision: serving.Revision{Digest: "d"}, Recipe: serving.Recipe{
		Launch: serving.Launch{Protocol: serving.Worker, Argv: []string{"/bin/sh", "-c", command}, Vars: map[string]string{"PATH": "/usr/bin:/bin", "API_TOKEN": "hunter22"}},
	}}
	if change != nil {
		change(&a)
	}
	data, err := json.Marshal(a)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "spec.json"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.end = cancel
	o := agent.Options{Dir: s.dir, Drain: s.drain, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Command: func(_ serving.Assignment, argv []string, vars map[string]string, _ []int) (*exec.Cmd, error) {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Env = []string{}
			for k, v := range vars {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			return cmd, nil
		},
		Engine: func(l *agent.Launch) agent.Engine {
			e := &shell{launch: l, done: make(chan struct{}), do: func(_ context.Context, _ *agent.Request, w agent.Answerer) error {
				return say(w, 200, "yes")
			}}
			if tune != nil {
				tune(e)
			}
			return e
		},
	}
	go func() { s.over <- agent.Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-s.over; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func say(w agent.Answerer, status int, body string) error {
	if err := w.Head(status, nil, int64(len(body))); err != nil {
		return err
	}
	_, err := w.Write([]byte(body))
	return err
}

// get reads state.json.
func (s *scene) get() (r serving.Replica) {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "state.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatalf("state.json is not whole: %v", err)
	}
	return r
}

// state waits until state.json satisfies fit.
func (s *scene) state(want string, fit func(serving.Replica) bool) serving.Replica {
	s.t.Helper()
	var r serving.Replica
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		r = s.get()
		if !r.Started.IsZero() && fit(r) {
			return r
		}
	}
	s.t.Fatalf("the replica never was %s; it is %+v", want, r)
	return r
}

func (s *scene) ready() serving.Replica {
	s.t.Helper()
	return s.state("ready", func(r serving.Replica) bool { return r.State == serving.Ready })
}

// dial connects and waits for a place.
func (s *scene) dial() *link.Conn {
	s.t.Helper()
	places := make(chan int, 1)
	c, err := link.Dial(s.t.Context(), filepath.Join(s.dir, "agent.sock"), link.Hooks{Granted: func(n int) {
		select {
		case places <- n:
		default: // only the first is waited for
		}
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close(); <-c.Done() })
	select {
	case <-places:
	case <-time.After(5 * time.Second):
		s.t.Fatal("no place was granted")
	}
	return c
}

// again waits until c holds a place.
func again(c *link.Conn) *link.Conn {
	for end := time.Now().Add(5 * time.Second); c.Places() == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	return c
}

// insist asks until the request is taken, as a gateway does.
func insist(c *link.Conn, r link.Request) (status int, body string, err error) {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if status, body, err = ask(again(c), r); !errors.Is(err, link.ErrNotTaken) {
			break
		}
	}
	return status, body, err
}

func ask(c *link.Conn, r link.Request) (int, string, error) {
	r.Method = "POST"
	st, err := c.Open(&r, nil, true)
	if err != nil {
		return 0, "", err
	}
	defer st.Close()
	a, err := st.Answer(context.Background())
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(st)
	return a.Status, string(b), err
}

func example(a *serving.Assignment) {
	a.Recipe.Example, a.Recipe.ExampleType = []byte(`{"inputs":[1]}`), "application/json"
}

func TestReplicaIsReadyOnceItsExampleWasAnswered(t *testing.T) {
	got := make(chan string, 1)
	s := stage(t, "exec sleep 1000", example, func(e *shell) {
		e.do = func(_ context.Context, r *agent.Request, w agent.Answerer) error {
			b, err := io.ReadAll(r.Body)
			got <- fmt.Sprintf("%s %s %s %s", r.Method, r.Path, r.ContentType, b)
			return errors.Join(err, say(w, 200, "yes"))
		}
	})
	r := s.ready()
	if want := `POST /invocations application/json {"inputs":[1]}`; <-got != want {
		t.Errorf("the example was not asked as %q", want)
	}
	if r.ID != "r1" || r.Engine == 0 || r.PID != os.Getpid() || r.Addr != filepath.Join(s.dir, "agent.sock") || r.Since.IsZero() {
		t.Errorf("state.json says %+v", r)
	}
	if status, body, err := ask(s.dial(), link.Request{}); status != 200 || body != "yes" || err != nil {
		t.Errorf("got %d %q, %v", status, body, err)
	}
}

func TestReplicaThatRefusesItsExampleFailsAndSaysWhy(t *testing.T) {
	t.Parallel()
	s := stage(t, "exec sleep 1000", example, func(e *shell) {
		e.do = func(_ context.Context, _ *agent.Request, w agent.Answerer) error {
			return say(w, 400, `{"error_code":"BAD_REQUEST"}`)
		}
	})
	r := s.state("failed", func(r serving.Replica) bool {
		if r.State == serving.Ready {
			t.Error("it was ready")
		}
		return r.State == serving.Failed
	})
	if want := `answer its own example: status 400: {"error_code":"BAD_REQUEST"}`; r.Why != want || r.Restarts != 4 {
		t.Errorf("why %q after %d restarts, want %q after 4", r.Why, r.Restarts, want)
	}
}

func TestEngineThatCannotLoadSaysItsDecisiveLine(t *testing.T) {
	t.Parallel()
	trace := `Traceback (most recent call last):
  File "x.py", line 1, in <module>
ModuleNotFoundError: No module named 'torch'
cleaning up`
	s := stage(t, "printf '%s\\n' \""+trace+"\" >&2; exit 1", nil, func(e *shell) {
		e.load = func(context.Context) error { <-e.done; return errors.New("the engine ended") }
	})
	r := s.state("backing off", func(r serving.Replica) bool { return r.State == serving.Backoff })
	if want := "ModuleNotFoundError: No module named 'torch'"; r.Why != want {
		t.Errorf("why %q, want %q", r.Why, want)
	}
}

func TestEngineThatIsNotReadyInTimeIsKilled(t *testing.T) {
	t.Parallel()
	s := stage(t, "echo 'loading layer 3' >&2; exec sleep 1000", func(a *serving.Assignment) {
		a.Recipe.Limits.Start = 300 * time.Millisecond
	}, func(e *shell) {
		e.load = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	})
	r := s.state("failed", func(r serving.Replica) bool { return r.State == serving.Failed })
	for _, want := range []string{"not ready after 300ms, so it was killed", "loading layer 3"} {
		if !strings.Contains(r.Why, want) {
			t.Errorf("why %q does not say %q", r.Why, want)
		}
	}
}

func TestKilledEngineIsStartedAgain(t *testing.T) {
	entered := make(chan bool, 1)
	s := stage(t, "exec sleep 1000", nil, func(e *shell) {
		e.do = func(ctx context.Context, r *agent.Request, w agent.Answerer) error {
			if r.Path != "/wait" {
				return say(w, 200, "yes")
			}
			entered <- true
			<-e.done
			return errors.New("the engine died inside a request")
		}
	})
	first := s.ready()
	c := s.dial()
	lost := make(chan error, 1)
	go func() { _, _, err := ask(c, link.Request{Path: "/wait"}); lost <- err }()
	<-entered
	start := time.Now()
	syscall.Kill(first.Engine, syscall.SIGKILL)
	if broken, ok := errors.AsType[*link.BrokenError](<-lost); !ok || !broken.Taken {
		t.Errorf("the request inside got %v, want it broken and taken", broken)
	}
	second := s.state("ready again", func(r serving.Replica) bool {
		return r.State == serving.Ready && r.Engine != first.Engine
	})
	if took := time.Since(start); took > 5*time.Second { // 0.1 s, on a machine with nothing else to do
		t.Errorf("ready again after %v", took)
	}
	if second.Restarts != 1 {
		t.Errorf("%d restarts, want 1", second.Restarts)
	}
	if status, _, err := ask(again(c), link.Request{}); status != 200 {
		t.Errorf("got %d, %v", status, err)
	}
	log, _ := os.ReadFile(filepath.Join(s.dir, "engine.log"))
	if !strings.Contains(string(log), "killed by signal: killed (SIGKILL") {
		t.Errorf("engine.log says %q", log)
	}
}

func TestRequestPastItsDeadlineIsAnsweredAndAHangKilled(t *testing.T) {
	t.Parallel()
	s := stage(t, "exec sleep 1000", func(a *serving.Assignment) { a.Recipe.Limits.Request = 200 * time.Millisecond }, func(e *shell) {
		e.do = func(ctx context.Context, r *agent.Request, w agent.Answerer) error {
			switch r.Path {
			case "/slow": // comes back as soon as it may
				<-ctx.Done()
				return ctx.Err()
			case "/hang":
				<-e.done
				return errors.New("died")
			}
			return say(w, 200, "yes")
		}
	})
	first := s.ready()
	c := s.dial()
	for _, path := range []string{"/slow", "/hang"} {
		status, body, err := insist(c, link.Request{Path: path, Timeout: time.Minute})
		if status != 504 || body != "Request processing time exceeded limit" || err != nil {
			t.Errorf("%s: got %d %q, %v", path, status, body, err)
		}
	}
	if now := s.get(); now.Engine != first.Engine || now.State != serving.Ready {
		t.Errorf("the engine did not outlive the answers: %+v", now)
	}
	r := s.state("killed", func(r serving.Replica) bool { return r.State != serving.Ready })
	if want := "killed: a request with a deadline of 200ms was still running after 1.2s"; r.Why != want {
		t.Errorf("why %q, want %q", r.Why, want)
	}
	s.ready()
}

// An engine that lets go of requests at their deadline is asked whether it
// answers at all; meanwhile nobody is let in.
func TestEngineThatAnswersNothingMoreIsReplaced(t *testing.T) {
	t.Parallel()
	asked, starts := make(chan struct{}, 100), 0
	s := stage(t, "exec sleep 1000", func(a *serving.Assignment) { a.Recipe.Limits.Request = 300 * time.Millisecond }, func(e *shell) {
		starts++
		dead := starts == 1
		e.do = func(ctx context.Context, r *agent.Request, w agent.Answerer) error {
			if dead || r.Path == "/slow" {
				<-ctx.Done()
				return ctx.Err()
			}
			return say(w, 200, "yes")
		}
		e.health = func(ctx context.Context) error {
			if asked <- struct{}{}; dead {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
	})
	first := s.ready()
	c := s.dial()
	if status, _, err := ask(c, link.Request{Path: "/", Timeout: time.Minute}); status != 504 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
	<-asked
	r := s.state("killed", func(r serving.Replica) bool { return r.State != serving.Ready })
	if !strings.Contains(r.Why, "answered nothing at all") {
		t.Errorf("why %q", r.Why)
	}
	second := s.ready()
	if status, _, err := ask(again(c), link.Request{Path: "/slow", Timeout: time.Minute}); status != 504 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
	<-asked
	if status, _, err := ask(again(c), link.Request{Path: "/", Timeout: time.Minute}); status != 200 || err != nil {
		t.Errorf("one that is well takes no more requests: %d, %v", status, err)
	}
	if now := s.get(); now.Engine != second.Engine || second.Engine == first.Engine {
		t.Errorf("engines %d, %d, then %d", first.Engine, second.Engine, now.Engine)
	}
}

// Who gives little time gets an answer in that time; the engine, which is not
// to blame, lives on.
func TestImpatientCallerDoesNotKillTheEngine(t *testing.T) {
	t.Parallel()
	back := make(chan bool)
	s := stage(t, "exec sleep 1000", nil, func(e *shell) {
		e.do = func(_ context.Context, _ *agent.Request, w agent.Answerer) error {
			select {
			case <-e.done:
			case <-time.After(1300 * time.Millisecond):
			}
			back <- true
			return say(w, 200, "late")
		}
	})
	first := s.ready()
	if status, _, err := ask(s.dial(), link.Request{Timeout: 20 * time.Millisecond}); status != 504 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
	<-back
	if now := s.get(); now.Engine != first.Engine || now.State != serving.Ready {
		t.Errorf("the engine did not outlive an impatient caller: %+v", now)
	}
}

func TestCancelledRequestKeepsItsPlaceUntilTheEngineIsDone(t *testing.T) {
	told, finish := make(chan bool), make(chan bool)
	s := stage(t, "exec sleep 1000", func(a *serving.Assignment) { a.Recipe.Limits.Concurrency = 1 }, func(e *shell) {
		e.do = func(ctx context.Context, r *agent.Request, w agent.Answerer) error {
			if r.Path != "/wait" {
				return say(w, 200, "yes")
			}
			<-ctx.Done()
			told <- true
			<-finish
			return say(w, 200, "late")
		}
	})
	s.ready()
	c := s.dial()
	st, err := c.Open(&link.Request{Path: "/wait"}, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
	<-told
	if c.Places() != 0 {
		t.Error("the place is free while the engine is busy with it")
	}
	close(finish)
	if status, _, err := ask(again(c), link.Request{}); status != 200 {
		t.Errorf("got %d, %v", status, err)
	}
}

// An engine that is found gone grants no place again to those it sends away,
// and is replaced even if its process does not end.
func TestEngineFoundGoneIsLeftAndReplaced(t *testing.T) {
	t.Parallel()
	s := stage(t, "exec sleep 1000", nil, func(e *shell) {
		e.do = func(context.Context, *agent.Request, agent.Answerer) error { return agent.ErrEngineGone }
	})
	first := s.ready()
	c := s.dial()
	if _, _, err := ask(c, link.Request{}); !errors.Is(err, link.ErrNotTaken) {
		t.Errorf("got %v, want not taken", err)
	}
	if n := c.Places(); n != 0 {
		t.Errorf("%d places are still granted", n)
	}
	s.state("replaced", func(r serving.Replica) bool { return r.State == serving.Ready && r.Engine != first.Engine })
}

func TestAnswerUnlikeItsHeadIsBroken(t *testing.T) {
	for sentence, do := range map[string]func(w agent.Answerer) error{
		"shorter": func(w agent.Answerer) error { w.Head(200, nil, 5); _, err := w.Write([]byte("abc")); return err },
		"longer":  func(w agent.Answerer) error { w.Head(200, nil, 2); _, err := w.Write([]byte("abc")); return err },
		"none":    func(w agent.Answerer) error { return nil },
		"twice":   func(w agent.Answerer) error { w.Head(200, nil, -1); return w.Head(200, nil, -1) },
		"no head": func(w agent.Answerer) error { _, err := w.Write([]byte("abc")); return err },
	} {
		t.Run(sentence, func(t *testing.T) {
			s := stage(t, "exec sleep 1000", nil, func(e *shell) {
				e.do = func(_ context.Context, _ *agent.Request, w agent.Answerer) error { return do(w) }
			})
			s.ready()
			if _, _, err := ask(s.dial(), link.Request{}); err == nil || errors.Is(err, link.ErrNotTaken) {
				t.Errorf("got %v, want a broken answer", err)
			}
		})
	}
}

func TestDrainFinishesWhatIsInsideAndEnds(t *testing.T) {
	entered, finish := make(chan bool), make(chan bool)
	s := stage(t, "exec sleep 1000", nil, func(e *shell) {
		e.do = func(_ context.Context, _ *agent.Request, w agent.Answerer) error {
			entered <- true
			<-finish
			return say(w, 200, "done")
		}
	})
	r := s.ready()
	c := s.dial()
	type result struct {
		status int
		body   string
		err    error
	}
	inside := make(chan result)
	go func() { status, body, err := ask(c, link.Request{}); inside <- result{status, body, err} }()
	<-entered
	close(s.drain)
	s.state("draining", func(r serving.Replica) bool { return r.State == serving.Draining })
	for end := time.Now().Add(5 * time.Second); c.Places() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // it is written down first, and said to gateways then
	}
	if _, _, err := ask(c, link.Request{}); !errors.Is(err, link.ErrNotTaken) {
		t.Errorf("a draining replica took a request: %v", err)
	}
	close(finish)
	if got := <-inside; got != (result{200, "done", nil}) {
		t.Errorf("the request inside got %+v", got)
	}
	err := <-s.over
	s.over <- err // for the cleanup
	if err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := syscall.Kill(r.Engine, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the engine outlives its agent: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "agent.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestEngineSeesOnlyItsOwnVariables(t *testing.T) {
	t.Setenv("LOADLINE_LEAK", "seen")
	s := stage(t, `echo "env: $(env | sort | tr '\n' ' ')"; exec sleep 1000`, nil, nil)
	r := s.ready()
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", r.Engine))
	if err != nil {
		t.Skip("no /proc here")
	}
	if strings.Contains(string(env), "LOADLINE_LEAK") {
		t.Errorf("the engine inherited %q", env)
	}
	if want := "HOME=" + filepath.Join(s.dir, "work"); !strings.Contains(string(env), want) {
		t.Errorf("the environment %q lacks %s", env, want)
	}
}

func TestSpecThatCannotRunIsRefused(t *testing.T) {
	for sentence, text := range map[string]string{
		"not JSON":           `{`,
		"no replica":         `{"Recipe":{"Launch":{"Protocol":"worker","Argv":["/bin/true"]}}}`,
		"a relative program": `{"Replica":"a","Recipe":{"Launch":{"Protocol":"worker","Argv":["true"]}}}`,
		"unknown protocol":   `{"Replica":"a","Recipe":{"Launch":{"Protocol":"smoke","Argv":["/bin/true"]}}}`,
	} {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "spec.json"), []byte(text), 0o600)
		if err := agent.Run(t.Context(), agent.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s: accepted", sentence)
		}
	}
}

// A model that prints without end fills two files and no more.
func TestEngineLogIsBounded(t *testing.T) {
	t.Parallel()
	s := stage(t, `yes $(printf %0999d 7) | head -c 20000000; echo; echo last; exec sleep 1000`, nil, nil)
	s.ready()
	path := filepath.Join(s.dir, "engine.log")
	var log, older []byte
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		log, _ = os.ReadFile(path)
		if strings.HasSuffix(string(log), " out last\n") {
			break
		}
	}
	older, _ = os.ReadFile(path + ".1")
	if len(log) == 0 || len(log) > 8<<20 || len(older) == 0 || len(older) > 8<<20 {
		t.Errorf("the files hold %d and %d bytes, want each at most 8 MiB", len(log), len(older))
	}
	if !strings.HasSuffix(string(log), " out last\n") {
		t.Errorf("the last line is missing; the log ends with %q", log[max(0, len(log)-100):])
	}
}

package pyworker

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/worker"
)

// recorder keeps an answer. stall, when set, is waited for in each Write.
type recorder struct {
	mu     sync.Mutex
	status int
	media  string
	body   bytes.Buffer
	wrote  chan struct{}
	stall  chan struct{}
	fail   error
}

func (r *recorder) Head(status int, header []link.Field, _ int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
	for _, f := range header {
		if f.Name == "Content-Type" {
			r.media = f.Value
		}
	}
	return nil
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.wrote != nil {
		select {
		case r.wrote <- struct{}{}:
		default:
		}
	}
	if r.stall != nil {
		<-r.stall
	}
	if r.fail != nil {
		return 0, r.fail
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.body.Write(p)
}

func (r *recorder) Flush() error { return nil }

func post(body string) *agent.Request {
	return &agent.Request{Method: "POST", Path: "/invocations", ContentType: "text/plain",
		Header: []link.Field{{Name: "Content-Type", Value: "text/plain"}}, Body: strings.NewReader(body), Size: int64(len(body))}
}

func newEngine(t *testing.T, output io.Writer, args ...string) *Engine {
	t.Helper()
	interp, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3 on PATH")
	}
	app, err := worker.Install(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{Command: func() (*exec.Cmd, error) {
		cmd := exec.Command(interp, append([]string{"testdata/model.py", app}, args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"}
		cmd.Stdout, cmd.Stderr = output, output
		return cmd, nil
	}})
	t.Cleanup(func() { e.Stop(0) })
	return e
}

func started(t *testing.T, output io.Writer) *Engine {
	t.Helper()
	e := newEngine(t, output)
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

func ask(t *testing.T, e *Engine, body string) *recorder {
	t.Helper()
	var r recorder
	if err := e.Do(t.Context(), post(body), &r); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return &r
}

func TestStartSaysWhyNot(t *testing.T) {
	for mode, want := range map[string]string{
		"--fail": "load model: ValueError: no such model",
		"--die":  "exit status 3",
		"--old":  "protocol 0",
	} {
		e := newEngine(t, io.Discard, mode)
		err := e.Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", mode, err, want)
		}
		<-e.Done()
		if e.PID() != 0 {
			t.Errorf("%s: PID %d after the end", mode, e.PID())
		}
	}
	e := newEngine(t, io.Discard, "--fail")
	_ = e.Start(t.Context())
	if e.Reason() != "ValueError: no such model" {
		t.Errorf("reason is %q", e.Reason())
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	e := newEngine(t, io.Discard, "--slow")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := e.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	select {
	case <-e.Done():
	default:
		t.Error("the process still runs")
	}
}

func TestCancelledRequestNeverBegins(t *testing.T) {
	e := started(t, io.Discard)
	gate := filepath.Join(t.TempDir(), "gate")
	first := make(chan error, 1)
	go func() { first <- e.Do(t.Context(), post("wait "+gate), &recorder{}) }()
	begun(t, gate)

	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() { second <- e.Do(ctx, post("exit"), &recorder{}) }()
	waitFor(t, func() bool { return e.inFlight() == 2 })
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("the waiting one: got %v", err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Errorf("the running one: got %v", err)
	}
	if got := ask(t, e, "still there").body.String(); got != "still there" {
		t.Errorf("got %q", got)
	}
}

func TestRunningRequestKeepsItsPlace(t *testing.T) {
	e := started(t, io.Discard)
	gate := filepath.Join(t.TempDir(), "gate")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Do(ctx, post("wait "+gate), &recorder{}) }()
	begun(t, gate)
	cancel()
	select {
	case err := <-done:
		t.Fatalf("Do came back with %v while predict ran", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestHangEndsByStop(t *testing.T) {
	e := started(t, io.Discard)
	done := make(chan error, 1)
	gate := filepath.Join(t.TempDir(), "never")
	go func() { done <- e.Do(t.Context(), post("wait "+gate), &recorder{}) }()
	begun(t, gate)
	e.Stop(0)
	if err := <-done; err == nil || errors.Is(err, link.ErrNotTaken) {
		t.Errorf("got %v, want a failure that says the request was taken", err)
	}
	if err := e.Do(t.Context(), post("x"), &recorder{}); !errors.Is(err, agent.ErrEngineGone) {
		t.Errorf("after the end: got %v", err)
	}
	e.Stop(0)
}

func TestStopFinishesWhatRunsAndGivesBackWhatWaits(t *testing.T) {
	e := started(t, io.Discard)
	gate := filepath.Join(t.TempDir(), "gate")
	running := make(chan error, 1)
	var got recorder
	go func() { running <- e.Do(t.Context(), post("wait "+gate), &got) }()
	begun(t, gate)
	waiting := make(chan error, 1)
	go func() { waiting <- e.Do(t.Context(), post("x"), &recorder{}) }()
	waitFor(t, func() bool { return e.inFlight() == 2 })
	go e.Stop(20 * time.Second)
	if err := <-waiting; !errors.Is(err, link.ErrNotTaken) {
		t.Errorf("the waiting one: got %v", err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-running; err != nil || got.body.String() != "waited" {
		t.Errorf("the running one: got %v, %q", err, got.body.String())
	}
	<-e.Done()
}

func TestCrashBreaksOnlyItsRequest(t *testing.T) {
	var log lockedBuffer
	e := started(t, &log)
	err := e.Do(t.Context(), post("exit"), &recorder{})
	if err == nil || errors.Is(err, link.ErrNotTaken) {
		t.Errorf("got %v", err)
	}
	<-e.Done()
	if !strings.Contains(log.String(), "about to leave") {
		t.Errorf("the output is lost: %q", log.String())
	}
}

func TestBrokenFramesEndTheWorker(t *testing.T) {
	for _, word := range []string{"garbage", "stranger", "broken"} {
		e := started(t, io.Discard)
		if err := e.Do(t.Context(), post(word), &recorder{}); err == nil {
			t.Errorf("%s: no error", word)
		}
		if word == "broken" {
			continue // the frame was whole, only its table was not
		}
		<-e.Done()
		if e.Reason() == "" {
			t.Errorf("%s: no reason", word)
		}
	}
}

func TestRudeModelsDoNotTouchTheSocket(t *testing.T) {
	var log lockedBuffer
	e := started(t, &log)
	if got := ask(t, e, "rude").body.String(); got != "sockets inherited: 0" {
		t.Errorf("got %q", got)
	}
	if got := ask(t, e, "fine").body.String(); got != "fine" {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(log.String(), "rude") {
		t.Errorf("output is %q", log.String())
	}
}

func TestStreamArrivesWholeAndStopsWithItsClient(t *testing.T) {
	var log lockedBuffer
	e := started(t, &log)
	if r := ask(t, e, "stream 100"); r.body.Len() != 100_000 || r.media != "text/event-stream" {
		t.Errorf("got %d bytes of %s", r.body.Len(), r.media)
	}
	gone := errors.New("gone")
	if err := e.Do(t.Context(), post("stream 1000000000"), &recorder{fail: gone}); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if got := ask(t, e, "next").body.String(); got != "next" {
		t.Errorf("got %q", got)
	}
}

func TestSlowReaderDoesNotHoldTheWorker(t *testing.T) {
	e := started(t, io.Discard)
	slow := &recorder{stall: make(chan struct{}), wrote: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() { done <- e.Do(t.Context(), post("stream 40000"), slow) }()
	<-slow.wrote
	if got := ask(t, e, "other").body.String(); got != "other" {
		t.Errorf("got %q", got)
	}
	close(slow.stall)
	if err := <-done; !errors.Is(err, errSlow) {
		t.Errorf("got %v", err)
	}
}

func TestBodiesAreBoundedAndUnpacked(t *testing.T) {
	e := started(t, io.Discard)
	e.config.MaxBody = 1000
	pack := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(s))
		_ = z.Close()
		return b.String()
	}
	cases := map[string]struct {
		body, encoding string
		size           int64
		status         int
		want           string
	}{
		"as large as allowed":        {body: strings.Repeat("y", 1000), status: 200, want: strings.Repeat("y", 1000)},
		"one byte more":              {body: strings.Repeat("y", 1001), status: 413, want: "REQUEST_TOO_LARGE"},
		"one byte more, unannounced": {body: strings.Repeat("y", 1001), size: -1, status: 413, want: "REQUEST_TOO_LARGE"},
		"unannounced":                {body: "short", size: -1, status: 200, want: "short"},
		"a terabyte announced":       {body: "", size: 1 << 40, status: 413, want: "REQUEST_TOO_LARGE"},
		"gzip":                       {body: pack("packed"), encoding: "gzip", status: 200, want: "packed"},
		"gzip in capitals":           {body: pack("packed"), encoding: " GZIP ", status: 200, want: "packed"},
		"a bomb":                     {body: pack(strings.Repeat("0", 100_000)), encoding: "gzip", status: 413, want: "REQUEST_TOO_LARGE"},
		"half a gzip":                {body: pack("packed")[:14], encoding: "gzip", status: 400, want: "unpacked"},
		"labelled gzip and plain":    {body: "plain", encoding: "gzip", status: 200, want: "plain"},
		"identity":                   {body: "plain", encoding: "identity", status: 200, want: "plain"},
		"another encoding":           {body: "x", encoding: "br", status: 415, want: "not supported"},
		"packed twice":               {body: "x", encoding: "gzip, gzip", status: 415, want: "not supported"},
	}
	for name, c := range cases {
		r := post(c.body)
		r.ContentEncoding = c.encoding
		if c.size != 0 {
			r.Size = c.size
		}
		var got recorder
		if err := e.Do(t.Context(), r, &got); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.status != c.status || !strings.Contains(got.body.String(), c.want) {
			t.Errorf("%s: got %d %.200s", name, got.status, got.body.String())
		}
	}
}

func TestOtherRoutes(t *testing.T) {
	e := started(t, io.Discard)
	for what, want := range map[string]string{
		"GET /ping": "\n", "GET /health?x=1": "\n", "GET /version": "9.9",
		"POST /ping": `{"detail":"Method Not Allowed"}`, "GET /invocations": `{"detail":"Method Not Allowed"}`, "GET /else": `{"detail":"Not Found"}`,
	} {
		method, path, _ := strings.Cut(what, " ")
		var got recorder
		if err := e.Do(t.Context(), &agent.Request{Method: method, Path: path, Body: strings.NewReader("")}, &got); err != nil {
			t.Fatal(err)
		}
		if got.body.String() != want || got.media != "application/json" {
			t.Errorf("%s: got %q %s", what, got.body.String(), got.media)
		}
	}
}

func (e *Engine) inFlight() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.calls)
}

// begun waits until the model works on the request that waits for gate.
func begun(t *testing.T, gate string) {
	t.Helper()
	waitFor(t, func() bool {
		_, err := os.Stat(gate + ".begun")
		return err == nil
	})
}

// waitFor polls for what another process does; there is nothing to wait on.
func waitFor(t *testing.T, ready func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ready() {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
		time.Sleep(time.Millisecond)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

package prepare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/serving"
)

func TestMain(m *testing.M) {
	sandbox.Main() // this binary is also the launcher of confined programs
	if len(os.Args) > 1 && os.Args[1] == "prepare" {
		os.Exit(Child(os.Args[2:], func(a Attempt) Candidate {
			if a.Recipe.Env.Dir != "" {
				return newRealEngine(a)
			}
			return &shell{a: a}
		}))
	}
	os.Exit(m.Run())
}

// shell is an engine whose command is a script that has loaded when it makes
// the file "loaded" in its folder, and answers with the file "answer".
type shell struct {
	a    Attempt
	cmd  *exec.Cmd
	dead chan error
}

func (s *shell) Start(ctx context.Context) (err error) {
	if s.cmd, err = s.a.Command(0); err != nil {
		return err
	}
	s.cmd.SysProcAttr.Setpgid = true
	if err := s.a.Spawn(s.cmd); err != nil {
		return err
	}
	s.dead = make(chan error, 1)
	go func() { s.dead <- s.cmd.Wait() }()
	for {
		select {
		case err := <-s.dead:
			s.dead <- err
			return fmt.Errorf("ended: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
			if _, err := os.Stat(filepath.Join(s.cmd.Dir, "loaded")); err == nil {
				return nil
			}
		}
	}
}

func (s *shell) Ask(_ context.Context, _ []byte, _ string) (int, []byte, error) {
	if answer, err := os.ReadFile(filepath.Join(s.cmd.Dir, "answer")); err == nil {
		return 200, answer, nil
	}
	return 400, []byte(`{"error_code": "BAD_REQUEST", "message": "no such column"}`), nil
}

func (s *shell) Stop(time.Duration) {
	if s.cmd != nil && s.cmd.Process != nil {
		syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		s.dead <- <-s.dead // for whoever stops it again
	}
}

// attempt tries a script and returns what it wrote, too.
func attempt(t *testing.T, script string, change func(*serving.Recipe)) (Proof, string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := serving.Recipe{Launch: serving.Launch{Protocol: serving.Worker, Argv: []string{"/bin/sh", "-c", script}, Vars: map[string]string{"PATH": "/usr/bin:/bin"}},
		Example: []byte("{}"), ExampleType: "application/json"}
	if change != nil {
		change(&r)
	}
	var log bytes.Buffer
	trial := &Trial{Dir: t.TempDir(), Binary: self}
	p, err := trial.Prove(t.Context(), r, &log, func(string) {})
	if left, _ := os.ReadDir(trial.Dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	return p, log.String(), err
}

const well = "echo hello; echo 1 > answer; : > loaded; exec sleep 60"

func TestTrialTellsHowItWent(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		change func(*serving.Recipe)
		want   string // in the error; empty when it goes well
		log    string
	}{
		"loads and answers":      {well, nil, "", "hello"},
		"has no example":         {": > loaded; exec sleep 60", func(r *serving.Recipe) { r.Example = nil }, "", ""},
		"dies":                   {"echo the reason >&2; exit 3", nil, "the model does not load: ended: exit status 3: the reason", "the reason"},
		"refuses its own":        {": > loaded; exec sleep 60", nil, "does not answer its own example: 400: no such column", ""},
		"hangs":                  {"exec sleep 60", func(r *serving.Recipe) { r.Limits.Start = 200 * time.Millisecond }, "not loaded after 200ms", ""},
		"says where it hangs":    {"echo looking >&2; exec sleep 60", func(r *serving.Recipe) { r.Limits.Start = time.Second }, "not loaded after 1s; its last words: looking", ""},
		"starts no such program": {"", func(r *serving.Recipe) { r.Launch.Argv = []string{"/nowhere/python"} }, "the model does not load", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, log, err := attempt(t, c.script, c.change)
			if c.want == "" {
				if err != nil || p.Loaded <= 0 {
					t.Errorf("got %+v, %v\n%s", p, err, log)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, serving.Invalid) {
				t.Errorf("got %v, want %q\n%s", err, c.want, log)
			}
			if !strings.Contains(log, c.log) {
				t.Errorf("log %q lacks %q", log, c.log)
			}
		})
	}
}

func TestWantOfMemoryIsNamed(t *testing.T) {
	if h := sandbox.Probe(); !h.Memory.Held {
		t.Skip("memory is not held here: " + h.Memory.Why)
	}
	_, log, err := attempt(t, "x=y; while :; do x=$x$x; done", func(r *serving.Recipe) { r.Limits.Memory = 64 << 20 })
	if err == nil || !strings.Contains(err.Error(), "ran out of memory while it was loaded: it may have 64 MiB") || !strings.Contains(serving.FixOf(err), "--memory") {
		t.Errorf("got %v\n%s", err, log)
	}
}

func TestDecisiveLineIsTheOneThatATracebackEndsWith(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "one\n\n": "one", "one\ntwo": "two",
		"Traceback (most recent call last):\n  File x\nValueError: no\n  more\nbye\n": "ValueError: no",
	} {
		words := new(trace)
		words.Write([]byte(text))
		if got := words.last(); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	long := new(trace)
	for range 100 {
		long.Write(bytes.Repeat([]byte("x"), 1<<10))
	}
	if len(long.tail) > maxTrace || len(long.last()) > 510 {
		t.Errorf("%d bytes are kept, %d told", len(long.tail), len(long.last()))
	}
}

func TestTrialIsConfined(t *testing.T) {
	if h := sandbox.Probe(); !h.Files.Held {
		t.Skip("no file sandbox here: " + h.Files.Why)
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "token")
	if err := os.WriteFile(secret, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, log, err := attempt(t, fmt.Sprintf("cat %s; echo x > %s/new; kill -9 $PPID && echo killed; kill -0 %d && echo seen; %s", secret, dir, os.Getpid(), well), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if strings.Contains(log, "hush") || strings.Contains(log, "killed") || strings.Contains(log, "seen") {
		t.Errorf("it got out: %s", log)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("it wrote outside its folder")
	}
}

func TestCancelledTrialLeavesNoProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	log := &signalling{seen: make(chan string, 10)}
	r := serving.Recipe{Launch: serving.Launch{Protocol: serving.Worker, Argv: []string{"/bin/sh", "-c", "echo pid $$; exec sleep 60"}}}
	go func() {
		<-log.seen
		cancel()
	}()
	if _, err := (&Trial{Dir: t.TempDir(), Binary: self}).Prove(ctx, r, log, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	var pid int
	fmt.Sscanf(log.text.String(), "pid %d", &pid)
	deadline := time.Now().Add(5 * time.Second)
	for pid == 0 || syscall.Kill(pid, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatalf("the engine (%d) goes on", pid)
		}
		time.Sleep(time.Millisecond)
	}
}

type signalling struct {
	text bytes.Buffer
	seen chan string
}

func (s *signalling) Write(p []byte) (int, error) {
	n, err := s.text.Write(p)
	s.seen <- string(p)
	return n, err
}

func TestAdviceFitsTheReason(t *testing.T) {
	for why, want := range map[string]string{
		"ModuleNotFoundError: No module named 'lightgbm.sklearn'":                               "provides lightgbm among",
		"load model: PermissionError: [Errno 13] Permission denied: '/d/models/1/cache.bin'":    "tempfile",
		"OSError: [Errno 30] Read-only file system: '/tmp/x'":                                   "tempfile",
		"load model: PermissionError: [Errno 13] Permission denied":                             "no network",
		"requests.exceptions.ConnectionError: HTTPSConnectionPool(…): Max retries exceeded (…)": "no network",
		"KeyError: 'x'": "the whole traceback",
	} {
		if got := adviceFor(why); !strings.Contains(got, want) {
			t.Errorf("against %s: got %q", why, got)
		}
	}
}

func TestEachLineIsSeenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sources")
	var got []string
	stop, err := follow(path, func(line string) { got = append(got, line) })
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("/b.py\n/a.py\n/b.py\n/un")
	f.WriteString("whole\n/cut")
	f.Close()
	// Whoever can write it may also replace it.
	os.Remove(path)
	os.Symlink("/etc/passwd", path)
	stop()
	if fmt.Sprint(got) != "[/b.py /a.py /unwhole]" {
		t.Errorf("got %v", got)
	}
}

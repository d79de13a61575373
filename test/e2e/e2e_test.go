// Package e2e tells stories to the real binary. Each file in testdata is a
// script that reads as a page of the manual. Engines are a few lines of Python's
// standard library, so most stories need no model; those that do take the
// environment that LOADLINE_TEST_PYTHON names.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"loadline.dev/loadline/test/harness"
)

// echo is an engine: it answers a POST with $GREETING, the path and the body.
const echo = `exec /usr/bin/python3 -c '
import http.server, os, sys
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(b"ok")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print("asked for", self.path, flush=True)
        self.answer(b"%s %s %s" % (os.environ.get("GREETING", "hello").encode(), self.path.encode(), body))
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Echo).serve_forever()
'`

var bin string // folder that holds the built binary

func TestMain(m *testing.M) { os.Exit(build(m)) }

// build finds or makes the binary that is told the stories.
func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ll-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	loadline, err := harness.Binary(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin = filepath.Dir(loadline)
	return m.Run()
}

func TestStories(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		need(t, "/usr/bin/python3")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata", Setup: setUp, RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server": server, "exits": exits, "keep": keep, "killpid": killPID, "gone": gone, "curl": curl, "certificate": certificate,
		},
	})
}

// need skips what the machine does not have, except where everything must be had.
func need(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" || os.Getenv("LOADLINE_TEST_FULL") == "1" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("%s is missing", what)
}

func setUp(e *testscript.Env) error {
	port, err := harness.FreePort()
	if err != nil {
		return err
	}
	// Sockets have short names: the data folder cannot lie deep.
	data, err := os.MkdirTemp("", "ll-")
	if err != nil {
		return err
	}
	e.Defer(func() { os.RemoveAll(data) })
	host := fmt.Sprintf("127.0.0.1:%d", port)
	for k, v := range map[string]string{
		"PATH": bin + string(os.PathListSeparator) + e.Getenv("PATH"), "HOME": e.WorkDir, "ECHO": echo, "DATA": data,
		"LOADLINE_DATA": data, "LOADLINE_LISTEN": host, "LOADLINE_HOST": "http://" + host, "ADDRESS": host, "PORT": strconv.Itoa(port),
		"LOADLINE_UV": os.Getenv("LOADLINE_UV"), "UV_CACHE_DIR": os.Getenv("UV_CACHE_DIR"),
	} {
		e.Setenv(k, v)
	}
	for _, kv := range os.Environ() { // how this machine reaches its package index
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PIP_") || strings.HasPrefix(name, "UV_") || strings.HasPrefix(name, "SSL_") {
			e.Vars = append(e.Vars, kv)
		}
	}
	return nil
}

// server start|replace|stop|kill runs `loadline up` as long as the script wants.
func server(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: server start|replace|stop|kill")
	}
	pidFile := ts.MkAbs("server.pid")
	switch args[0] {
	case "start", "replace":
		up, before := []string{"up"}, 0
		if args[0] == "replace" {
			up, before = append(up, "--takeover"), number(ts, pidFile)
		}
		log, err := os.OpenFile(ts.MkAbs("server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		ts.Check(err)
		cmd := exec.Command(filepath.Join(bin, "loadline"), up...)
		cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = environment(ts), ts.Getenv("WORK"), log, log
		ts.Check(cmd.Start())
		log.Close()
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		ts.Check(os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600))
		ts.Defer(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // gone already, perhaps
			select {
			case <-done:
			case <-time.After(30 * time.Second):
				_ = cmd.Process.Kill()
			}
			<-done
			reap(ts.Getenv("DATA"))
		})
		if before > 0 {
			ts.Check(eventually(30*time.Second, func() error { return ended(before) }))
		}
		ts.Check(eventually(30*time.Second, func() error { return ask(ts.Getenv("LOADLINE_HOST") + "/readyz") }))
	case "stop", "kill":
		pid := number(ts, pidFile)
		sig := syscall.SIGTERM
		if args[0] == "kill" {
			sig = syscall.SIGKILL
		}
		ts.Check(syscall.Kill(pid, sig))
		ts.Check(eventually(45*time.Second, func() error { return ended(pid) }))
	}
}

// reap ends what a story left running, by the folder it runs in.
func reap(data string) {
	for _, pid := range processes(data) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// processes lists those that have a folder in their command line.
func processes(folder string) []int {
	var pids []int
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		text, _ := os.ReadFile(path)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && strings.Contains(string(text), folder+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// environment is the script's own.
func environment(ts *testscript.TestScript) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "LOADLINE_") && name != "HOME" && name != "PATH" {
			env = append(env, kv)
		}
	}
	for _, name := range []string{"PATH", "HOME", "LOADLINE_DATA", "LOADLINE_LISTEN", "LOADLINE_HOST", "LOADLINE_UV", "MLFLOW_TRACKING_URI", "LOADLINE_TLS_CERT", "LOADLINE_TLS_KEY"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// exits CODE COMMAND… holds a command to its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = -1
		if e, ok := err.(*exec.ExitError); ok {
			got = e.ExitCode()
		}
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// keep VAR PATH remembers a value of the JSON on the last stdout: "entities.0.replicas.0.pid".
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: keep VAR PATH")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for part := range strings.SplitSeq(args[1], ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[part]
		case []any:
			i, err := strconv.Atoi(part)
			ts.Check(err)
			if i >= len(x) {
				ts.Fatalf("%s: there are %d", args[1], len(x))
			}
			v = x[i]
		default:
			ts.Fatalf("%s: nothing there", args[1])
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// killpid PID… ends processes with SIGKILL.
func killPID(ts *testscript.TestScript, _ bool, args []string) {
	for _, a := range args {
		pid, err := strconv.ParseFloat(a, 64)
		ts.Check(err)
		ts.Check(syscall.Kill(int(pid), syscall.SIGKILL))
	}
}

// gone says that no process of the data folder is left.
func gone(ts *testscript.TestScript, neg bool, _ []string) {
	err := eventually(20*time.Second, func() error {
		if left := processes(ts.Getenv("DATA")); len(left) > 0 {
			return fmt.Errorf("processes %v are left", left)
		}
		return nil
	})
	if (err == nil) == neg {
		ts.Fatalf("gone: %v", err)
	}
}

// curl METHOD PATH STATUS [HEADER…] holds the server to a status, without a token.
func curl(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: curl METHOD PATH STATUS [HEADER…]")
	}
	req, err := http.NewRequestWithContext(context.Background(), args[0], ts.Getenv("LOADLINE_HOST")+args[1], strings.NewReader("{}"))
	ts.Check(err)
	for _, h := range args[3:] {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
		if name == "Host" {
			req.Host = value
		}
	}
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	resp.Body.Close()
	if strconv.Itoa(resp.StatusCode) != args[2] {
		ts.Fatalf("%s %s answered %d, want %s", args[0], args[1], resp.StatusCode, args[2])
	}
}

func number(ts *testscript.TestScript, file string) int {
	text, err := os.ReadFile(file)
	ts.Check(err)
	n, err := strconv.Atoi(string(text))
	ts.Check(err)
	return n
}

func ended(pid int) error {
	if harness.Alive(pid) {
		return fmt.Errorf("process %d still runs", pid)
	}
	return nil
}

func ask(url string) error {
	c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: (&net.Dialer{}).DialContext, DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized { // it knows who asks
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}

func eventually(within time.Duration, claim func() error) error {
	return harness.Eventually(context.Background(), within, claim)
}

// The stories must cover every verb that is promised, so that none is forgotten.
func TestEveryVerbIsInAStory(t *testing.T) {
	out, err := exec.Command(filepath.Join(bin, "loadline"), "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(out), "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	var told strings.Builder
	stories, _ := filepath.Glob("testdata/*.txtar")
	for _, s := range stories {
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		told.Write(text)
	}
	var verbs []string
	for line := range strings.Lines(list) {
		verb := strings.Fields(line)[0]
		verbs = append(verbs, verb)
		if !strings.Contains(told.String(), "loadline "+verb) && verb != "up" {
			t.Errorf("no story uses loadline %s", verb)
		}
	}
	for _, promised := range strings.Fields("serve up deploy invoke ls get describe wait rollback traffic scale delete logs events doctor token version completion help") {
		if !slices.Contains(verbs, promised) {
			t.Errorf("loadline %s is promised and not there", promised)
		}
	}
}

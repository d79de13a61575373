package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// A house is one data folder and the server on it.
type house struct {
	ctx  context.Context
	data string
	port int
	env  []string // added to what the server and the command line get
	args []string // of `up`

	server *harness.Server
}

func newHouse(ctx context.Context) (*house, error) {
	// Sockets have short names: the data folder cannot lie deep.
	data, err := os.MkdirTemp("", "ll-")
	if err != nil {
		return nil, err
	}
	port, err := harness.FreePort()
	return &house{ctx: ctx, data: data, port: port}, err
}

// ownHouse is a house for one test, which ends with it.
func ownHouse(t *testing.T) *house {
	t.Helper()
	h, err := newHouse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.ctx = context.WithoutCancel(t.Context()) // it stops in order
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's last words:\n%s", h.lastWords())
		}
		h.leave()
	})
	return h
}

// leave stops the server and removes all that it kept.
func (h *house) leave() {
	h.server.Stop()
	for _, pid := range h.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // a test that failed may leave some
	}
	os.RemoveAll(h.data)
	os.Remove(h.log())
}

func (h *house) log() string { return h.data + ".log" }

func (h *house) lastWords() string { return harness.Tail(h.log()) }

func (h *house) host() string { return fmt.Sprintf("http://127.0.0.1:%d", h.port) }

func (h *house) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(h.ctx, bin, args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LOADLINE_") || strings.HasPrefix(kv, "LOADLINE_UV=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Dir = os.TempDir()
	cmd.Env = append(cmd.Env, "LOADLINE_DATA="+h.data, "LOADLINE_HOST="+h.host(), "NO_COLOR=1")
	cmd.Env = append(cmd.Env, h.env...)
	return cmd
}

// up starts the server and waits until it is ready.
func (h *house) up() (err error) {
	cmd := h.command(append([]string{"up", "--listen", fmt.Sprintf("127.0.0.1:%d", h.port)}, h.args...)...)
	h.server, err = harness.Listen(h.ctx, cmd, h.port, "/readyz", h.log())
	return err
}

// A said is what a verb of the command line said.
type said struct {
	code int
	out  string // both streams
}

// run runs a verb.
func (h *house) run(args ...string) said {
	cmd := h.command(args...)
	out, err := cmd.CombinedOutput()
	s := said{out: string(out)}
	if exit, is := errors.AsType[*exec.ExitError](err); is {
		s.code = exit.ExitCode()
	} else if err != nil {
		s.code, s.out = -1, s.out+err.Error()
	}
	return s
}

// must runs a verb that has to succeed.
func (h *house) must(t *testing.T, args ...string) string {
	t.Helper()
	s := h.run(args...)
	if s.code != 0 {
		t.Fatalf("loadline %s: exit code %d\n%s", strings.Join(args, " "), s.code, s.out)
	}
	return s.out
}

// An answer is what a request got.
type answer struct {
	status int
	body   string
	took   time.Duration
}

// ask posts a body to an endpoint.
func (h *house) ask(ctx context.Context, name, body string) (answer, error) {
	start := time.Now()
	status, text, err := harness.Ask(ctx, h.host()+"/serving-endpoints/"+name+"/invocations", body)
	return answer{status, text, time.Since(start)}, err
}

// puppet has the model carry out an order, and brute the engine.
func (h *house) puppet(t *testing.T, name string, o order) answer { return h.get(t, name, rows(o)) }

func (h *house) brute(t *testing.T, name string, o order) answer { return h.get(t, name, o.text()) }

func (h *house) get(t *testing.T, name, body string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, err := h.ask(ctx, name, body)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return a
}

// rows is a request body of one row, an order.
func rows(o order) string {
	return order{"dataframe_records": []order{{"order": o.text()}}}.text()
}

// result reads what an act answered into v.
func (a answer) result(t *testing.T, v any) {
	t.Helper()
	var wire struct {
		Predictions []string
		Answer      json.RawMessage
	}
	if err := json.Unmarshal([]byte(a.body), &wire); err != nil || a.status != 200 {
		t.Fatalf("%d: %s", a.status, a.body)
	}
	text := []byte(wire.Answer)
	if len(wire.Predictions) > 0 {
		text = []byte(wire.Predictions[0])
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// A described is the part of `describe -o json` that tests read.
type described struct {
	State    string `json:"state"`
	Version  int    `json:"config_version"`
	Pending  int    `json:"pending_config"`
	Failed   *struct{ Why, Fix string }
	Entities []struct {
		Name     string
		Version  int `json:"config_version"`
		Message  string
		Pending  bool
		Ready    int
		Replicas []replica
	}
}

type replica struct {
	ID       string
	State    string
	PID      int
	Engine   int `json:"engine_pid"`
	Restarts int
	Why      string
}

func (h *house) describe(t *testing.T, name string) described {
	t.Helper()
	var d described
	if err := h.look(name, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (h *house) look(name string, d *described) error {
	s := h.run("describe", name, "-o", "json")
	if err := json.Unmarshal([]byte(s.out), d); err != nil {
		return fmt.Errorf("describe %s: %w\n%s", name, err, s.out)
	}
	return nil
}

// replicas are those of the active config's first entity.
func (h *house) replicas(t *testing.T, name string) []replica {
	t.Helper()
	for _, e := range h.describe(t, name).Entities {
		if !e.Pending {
			return e.Replicas
		}
	}
	return nil
}

// settle waits until an endpoint has n ready replicas and none else.
func (h *house) settle(t *testing.T, name string, n int) []replica {
	t.Helper()
	var found []replica
	eventually(t, 40*time.Second, func() error {
		var d described
		if err := h.look(name, &d); err != nil {
			return err
		}
		all, ready := 0, 0
		for _, e := range d.Entities {
			all += len(e.Replicas)
			if e.Version == d.Version {
				found, ready = e.Replicas, e.Ready
			}
		}
		if d.Pending != 0 || all != n || ready != n {
			return fmt.Errorf("%s is not settled: %+v", name, d)
		}
		return nil
	})
	return found
}

func eventually(t *testing.T, within time.Duration, claim func() error) {
	t.Helper()
	if err := harness.Eventually(t.Context(), within, claim); err != nil {
		t.Fatal(err)
	}
}

// processes lists those that have the data folder in their command line or
// their environment: agents, and what they started.
func (h *house) processes() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		vars, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if pid != os.Getpid() && strings.Contains(string(line)+string(vars), h.data+"/") && harness.Alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// watch asks the endpoint witness again and again until the test ends: nothing
// that is done to another endpoint may be felt there, nor end the server.
func (h *house) watch(t *testing.T) {
	t.Helper()
	pid := h.server.PID
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	bad := make(chan string, 1)
	go func() {
		defer close(bad)
		for {
			asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			a, err := h.ask(asking, "witness", `{"do": "sleep", "seconds": 0}`)
			cancel()
			if err != nil || a.status != http.StatusOK {
				bad <- fmt.Sprintf("meanwhile witness answered %d %.300s %v", a.status, a.body, err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		if what, is := <-bad; is {
			t.Error(what)
		}
		if !harness.Alive(pid) {
			t.Errorf("the server has ended:\n%s", h.lastWords())
		}
	})
}

// token is the owner's.
func (h *house) token(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.data, "token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// call asks the API as the owner.
func (h *house) call(t *testing.T, method, path, body string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, h.host()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.token(t))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(text)
}

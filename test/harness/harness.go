// Package harness starts and watches the real programs that demo, benchmarks
// and tests stand on: MLflow's servers, the built binary. It knows nothing of
// what they are asked.
package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Server is a child process that listens on a loopback port.
type Server struct {
	URL string
	PID int
	Log string // the file that holds what it printed

	gone chan struct{}
}

// Listen starts cmd, which is to listen on port of 127.0.0.1, and waits until
// path there answers 200. Its output goes to the file log. The server ends
// with ctx at the latest.
func Listen(ctx context.Context, cmd *exec.Cmd, port int, path, log string) (*Server, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Server{URL: fmt.Sprintf("http://127.0.0.1:%d", port), PID: cmd.Process.Pid, Log: log, gone: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(s.gone) }()
	context.AfterFunc(ctx, s.Stop)
	err = Eventually(ctx, 90*time.Second, func() error {
		select {
		case <-s.gone:
			return errGone
		default:
		}
		response, err := http.Get(s.URL + path)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answered %s", path, response.Status)
		}
		return nil
	})
	if err != nil {
		s.Stop()
		return nil, fmt.Errorf("%s: %w; its last words:\n%s", cmd.Args[0], err, Tail(log))
	}
	return s, nil
}

// Stop asks the server and all that it started to end, kills what does not
// within half a minute, and waits. A nil Server has nothing to stop.
func (s *Server) Stop() {
	if s == nil {
		return
	}
	_ = syscall.Kill(-s.PID, syscall.SIGTERM)
	select {
	case <-s.gone:
	case <-time.After(30 * time.Second):
		_ = syscall.Kill(-s.PID, syscall.SIGKILL)
		<-s.gone
	}
}

// Kill ends the server alone with SIGKILL, and waits for that.
func (s *Server) Kill() error {
	err := syscall.Kill(s.PID, syscall.SIGKILL)
	<-s.gone
	return err
}

// errGone ends an Eventually at once.
var errGone = errors.New("ended at once")

// Eventually asks until claim holds, and returns what it said last when it
// does not within that time.
func Eventually(ctx context.Context, within time.Duration, claim func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := claim()
		if err == nil || errors.Is(err, errGone) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Tail returns the last lines of a file.
func Tail(file string) string {
	data, _ := os.ReadFile(file)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// FreePort returns a loopback port that nobody listened on a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Python makes a command of the interpreter, with bytecode written whatever
// the machine's own settings say: without it every start costs three times as
// much CPU, which would flatter whoever is compared.
func Python(ctx context.Context, interpreter string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, interpreter, args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PYTHONDONTWRITEBYTECODE=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true", "DO_NOT_TRACK=true")
	return cmd
}

// Scoring starts MLflow's own scoring server for the model in dir, with one
// worker, as `mlflow models serve` starts it.
func Scoring(ctx context.Context, interpreter, dir, log string) (*Server, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	cmd := Python(ctx, interpreter, "-m", "uvicorn", "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--workers", "1",
		"mlflow.pyfunc.scoring_server.app:app")
	cmd.Env = append(cmd.Env, "__pyfunc_model_path__="+dir)
	return Listen(ctx, cmd, port, "/ping", log)
}

// Ask posts a JSON body and returns the status and the answer's bytes.
func Ask(ctx context.Context, url, body string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// Alive says whether a process of that number runs. A zombie does not; one
// whose first thread is a zombie while others still end does, and still holds
// its sockets.
func Alive(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, file := range threads {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it ended between the two looks
		}
		_, state, _ := strings.Cut(string(data), ") ") // the name in brackets may hold anything
		if state != "" && state[0] != 'Z' && state[0] != 'X' {
			return true
		}
	}
	return false
}

// Binary returns an absolute path of the product: what LOADLINE_BIN names, as
// `make test` has built it, or else one built into dir from the sources here.
func Binary(dir string) (string, error) {
	if bin := os.Getenv("LOADLINE_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	bin := filepath.Join(dir, "loadline")
	cmd := exec.Command("go", "build", "-o", bin, "loadline.dev/loadline/cmd/loadline")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
}

// Needed is the value of a variable that names a tool of the tests, as `make
// test` sets it. Without it the test is skipped on a laptop, and fails where
// CI=true or LOADLINE_TEST_FULL=1 say that everything must run.
func Needed(t testing.TB, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value != "" {
		return value
	}
	if os.Getenv("CI") == "true" || os.Getenv("LOADLINE_TEST_FULL") == "1" {
		t.Fatal(variable + " is not set; make test sets it")
	}
	t.Skip(variable + " is not set; make test sets it")
	return ""
}

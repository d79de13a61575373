package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A model is one of the demo's models, as train.py describes it.
type model struct {
	Name    string   `json:"name"`
	ModelID string   `json:"model_id"`
	Dir     string   `json:"dir"`    // a downloaded copy, for MLflow's own server
	Bodies  []string `json:"bodies"` // requests that hold 200 random rows
}

// example is the request body that MLflow stored with the model.
func (m model) example() (string, error) {
	data, err := os.ReadFile(filepath.Join(m.Dir, "serving_input_example.json"))
	return string(data), err
}

// A server is a child process that listens on a loopback port.
type server struct {
	cmd  *exec.Cmd
	url  string
	log  string // file
	gone chan struct{}
}

// listen starts a server and waits until path answers.
func listen(ctx context.Context, cmd *exec.Cmd, port int, path, log string) (*server, error) {
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
	s := &server{cmd: cmd, url: fmt.Sprintf("http://127.0.0.1:%d", port), log: log, gone: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(s.gone) }()
	deadline := time.Now().Add(90 * time.Second)
	for {
		if response, err := http.Get(s.url + path); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		select {
		case <-s.gone:
			return nil, fmt.Errorf("%s ended at once:\n%s", cmd.Args[0], tail(log))
		case <-ctx.Done():
			s.stop()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.stop()
			return nil, fmt.Errorf("%s did not answer on %s:\n%s", cmd.Args[0], path, tail(log))
		}
	}
}

// stop ends the server and all that it started, and waits for it.
func (s *server) stop() {
	if s == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-s.gone:
	case <-time.After(5 * time.Second):
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.gone
	}
}

func tail(file string) string {
	data, _ := os.ReadFile(file)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// python makes a command of the test environment's interpreter. Bytecode is
// written whatever the machine's own settings say: without it every start
// costs three times as much.
func (s *story) python(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.Python, args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PYTHONDONTWRITEBYTECODE=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true", "DO_NOT_TRACK=true")
	return cmd
}

// track starts MLflow's tracking server: SQLite, proxied artifacts.
func (s *story) track(ctx context.Context) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := s.python(ctx, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--workers", "1",
		"--backend-store-uri", "sqlite:///"+filepath.Join(s.Dir, "mlflow.db"),
		"--serve-artifacts", "--artifacts-destination", filepath.Join(s.Dir, "artifacts"))
	return listen(ctx, cmd, port, "/health", filepath.Join(s.Dir, "mlflow.log"))
}

// train logs and registers the models and reads back what they are.
func (s *story) train(ctx context.Context, tracking string, only ...string) ([]model, error) {
	out := filepath.Join(s.Dir, "models")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	args := append([]string{"-W", "ignore", filepath.Join(s.Root, "test/demo/train.py"), out, filepath.Join(s.Root, "test/env/model-requirements.txt")}, only...)
	cmd := s.python(ctx, args...)
	cmd.Env = append(cmd.Env, "MLFLOW_TRACKING_URI="+tracking)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("train.py: %w:\n%s", err, text)
	}
	data, err := os.ReadFile(filepath.Join(out, "manifest.json"))
	if err != nil {
		return nil, err
	}
	var models []model
	return models, json.Unmarshal(data, &models)
}

// reference starts MLflow's own scoring server for one model, as
// `mlflow models serve` does, in the environment that is already there.
func (s *story) reference(ctx context.Context, m model) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := s.python(ctx, "-m", "uvicorn", "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--workers", "1",
		"mlflow.pyfunc.scoring_server.app:app")
	cmd.Env = append(cmd.Env, "__pyfunc_model_path__="+m.Dir)
	return listen(ctx, cmd, port, "/ping", filepath.Join(s.Dir, m.Name+"-mlflow.log"))
}

// ask posts one body and returns status and bytes.
func ask(ctx context.Context, url, body string) (int, string, error) {
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

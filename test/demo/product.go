package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"loadline.dev/loadline/test/harness"
)

// loadline runs a verb of the binary against the demo's own server and returns
// its stdout. Its talk goes to the demo's log.
func (s *story) loadline(ctx context.Context, args ...string) (string, error) {
	cmd := s.command(ctx, args...)
	var talk strings.Builder
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("loadline %s: %w:\n%s%s", strings.Join(args, " "), err, out, talk.String())
	}
	return string(out), nil
}

func (s *story) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.Bin, args...)
	cmd.Env = append(os.Environ(),
		"LOADLINE_DATA="+s.data(),
		"LOADLINE_HOST="+s.host(),
		"MLFLOW_TRACKING_URI="+s.tracking.URL,
		"NO_COLOR=1")
	return cmd
}

func (s *story) data() string { return filepath.Join(s.Dir, "data") }
func (s *story) host() string { return fmt.Sprintf("http://127.0.0.1:%d", s.port) }
func (s *story) invocations(name string) string {
	return s.host() + "/serving-endpoints/" + name + "/invocations"
}

// up starts `loadline up` and waits until it says it is ready.
func (s *story) up(ctx context.Context) (*harness.Server, error) {
	if s.port == 0 {
		port, err := harness.FreePort()
		if err != nil {
			return nil, err
		}
		s.port = port
	}
	cmd := s.command(ctx, "up", "--listen", fmt.Sprintf("127.0.0.1:%d", s.port))
	return harness.Listen(ctx, cmd, s.port, "/readyz", filepath.Join(s.Dir, "loadline.log"))
}

// A described is the part of `loadline describe -o json` that the demo reads.
type described struct {
	Entities []struct {
		Name     string `json:"name"`
		Model    string `json:"model"`
		Engine   string `json:"engine"`
		Pending  bool   `json:"pending"`
		Replicas []struct {
			ID     string `json:"id"`
			State  string `json:"state"`
			PID    int    `json:"pid"`
			Engine int    `json:"engine_pid"`
		} `json:"replicas"`
		Environment struct {
			Digest string `json:"digest"`
		} `json:"environment"`
	} `json:"entities"`
}

func (s *story) describe(ctx context.Context, name string) (described, error) {
	var d described
	out, err := s.loadline(ctx, "describe", name, "-o", "json")
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		return d, fmt.Errorf("describe %s: %w", name, err)
	}
	if len(d.Entities) == 0 || len(d.Entities[0].Replicas) == 0 {
		return d, fmt.Errorf("describe %s shows no replica:\n%s", name, out)
	}
	return d, nil
}

// metric reads one sample of the product's own metrics: the first line that
// starts with prefix. It is 0 where there is none.
func (s *story) metric(ctx context.Context, prefix string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.host()+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	token, err := os.ReadFile(filepath.Join(s.data(), "token"))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			var v float64
			fields := strings.Fields(rest)
			_, err := fmt.Sscan(fields[len(fields)-1], &v)
			return v, err
		}
	}
	return 0, nil
}

// strays lists the processes that work in the demo's data folder: after all
// is stopped, there must be none.
func (s *story) strays() []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		text := strings.ReplaceAll(string(line), "\x00", " ")
		if strings.Contains(text, s.data()) && filepath.Base(dir) != fmt.Sprint(os.Getpid()) {
			found = append(found, filepath.Base(dir)+": "+text)
		}
	}
	return found
}

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// escapeOrder names all that a model must not reach: another endpoint's
// replica, the server's secrets, this machine's, processes, the network.
func escapeOrder(t *testing.T) order {
	t.Helper()
	other := shared.replicas(t, "witness")[0]
	folder := filepath.Join(shared.data, "replicas", other.ID)
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/root"
	}
	stray := filepath.Join(t.TempDir(), "stray")
	if err := os.WriteFile(stray, []byte("somebody's own"), 0o644); err != nil {
		t.Fatal(err)
	}
	read := []string{shared.data, filepath.Join(shared.data, "token"), filepath.Join(shared.data, "loadline.db"), filepath.Join(shared.data, "cache.db"), filepath.Join(shared.data, "link-ca.pem"),
		filepath.Join(shared.data, "replicas"), folder, filepath.Join(folder, "spec.json"), filepath.Join(folder, "engine.log"), filepath.Join(folder, "work"),
		filepath.Join(shared.data, "logs"), home, "/etc/shadow", stray}
	write := []string{filepath.Join(shared.data, "x"), filepath.Join(folder, "x"), filepath.Join(folder, "work", "x"), filepath.Join(shared.data, "tools", "x"),
		filepath.Join(os.TempDir(), "ll-x"), filepath.Join(home, "ll-x"), "/etc/ll-x", "/usr/lib/ll-x", "/dev/ll-x", stray}
	// Its own model and environment are there to be read, not written.
	for _, pattern := range []string{"models/*", "models/*/MLmodel", "models/*/*/MLmodel", "envs/*", "envs/*/bin/python", "envs/*/lib/python3*/site-packages/mlflow/version.py", "tools/worker*"} {
		found, _ := filepath.Glob(filepath.Join(shared.data, pattern))
		for _, path := range found {
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				path = filepath.Join(path, "x")
			}
			write = append(write, path)
		}
	}
	return order{"do": "escape", "read": read, "write": write,
		"remove": []string{stray, filepath.Join(shared.data, "token"), filepath.Join(folder, "spec.json"), filepath.Join(folder, "agent.sock")},
		"pids":   []int{shared.server.PID, other.PID, other.Engine, os.Getpid()},
		"connect": []any{[]any{"127.0.0.1", shared.port}, []any{"::1", shared.port}, []any{"192.0.2.1", 80}, []any{"169.254.169.254", 80},
			filepath.Join(folder, "agent.sock")},
		"send":   []any{[]any{"127.0.0.1", 53}, []any{"192.0.2.1", 53}},
		"listen": []any{[]any{"127.0.0.1", 0}, []any{"0.0.0.0", 0}, []any{"127.0.0.1", shared.port}},
	}
}

// denied holds what became of an escape to having failed at every point.
func denied(t *testing.T, seen map[string]string) {
	t.Helper()
	if len(seen) < 100 {
		t.Fatalf("only %d ways out were tried: %v", len(seen), seen)
	}
	for what, came := range seen {
		if strings.HasPrefix(came, "did it") {
			t.Errorf("a model could %s: %s", what, came)
		}
	}
	for _, name := range []string{"token", "loadline.db"} {
		if _, err := os.Stat(filepath.Join(shared.data, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestModelReachesNothingBeyondItsFolder(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	for name, ask := range map[string]func(*testing.T, string, order) answer{"puppet": shared.puppet, "brute": shared.brute} {
		t.Run(name, func(t *testing.T) {
			var own map[string]any
			ask(t, name, order{"do": "own"}).result(t, &own)
			for _, may := range []string{"cwd", "home", "tmpdir"} {
				if s, _ := own[may].(string); !strings.HasPrefix(s, "did it") {
					t.Errorf("its own %s cannot be written: %v", may, own[may])
				}
			}
			if s, _ := own["temporary"].(string); !strings.HasPrefix(s, filepath.Join(shared.data, "replicas")) {
				t.Errorf("temporary files lie in %v", own["temporary"])
			}
			var seen map[string]string
			ask(t, name, escapeOrder(t)).result(t, &seen)
			denied(t, seen)
			if a := ask(t, name, order{"do": "own"}); a.status != 200 {
				t.Errorf("afterwards it answers %d %s", a.status, a.body)
			}
		})
	}
}

// What a model does while it loads is done twice: in the trial, and in the replica.
func TestLoadingModelReachesNothingBeyondItsFolder(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	out := shared.must(t, "deploy", "loader", model("puppet"), "--env", "AT_LOAD="+order{"do": "tell", "order": escapeOrder(t)}.text())
	if strings.Contains(out, "did it") {
		t.Error(out)
	}
	for _, log := range [][]string{{"logs", "loader", "--build"}, {"logs", "loader"}} {
		seen := map[string]string{}
		for line := range strings.Lines(shared.must(t, log...)) {
			if _, told, is := strings.Cut(line, "told: "); is {
				i := strings.LastIndex(told, ": ")
				if j := strings.Index(told, ": did it"); j > 0 {
					i = j
				}
				seen[told[:i]] = strings.TrimSpace(told[i+2:])
			}
		}
		t.Run(fmt.Sprint(log), func(t *testing.T) { denied(t, seen) })
	}
	shared.must(t, "delete", "loader", "--yes")
}

// Package clients holds the server to what real clients expect: databricks-sdk
// and mlflow.deployments, unmodified, in the environment that
// LOADLINE_TEST_CLIENTS_PYTHON names.
package clients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// TestRealClients starts `loadline up` and lets the clients do what their
// scripts say. Each line that a script prints is one claim that held.
func TestRealClients(t *testing.T) {
	python := harness.Needed(t, "LOADLINE_TEST_CLIENTS_PYTHON")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	bin, err := harness.Binary(dir)
	if err != nil {
		t.Fatal(err)
	}
	models := filepath.Join(dir, "models")
	if out, err := harness.Python(ctx, python, "models.py", models).CombinedOutput(); err != nil {
		t.Fatalf("models: %v\n%s", err, out)
	}
	host, token := up(t, bin)
	for _, one := range []struct {
		script string
		claims int
	}{{"sdk.py", 24}, {"deployments.py", 9}} {
		script, claims := one.script, one.claims
		t.Run(script, func(t *testing.T) {
			cmd := harness.Python(ctx, python, "-u", script, models)
			cmd.Env = append(cmd.Env, "DATABRICKS_HOST="+host, "DATABRICKS_TOKEN="+token, "HOME="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if held := strings.Count(string(out), "holds: "); held != claims {
				t.Errorf("%d claims held, want %d\n%s", held, claims, out)
			}
		})
	}
}

// up starts a server on a data folder of its own.
func up(t *testing.T, bin string) (host, token string) {
	t.Helper()
	// Sockets have short names: the data folder cannot lie deep.
	data, err := os.MkdirTemp("", "ll-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "up", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--data", data)
	log := filepath.Join(t.TempDir(), "server.log")
	server, err := harness.Listen(context.Background(), cmd, port, "/readyz", log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Stop()
		if t.Failed() {
			t.Logf("the server's last words:\n%s", harness.Tail(log))
		}
	})
	text, err := os.ReadFile(filepath.Join(data, "token"))
	if err != nil {
		t.Fatal(err)
	}
	return server.URL, strings.TrimSpace(string(text))
}

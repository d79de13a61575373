package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/model/registry"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/test/harness"
)

// realPython is an interpreter with MLflow and scikit-learn.
func realPython(t *testing.T) string {
	t.Helper()
	return harness.Needed(t, "LOADLINE_TEST_PYTHON")
}

// logModels logs and registers a small model as users do, twice, and lets
// MLflow itself download what it logged.
const logModels = `
import json, os, sys, mlflow
from sklearn.linear_model import LogisticRegression
mlflow.set_experiment("e")
model = LogisticRegression().fit([[1.0], [2.0], [3.0]], [0, 1, 1])
out = {}
for n in (1, 2):
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(model, name="model", registered_model_name="fraud detector", pip_requirements=["scikit-learn"], params={"n": n})
        mlflow.log_artifact(__file__, "extra/deep er")
    out[f"run{n}"], out[f"id{n}"] = run.info.run_id, info.model_id
client = mlflow.MlflowClient()
client.set_registered_model_alias("fraud detector", "champion", "1")
for n in (1, 2):
    out[f"dir{n}"] = mlflow.artifacts.download_artifacts(f"models:/fraud detector/{n}", dst_path=os.path.join(sys.argv[1], str(n)))
out["extra"] = mlflow.artifacts.download_artifacts(f"runs:/{out['run1']}/extra", dst_path=os.path.join(sys.argv[1], "x"))
out["artifacts"] = client.get_logged_model(out["id2"]).artifact_location
print(json.dumps(out))
`

func runPython(t *testing.T, python, uri, script string, args ...string) map[string]string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log_models.py")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, append([]string{file}, args...)...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "MLFLOW_TRACKING_URI="+uri, "MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false")
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, talk.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var answer map[string]string
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &answer); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return answer
}

// startServer runs a real tracking server until the test ends.
func startServer(t *testing.T, python string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	folder := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, python, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///"+folder+"/m.db",
		"--artifacts-destination", folder+"/artifacts", "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--workers", "1")
	cmd.Env = append(os.Environ(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it takes its workers with it
	cmd.WaitDelay = 10 * time.Second
	var talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &talk, &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cancel(); <-ended })
	uri := fmt.Sprintf("http://127.0.0.1:%d", port)
	for range 600 {
		if resp, err := http.Get(uri + "/health"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return uri
			}
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v: %s", err, talk.String())
		case <-time.After(100 * time.Millisecond): // a foreign process tells nobody when it is up
		}
	}
	t.Fatal("the server does not come up")
	return ""
}

func sameFolder(t *testing.T, got, want string) {
	t.Helper()
	read := func(dir string) map[string]string {
		out := map[string]string{}
		if err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(dir, p)
			data, err := os.ReadFile(p)
			out[rel] = string(data)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		// MLflow writes this one itself while it downloads a registered version.
		delete(out, "registered_model_meta")
		return out
	}
	g, w := read(got), read(want)
	if len(g) != len(w) || len(g) == 0 {
		t.Errorf("%d files, MLflow has %d", len(g), len(w))
	}
	for name := range w {
		if g[name] != w[name] {
			t.Errorf("%s differs from what MLflow downloads", name)
		}
	}
}

// Every form of name means the same to us as to MLflow, on a real server.
func TestARealServerIsReadAsMLflowReadsIt(t *testing.T) {
	python := realPython(t)
	uri := startServer(t, python)
	logged := runPython(t, python, uri, logModels, t.TempDir())
	l := newLibrary(t, registry.Settings{URI: uri})
	checkEveryForm(t, l, logged, false)

	for ref, want := range map[string][2]string{
		logged["artifacts"]:                  {logged["dir2"], logged["artifacts"]},
		"runs:/" + logged["run1"] + "/extra": {logged["extra"], "runs:/" + logged["run1"] + "/extra"},
	} {
		pin, err := l.Resolve(t.Context(), ref)
		if err != nil || pin.Ref != want[1] {
			t.Errorf("%s: %+v, %v", ref, pin, err)
			continue
		}
		files, err := l.Fetch(t.Context(), pin, nil)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		sameFolder(t, files.Dir, want[0])
	}
	if _, err := l.Resolve(t.Context(), "mlflow-artifacts:/no/such"); !errors.Is(err, serving.NotFound) {
		t.Errorf("got %v", err)
	}
}

// The same holds for a store that is a database, read through MLflow.
func TestADatabaseIsReadThroughMLflow(t *testing.T) {
	python := realPython(t)
	folder := t.TempDir()
	uri := "sqlite:///" + folder + "/m.db"
	logged := runPython(t, python, uri, logModels, t.TempDir())
	checkEveryForm(t, newLibrary(t, registry.Settings{URI: "sqlite:///m.db", Dir: folder,
		Python: func(context.Context) (string, error) { return python, nil }}), logged, true)
}

// checkEveryForm compares with MLflow's own downloads. Few leaves out forms that
// take the same way as another, since each costs an import of MLflow.
func checkEveryForm(t *testing.T, l *model.Library, logged map[string]string, few bool) {
	t.Helper()
	for ref, want := range map[string]struct{ pin, dir string }{
		"models:/fraud detector/1":           {"models:/fraud detector/1", logged["dir1"]},
		"models:/fraud detector/2":           {"models:/fraud detector/2", logged["dir2"]},
		"models:/fraud detector@champion":    {"models:/fraud detector/1", logged["dir1"]},
		"models:/fraud detector/latest":      {"models:/fraud detector/2", logged["dir2"]},
		"models:/" + logged["id1"]:           {"models:/" + logged["id1"], logged["dir1"]},
		"runs:/" + logged["run2"] + "/model": {"models:/" + logged["id2"], logged["dir2"]},
	} {
		if few && strings.HasSuffix(ref, "r/1") || few && strings.HasSuffix(ref, "r/2") {
			continue
		}
		pin, err := l.Resolve(t.Context(), ref)
		if err != nil || pin.Ref != want.pin {
			t.Errorf("%s: %+v, %v; want %s", ref, pin, err, want.pin)
			continue
		}
		files, err := l.Fetch(t.Context(), pin, nil)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		sameFolder(t, files.Dir, want.dir)
	}
	unknown := []string{"models:/fraud detector@nobody", "runs:/" + logged["run1"] + "/nothing", "models:/nobody@champion", "models:/fraud detector/99",
		"models:/nobody/1", "models:/nobody/latest", "models:/m-00000000000000000000000000000000", "runs:/" + strings.Repeat("0", 32) + "/model"}
	if few {
		unknown = unknown[:2]
	}
	for _, ref := range unknown {
		if _, err := l.Resolve(t.Context(), ref); !errors.Is(err, serving.NotFound) || serving.FixOf(err) == "" {
			t.Errorf("%s: got %v", ref, err)
		}
	}
}

package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// saveModel is run by the Python that has MLflow.
const saveModel = `
import sys
import mlflow, pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression
x = pd.DataFrame({"it's": [1.0, 2.0, 3.0]})
m = LinearRegression().fit(x, [2.0, 4.0, 6.0])
mlflow.sklearn.save_model(m, sys.argv[1], input_example=x.head(2), signature=infer_signature(x, m.predict(x)))
`

// One model in the foreground: what was decided at once, phases with times, a
// curl that works when pasted, and nothing left after Ctrl-C.
func TestServePrintsACurlThatWorks(t *testing.T) {
	python := harness.Needed(t, "LOADLINE_TEST_PYTHON")
	dir, err := os.MkdirTemp("", "ll-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if out, err := harness.Python(t.Context(), python, "-c", saveModel, filepath.Join(dir, "linear")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, engine := range []string{"auto", "native", "mlflow"} {
		t.Run(engine, func(t *testing.T) { serveAndPaste(t, dir, engine) })
	}
}

func serveAndPaste(t *testing.T, dir, engine string) {
	cmd := exec.Command(filepath.Join(bin, "loadline"), "serve", "linear", "--port", "0", "--engine", engine)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LOADLINE_DATA="+filepath.Join(dir, "data"), "LOADLINE_HOST=", "LOADLINE_TOKEN=")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); reap(dir) })
	talk := bufio.NewReader(stderr)
	first, err := talk.ReadString('\n')
	if err != nil || !strings.Contains(first, "as linear on http://127.0.0.1:") {
		t.Fatalf("it says %q first, %v", first, err)
	}
	if took := time.Since(began); took > 2*time.Second { // 300 ms on a quiet machine
		t.Errorf("it said what it decided after %v", took)
	}
	var phases strings.Builder
	heard := make(chan struct{})
	go func() { defer close(heard); _, _ = io.Copy(&phases, talk) }()

	curl, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = cmd.Process.Kill()
		<-heard
		t.Fatalf("no curl: %v\n%s", err, phases.String())
	}
	answer, err := exec.Command("/bin/sh", "-c", curl).CombinedOutput()
	if got := string(answer); err != nil || !strings.HasPrefix(got, `{"predictions": [`) {
		t.Errorf("pasted, %s answers %s %v", curl, got, err)
	}
	url, _, _ := strings.Cut(strings.TrimPrefix(curl, "curl -s "), "/invocations")
	for _, path := range []string{"/ping", "/health", "/version", "/readyz"} {
		if err := ask(url + path); err != nil {
			t.Error(err)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-heard
	err = cmd.Wait()
	if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || state.ExitStatus() != 130 {
		t.Errorf("Ctrl-C ends it with %v, want exit code 130", err)
	}
	for _, phase := range []string{"resolve", "fetch", "environment", "engine", "load", "ready"} {
		if !strings.Contains(phases.String(), "\n"+phase+" ") && !strings.HasPrefix(phases.String(), phase+" ") {
			t.Errorf("phase %s is not told:\n%s", phase, phases.String())
		}
	}
	if left := processes(dir); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

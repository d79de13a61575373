package pyworker

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/worker"
)

// python returns the interpreter of the shared test environment with MLflow.
func python(t *testing.T) string {
	t.Helper()
	path := os.Getenv("LOADLINE_TEST_PYTHON")
	if path == "" {
		if os.Getenv("CI") == "true" || os.Getenv("LOADLINE_TEST_FULL") == "1" {
			t.Fatal("LOADLINE_TEST_PYTHON is not set; run make test")
		}
		t.Skip("needs LOADLINE_TEST_PYTHON, a python with MLflow; make test sets it")
	}
	return path
}

// script makes an engine's command from Python source run by interp; the
// source replaces the worker's own main.
func command(interp string, args ...string) func() (*exec.Cmd, error) {
	return func() (*exec.Cmd, error) {
		cmd := exec.Command(interp, args...)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + os.TempDir()}
		cmd.Stderr = os.Stderr
		return cmd, nil
	}
}

type recorder struct {
	status int
	header []link.Field
	body   bytes.Buffer
	wrote  chan struct{}
}

func (r *recorder) Head(status int, header []link.Field, size int64) error {
	r.status, r.header = status, header
	return nil
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.wrote != nil {
		select {
		case r.wrote <- struct{}{}:
		default:
		}
	}
	return r.body.Write(p)
}

func (r *recorder) Flush() error { return nil }

func post(contentType, body string) *agent.Request {
	return &agent.Request{Method: "POST", Path: "/invocations", ContentType: contentType,
		Header: []link.Field{{Name: "Content-Type", Value: contentType}}, Body: strings.NewReader(body), Size: int64(len(body))}
}

func TestRealModelAnswers(t *testing.T) {
	interp := python(t)
	dir := t.TempDir()
	save := exec.Command(interp, "-c", `
import sys, mlflow, warnings
warnings.simplefilter("ignore")
from mlflow.pyfunc import PythonModel
class M(PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["a"] * 2
from mlflow.models import ModelSignature
from mlflow.types import Schema, ColSpec
mlflow.pyfunc.save_model(sys.argv[1], python_model=M(), signature=ModelSignature(inputs=Schema([ColSpec("double", "a")])), pip_requirements=[])
`, filepath.Join(dir, "m"))
	if out, err := save.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	app, err := worker.Install(dir)
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{Command: command(interp, "-I", app, "--model", filepath.Join(dir, "m"))})
	if err := e.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer e.Stop(5 * time.Second)
	var got recorder
	if err := e.Do(t.Context(), post("application/json", `{"dataframe_split":{"columns":["a"],"data":[[1],[2.5]]}}`), &got); err != nil {
		t.Fatal(err)
	}
	if want := `{"predictions": [{"a": 2.0}, {"a": 5.0}]}`; got.status != 200 || got.body.String() != want {
		t.Errorf("got %d %s, want 200 %s", got.status, got.body.String(), want)
	}
	var none recorder
	if err := e.Do(t.Context(), &agent.Request{Method: "POST", Path: "/invocations", Body: strings.NewReader("{}"), Size: 2}, &none); err != nil {
		t.Fatal(err)
	}
	if none.status != 400 || !strings.Contains(none.body.String(), "no Content-Type") {
		t.Errorf("got %d %s", none.status, none.body.String())
	}
}

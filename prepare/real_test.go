package prepare

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
	"loadline.dev/loadline/agent/pyworker"
	"loadline.dev/loadline/agent/upstream"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/pyenv"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/test/harness"
	"loadline.dev/loadline/worker"
)

// realEngine tries recipes with the product's engines.
type realEngine struct{ agent.Engine }

func newRealEngine(a Attempt) Candidate {
	if l := a.Recipe.Launch; l.Protocol == serving.HTTP {
		return realEngine{upstream.New(upstream.Config{Command: a.Command, Spawn: a.Spawn, Health: l.Health, Raw: l.Raw})}
	}
	return realEngine{pyworker.New(pyworker.Config{
		Command: func() (*exec.Cmd, error) { return a.Command(0) }, Spawn: a.Spawn, Strict: a.Recipe.Strict})}
}

func (w realEngine) Ask(ctx context.Context, body []byte, contentType string) (int, []byte, error) {
	var got answer
	err := w.Do(ctx, &agent.Request{Method: "POST", Path: "/invocations", ContentType: contentType,
		Header: []link.Field{{Name: "Content-Type", Value: contentType}}, Body: bytes.NewReader(body), Size: int64(len(body))}, &got)
	return got.status, got.body.Bytes(), err
}

type answer struct {
	status int
	body   bytes.Buffer
}

func (a *answer) Head(status int, _ []link.Field, _ int64) error { a.status = status; return nil }
func (a *answer) Write(p []byte) (int, error)                    { return a.body.Write(p) }
func (a *answer) Flush() error                                   { return nil }

const saveModel = `
import sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
X = pd.DataFrame({"a": [0.0, 1, 2, 3], "b": [1.0, 0, 1, 0]})
mlflow.sklearn.save_model(LogisticRegression().fit(X, [0, 0, 1, 1]), sys.argv[1], input_example=X[:2])
`

// The whole way with a model of MLflow's own making: its environment is built
// from what it asks for, the worker loads it in the sandbox, and it answers.
func TestRealModelIsProven(t *testing.T) {
	python := harness.Needed(t, "LOADLINE_TEST_PYTHON")
	w, p := newWorld(t)
	w.dir = filepath.Join(t.TempDir(), "model")
	if out, err := exec.Command(python, "-c", saveModel, w.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if p.Worker, err = worker.Install(filepath.Join(p.Dir, "tools")); err != nil {
		t.Fatal(err)
	}
	p.Environments = &pyenv.Builder{Dir: p.Dir, UV: os.Getenv("LOADLINE_UV")}
	p.Prover = &Trial{Dir: filepath.Join(p.Dir, "tmp"), Binary: self}

	e := serving.Entity{Name: "m", Model: "models:/fraud/3", Engine: "auto"}
	start := time.Now()
	r, phases, err := phasesOf(t, p, e)
	if err != nil {
		log, _ := p.BuildLog(t.Context(), r.Digest)
		t.Fatalf("%v\n%s", err, log)
	}
	for _, ph := range r.Phases {
		t.Logf("%-11s %-6s %5.1f s  %s", ph.Name, ph.State, ph.Took.Seconds(), ph.Note)
	}
	if !strings.HasSuffix(phases, "prove done") || r.Env.MLflow == "" || len(r.Example) == 0 {
		t.Errorf("got %s, %+v", phases, r)
	}
	compiled, _ := filepath.Glob(filepath.Join(r.Env.Dir, "lib", "python*", "site-packages", "mlflow", "__pycache__", "*.pyc"))
	if len(compiled) == 0 {
		t.Error("no bytecode was written, so every start compiles all over again")
	}
	first := time.Since(start)

	start = time.Now()
	if _, phases, err = phasesOf(t, p, e); err != nil || !strings.HasSuffix(phases, "prove cached") || time.Since(start) > first/2 {
		t.Errorf("again: %s in %v after %v, %v", phases, time.Since(start), first, err)
	}

	// With bytecode there, a start is cheaper, and nothing is left to note.
	var bare []string
	proof, err := p.Prover.Prove(t.Context(), r, &bytes.Buffer{}, func(s string) { bare = append(bare, s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(bare) > 10 {
		t.Errorf("%d files were loaded without bytecode: %v …", len(bare), bare[:3])
	}
	t.Logf("started in %v with bytecode", proof.Loaded)

	// MLflow's own server is proven the same way, in the same environment.
	e.Engine = "mlflow"
	r, phases, err = phasesOf(t, p, e)
	if err != nil {
		log, _ := p.BuildLog(t.Context(), r.Digest)
		t.Fatalf("%v\n%s", err, log)
	}
	if want := "environment cached, engine done, prove done"; !strings.HasSuffix(phases, want) {
		t.Errorf("got %s, want … %s", phases, want)
	}
	t.Log(r.Phases[len(r.Phases)-1].Note)
}

package contract

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/agent/native"
	"loadline.dev/loadline/engine"
	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/prepare"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/test/harness"
)

// This binary is the launcher of the sandbox too, as the product is.
func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

// convertible are the models of the differential test that run natively.
var convertible = []string{"logistic", "pipeline", "xgboost", "text"}

// natively asks a model on the native engine, with the Python engine in
// reserve, everything that the Python engine was asked: the good and the bad.
// Status, type and words must be MLflow's, and numbers within the tolerance.
func natively(t *testing.T, base, model, app string, asks []ask) {
	e := native.New(native.Config{Native: converted(t, model, app), Reserve: func() agent.Engine { return worked(python(t), app, model) }})
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer e.Stop(5 * time.Second)
	exact, clean, cleanHere := 0, 0, 0
	for _, a := range asks {
		theirs, err := askReference(base, a)
		if err != nil {
			t.Fatalf("%s: the reference: %v", a.Name, err)
		}
		before, _ := e.Crossed()
		ours, err := askOurs(e, a, a.contentType())
		if err != nil {
			t.Errorf("%s: native: %v", a.Name, err)
			continue
		}
		after, _ := e.Crossed()
		if a.Clean {
			clean++
			cleanHere += int(after - before)
		}
		if ours == theirs {
			exact++
			continue
		}
		if allowed(ours, theirs) != "" || fleeting.ReplaceAllString(ours.String(), "…") == fleeting.ReplaceAllString(theirs.String(), "…") {
			continue
		}
		if ours.status != theirs.status || ours.media != theirs.media || theirs.status != 200 || !prepare.Equal([]byte(ours.body), []byte(theirs.body)) {
			t.Errorf("%s: %.300s\nnative %.500s\nMLflow %.500s", a.Name, a.Body, ours, theirs)
		}
	}
	here, passed := e.Crossed()
	t.Logf("%d requests answered without Python, %d by the reserve; %d answers are the same bytes", here, passed, exact)
	// Most of them hold a null or another thing that is Python's to judge.
	if cleanHere == 0 {
		t.Errorf("of %d requests that fit the signature only %d were answered natively", clean, cleanHere)
	}
}

// converted is a model as deploying it would convert and compare it.
func converted(t *testing.T, model, app string) serving.Native {
	t.Helper()
	interp, tools := python(t), harness.Needed(t, "LOADLINE_TEST_TOOLS")
	work := t.TempDir()
	binary, err := harness.Binary(work)
	if err != nil {
		t.Fatal(err)
	}
	w := &prepare.Workshop{Dir: filepath.Join(work, "native"), Trial: &prepare.Trial{Dir: filepath.Join(work, "trials"), Binary: binary},
		Tools: func(context.Context, string, io.Writer, func(serving.Phase)) (serving.Environment, error) {
			return serving.Environment{Dir: tools, Digest: filepath.Base(tools)}, nil
		}}
	data, err := os.ReadFile(filepath.Join(model, "MLmodel"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := mlmodel.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	env := serving.Environment{Dir: filepath.Dir(filepath.Dir(interp)), Digest: "tests", Python: "3.11"}
	c, err := engine.Select(engine.Python, m, engine.Facts{Env: env, Model: model, Worker: app})
	if err != nil {
		t.Fatal(err)
	}
	r := serving.Recipe{Model: serving.Files{Dir: model, Digest: filepath.Base(model)}, Env: env, Engine: c.Engine, Launch: c.Launch}
	var log bytes.Buffer
	conversion, err := w.Convert(t.Context(), r, &log, func(serving.Phase) {})
	if err != nil {
		t.Fatalf("convert: %v\n%s", err, log.String())
	}
	all, err := w.Compare(t.Context(), r, conversion, &log, func(string) {})
	best, ok := prepare.Best(all)
	if err != nil || !ok {
		t.Fatalf("compare: %v, %v\n%s", err, all, log.String())
	}
	t.Log(best)
	return best.Native
}

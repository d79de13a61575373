package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

var (
	scored = mlmodel.Model{PyFunc: &mlmodel.PyFunc{LoaderModule: "mlflow.sklearn"}}
	facts  = Facts{Env: serving.Environment{Dir: "/data/envs/e", MLflow: "3.17.2"}, Model: "/data/models/a b", Worker: "/data/tools/worker-1.pyz"}
)

func TestAutoIsOurWorker(t *testing.T) {
	for _, asked := range []string{"auto", "", "python"} {
		c, err := Select(asked, scored, facts)
		if err != nil || c.Engine != "python" || c.Launch.Protocol != serving.Worker || c.Why == "" {
			t.Fatalf("%q: got %+v, %v", asked, c, err)
		}
		want := []string{"/data/envs/e/bin/python", "-I", "/data/tools/worker-1.pyz", "--model", "/data/models/a b"}
		if !slices.Equal(c.Launch.Argv, want) {
			t.Errorf("got %q, want %q", c.Launch.Argv, want)
		}
	}
}

func TestMLflowStartsAsItsVersionDoes(t *testing.T) {
	for version, app := range map[string]string{
		"3.17.2": "uvicorn", "2.21.0": "uvicorn", "2.22.1": "uvicorn", "3.0.0rc1": "uvicorn", "": "uvicorn",
		"2.20.4": "gunicorn", "2.17.2": "gunicorn", "1.30.0": "gunicorn",
	} {
		f := facts
		f.Env.MLflow = version
		c, err := Select("mlflow", scored, f)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Launch.Argv[3]; got != app {
			t.Errorf("%q starts %s, want %s", version, got, app)
		}
		if !strings.Contains(strings.Join(c.Launch.Argv, " "), "127.0.0.1") || c.Launch.Health != "/ping" || c.Launch.Raw {
			t.Errorf("%q: got %+v", version, c.Launch)
		}
		if got := c.Launch.Vars["__pyfunc_model_path__"]; got != "file:///data/models/a%20b" {
			t.Errorf("model at %q", got)
		}
	}
}

func TestCustomRunsTheCommand(t *testing.T) {
	c, err := Select("custom", mlmodel.Model{}, Facts{Command: "serve --port $PORT", Health: "/health", Model: "/m", Vars: map[string]string{"A": "b"}})
	if err != nil || !c.Launch.Raw || c.Launch.Argv[2] != "serve --port $PORT" || c.Launch.Vars["A"] != "b" || c.Launch.Vars["MODEL_DIR"] != "/m" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestWhatCannotRunIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		asked string
		m     mlmodel.Model
		f     Facts
		want  string
	}{
		"no python_function": {"auto", mlmodel.Model{Flavors: map[string]mlmodel.Flavor{"spark": nil, "onnx": nil}}, facts, "its flavours are onnx, spark"},
		"no flavour at all":  {"mlflow", mlmodel.Model{}, facts, "no flavours at all"},
		"an unknown engine":  {"warp", scored, facts, `unknown engine "warp"; known are auto`},
		"no environment":     {"python", scored, Facts{Model: "/m"}, "needs an environment"},
		"no command":         {"custom", scored, Facts{Health: "/h"}, "needs a command"},
		"no health path":     {"custom", scored, Facts{Command: "x", Health: "h"}, "health path"},
	} {
		_, err := Select(c.asked, c.m, c.f)
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, serving.Invalid) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// Threads that wait do not spin, unless the user wants them to.
func TestPythonEnginesDoNotSpin(t *testing.T) {
	for _, asked := range []string{"python", "mlflow"} {
		f := facts
		c, _ := Select(asked, scored, f)
		for name, want := range map[string]string{"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "MALLOC_ARENA_MAX": "2"} {
			if got := c.Launch.Vars[name]; got != want {
				t.Errorf("%s: %s is %q, want %q", asked, name, got, want)
			}
			f.Vars = map[string]string{name: "user's"}
			if c, _ := Select(asked, scored, f); c.Launch.Vars[name] != "user's" {
				t.Errorf("%s: the user's %s is lost: %q", asked, name, c.Launch.Vars[name])
			}
		}
	}
	c, _ := Select("custom", mlmodel.Model{}, Facts{Command: "x", Health: "/"})
	if _, set := c.Launch.Vars["OMP_WAIT_POLICY"]; set {
		t.Error("a command of the user's got it too")
	}
}

// The same facts with another variable change that variable and nothing else.
func TestVarsOnlyAdd(t *testing.T) {
	plain, _ := Select("python", scored, facts)
	f := facts
	f.Vars = map[string]string{"OMP_NUM_THREADS": "1"}
	more, _ := Select("python", scored, f)
	delete(more.Launch.Vars, "OMP_NUM_THREADS")
	if len(plain.Launch.Vars) != len(more.Launch.Vars) || !slices.Equal(plain.Launch.Argv, more.Launch.Argv) {
		t.Errorf("got %v and %v", plain.Launch, more.Launch)
	}
}

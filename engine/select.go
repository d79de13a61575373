// Package engine knows who can run a model and how each of them is started:
// our own worker, ONNX Runtime, MLflow's server, a command of the user's. It is pure: it is
// told which files are where and answers with a recipe; it starts nothing and
// looks at nothing.
package engine

import (
	"fmt"
	"maps"
	"strings"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// Names of engines, as users write them.
const (
	Auto   = "auto"
	Python = "python"
	Native = "native"
	MLflow = "mlflow"
	Custom = "custom"
)

// Facts is what a choice rests on besides the model itself.
type Facts struct {
	Env    serving.Environment // where the model's packages are; zero for Custom
	Model  string              // the model's folder; empty when there is none
	Worker string              // the worker's zipapp

	Native   *serving.Native // what the model was converted to, once it was shown to be equal; else nil
	Evidence string          // how that went, in a sentence; empty when it was not tried

	Command, Health string            // Custom's, as the user wrote them
	Vars            map[string]string // the user's
}

// A Choice is an engine, why it was taken, and how it is started.
type Choice struct {
	Engine string
	Why    string // one sentence
	Launch serving.Launch
}

// Select answers with the engine that was asked for, or for Auto with the one
// that suits the model. Engines that cannot run the model are refused.
func Select(asked string, m mlmodel.Model, f Facts) (Choice, error) {
	switch asked {
	case Custom:
		return custom(f)
	case Native:
		if err := scorable(m, Native); err != nil {
			return Choice{}, err
		}
		return native(f)
	case "", Auto, Python:
		if asked != Python && f.Native != nil {
			return native(f)
		}
		if err := scorable(m, Python); err != nil {
			return Choice{}, err
		}
		c, err := python(f)
		if asked == Python {
			c.Why = "asked for: our worker in the model's own environment"
		} else if f.Evidence != "" {
			c.Why += "; " + f.Evidence
		}
		return c, err
	case MLflow:
		if err := scorable(m, MLflow); err != nil {
			return Choice{}, err
		}
		return mlflow(f)
	}
	return Choice{}, refuse("unknown engine %q; known are %s", asked, strings.Join(serving.Engines, ", "))
}

// scorable refuses what MLflow's loader could not load either.
func scorable(m mlmodel.Model, engine string) error {
	if m.PyFunc != nil {
		return nil
	}
	var has []string
	for name := range maps.Keys(m.Flavors) {
		has = append(has, name)
	}
	there := "it has no flavours at all"
	if len(has) > 0 {
		there = "its flavours are " + strings.Join(sorted(has), ", ")
	}
	return &serving.Error{Op: "choose engine", Kind: serving.Invalid,
		Err: fmt.Errorf("engine %s needs the python_function flavour, which the model lacks; %s", engine, there),
		Fix: "log the model with a flavour that has python_function, or deploy it with --command"}
}

// vars is a clean environment, the user's variables in it. serving.CheckConfig
// has refused those that would change which code runs.
func vars(f Facts, path string) map[string]string {
	out := map[string]string{
		"PATH":             path,
		"LANG":             "C.UTF-8",
		"PYTHONUNBUFFERED": "1",
	}
	maps.Copy(out, f.Vars)
	return out
}

// pythonVars is vars for an engine in Python. A replica has few cores to itself,
// so threads of OpenMP that have done their part sleep rather than spin (one row
// of XGBoost on two busy cores: 1.8 ms of CPU instead of 7.7), and malloc keeps
// few arenas apart. A variable of the user's own goes before.
func pythonVars(f Facts, path string) map[string]string {
	out := map[string]string{
		"OMP_WAIT_POLICY":  "PASSIVE",
		"KMP_BLOCKTIME":    "0",
		"MALLOC_ARENA_MAX": "2",
	}
	maps.Copy(out, vars(f, path))
	return out
}

const systemPath = "/usr/local/bin:/usr/bin:/bin"

// bin is where an environment's programs are.
func bin(env serving.Environment) string { return env.Dir + "/bin" }

func refuse(format string, args ...any) error {
	return &serving.Error{Op: "choose engine", Kind: serving.Invalid, Err: fmt.Errorf(format, args...)}
}

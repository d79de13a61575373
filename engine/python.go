package engine

import (
	"slices"

	"loadline.dev/loadline/serving"
)

// python starts our worker: no HTTP in Python, and columns rather than JSON
// where the signature allows it. -I keeps the user's site packages and the
// current folder out of the import path.
func python(f Facts) (Choice, error) {
	if f.Env.Dir == "" || f.Worker == "" || f.Model == "" {
		return Choice{}, refuse("engine python needs an environment, a model and the worker")
	}
	return Choice{
		Engine: Python,
		Why:    "our worker runs any python_function model in its own environment",
		Launch: serving.Launch{
			Protocol: serving.Worker,
			Argv:     []string{bin(f.Env) + "/python", "-I", f.Worker, "--model", f.Model},
			Vars:     pythonVars(f, bin(f.Env)+":"+systemPath),
		},
	}, nil
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

package engine

import (
	"strings"

	"loadline.dev/loadline/serving"
)

// custom starts a command of the user's that listens on $PORT. Every method
// and path passes to it. A model is optional; where there is one, $MODEL_DIR
// says where.
func custom(f Facts) (Choice, error) {
	if strings.TrimSpace(f.Command) == "" {
		return Choice{}, refuse("engine custom needs a command")
	}
	if !strings.HasPrefix(f.Health, "/") {
		return Choice{}, refuse("engine custom needs a health path that starts with /, not %q", f.Health)
	}
	v := vars(f, systemPath)
	if f.Model != "" {
		v["MODEL_DIR"] = f.Model
	}
	return Choice{
		Engine: Custom,
		Why:    "asked for: a command of the user's own",
		Launch: serving.Launch{
			Protocol: serving.HTTP,
			Argv:     []string{"/bin/sh", "-c", f.Command},
			Vars:     v,
			Health:   f.Health,
			Raw:      true,
		},
	}, nil
}

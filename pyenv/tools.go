package pyenv

import (
	"context"
	"fmt"
	"io"

	"loadline.dev/loadline/serving"
)

// Tools makes an environment of work of our own for models of one Python minor
// version ("3.11"): its packages must load in their interpreter. The same
// requirements are locked once.
func (b *Builder) Tools(ctx context.Context, python string, requirements []string, log io.Writer, report Report) (serving.Environment, error) {
	w := wants{python: python}
	for _, text := range requirements {
		r, err := readLine(text)
		if err != nil {
			return serving.Environment{}, fmt.Errorf("tool requirement %q: %w", text, err)
		}
		w.add(r)
	}
	env, err := b.lock(ctx, w, log, report)
	if err != nil {
		return env, err
	}
	return b.Build(ctx, env, log, report)
}

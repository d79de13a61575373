// Package pyenv makes the Python environment a model asks for: exactly the
// packages it names, resolved once to a lock with hashes, built once, shared
// by everything with the same lock.
//
// The work is done by uv, which it finds or installs. It refuses what it
// cannot honour and says precisely what that is, rather than building
// something similar. It downloads no interpreters, knows no engines, and
// never runs a model.
//
// Packages can be built from source only by running outsiders' code. So the
// resolver and such builds run in a sandbox, each with a package cache of its
// own; only ready wheels go into the cache that everything shares.
package pyenv

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"loadline.dev/loadline/serving"
)

// A Builder locks and builds environments below one folder. Its methods may be
// called from many goroutines and processes at once.
type Builder struct {
	// Dir is the data folder. Locks go to locks, environments to envs, a uv
	// that had to be installed to tools, unfinished work to tmp.
	Dir string

	// UV is the program to use. Empty means: search, and install it if there is none.
	UV string

	// AllowSources lets requirement files name other indexes, URLs and
	// repositories. Without it such lines are refused.
	AllowSources bool

	// Unconfined runs outsiders' build scripts without a sandbox.
	Unconfined bool

	Log *slog.Logger // nil is silent
}

// A Report tells how a step goes on: Note, Done, Total and, once nothing had
// to be done, State [serving.PhaseCached]. The rest of the phase is the caller's.
type Report = func(serving.Phase)

func (b *Builder) path(parts ...string) string {
	return filepath.Join(append([]string{b.Dir}, parts...)...)
}

func (b *Builder) log() *slog.Logger {
	if b.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return b.Log
}

// Tool returns the python of an environment that holds the given requirements,
// for work of our own rather than a model's. It takes the newest interpreter
// that most packages support.
func (b *Builder) Tool(ctx context.Context, requirements ...string) (string, error) {
	found := Interpreters(ctx)
	if len(found) == 0 {
		return "", missing("3.11", nil)
	}
	chosen := found[0]
	for _, i := range found {
		if n := i.minor(); n >= 10 && n <= 13 && (chosen.minor() > 13 || n > chosen.minor()) {
			chosen = i
		}
	}
	w := wants{python: chosen.Minor, exact: chosen.Version}
	for n, text := range requirements {
		r, err := readLine(text)
		if err != nil {
			return "", fmt.Errorf("tool requirement %d: %w", n+1, err)
		}
		w.add(r)
	}
	quiet := func(serving.Phase) {}
	env, err := b.lock(ctx, w, io.Discard, quiet)
	if err != nil {
		return "", err
	}
	if env, err = b.Build(ctx, env, io.Discard, quiet); err != nil {
		return "", err
	}
	return filepath.Join(env.Dir, "bin", "python"), nil
}

// Package prepare turns an entity into a recipe: all that a replica needs to
// start, and the evidence that it will.
//
// It is a chain of phases: resolve the model's name, fetch its bytes, lock its
// packages, build its environment, choose an engine, prove that the model loads
// and answers its own example. Each is addressed by content and may be
// repeated; what was done before is found again, so that preparing the same
// version a second time needs neither registry nor package index.
//
// Outsiders' code never runs in this process. Proving is done by a child
// process ([Child]) that starts the engine in a sandbox, as a replica would.
package prepare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"time"

	"loadline.dev/loadline/engine"
	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// A Pin is what a model's name resolved to.
type Pin struct {
	Ref      string // immutable: "models:/fraud/3"
	Name     string
	Version  string
	Location string
	Digest   string // of the bytes, where resolving read them; else empty
}

// Models finds and keeps models' bytes.
type Models interface {
	Resolve(ctx context.Context, ref string) (Pin, error)
	// Fetch does not download what is there already. Bytes that are not those
	// first seen under the pin are an error.
	Fetch(ctx context.Context, pin Pin, progress func(done, total int64)) (serving.Files, error)
	// Check says whether the bytes are still what they were when first fetched.
	Check(ctx context.Context, f serving.Files) error
}

// Environments makes Python environments. What they report is their progress;
// State PhaseCached says that nothing had to be done.
type Environments interface {
	Lock(ctx context.Context, dir string, m mlmodel.Model, log io.Writer, report func(serving.Phase)) (serving.Environment, error)
	Build(ctx context.Context, env serving.Environment, log io.Writer, report func(serving.Phase)) (serving.Environment, error)
	// Compile writes bytecode of sources as they come, and says of how many.
	Compile(ctx context.Context, env serving.Environment, sources <-chan string) (int, error)
}

// A Drawer keeps recipes and pins. Get answers serving.NotFound for what is absent.
type Drawer interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
}

// A Prover tries a recipe before any replica starts from it.
type Prover interface {
	// Prove calls loaded with each Python file that was loaded without bytecode.
	Prove(ctx context.Context, r serving.Recipe, log io.Writer, loaded func(source string)) (Proof, error)
}

// A Converter makes models run without Python, and shows whether they answer
// the same. What it answers with an error is no reason not to serve the model.
type Converter interface {
	Convert(ctx context.Context, r serving.Recipe, log io.Writer, say func(serving.Phase)) (Conversion, error)
	// Compare asks each candidate and the recipe's engine, the Python one, the same.
	// It calls loaded as [Prover] does.
	Compare(ctx context.Context, r serving.Recipe, c Conversion, log io.Writer, loaded func(source string)) ([]Comparison, error)
}

// A Scanner warns of what loading the model in dir might do, without running
// anything of it: a sentence each.
type Scanner func(ctx context.Context, dir string) (warnings []string, err error)

// A Proof is what a trial showed.
type Proof struct {
	Loaded   time.Duration // from the start of the process
	Answered time.Duration // to the model's own example; zero without one
}

// A Preparer prepares entities. Its methods may be called from many goroutines.
type Preparer struct {
	Dir          string // the data folder, for logs and unfinished work
	Models       Models
	Environments Environments
	Recipes      Drawer
	Prover       Prover
	Worker       string         // path of the worker's zipapp
	Native       Converter      // nil converts nothing
	Auto         bool           // tries the native engine where none was asked for
	Scan         Scanner        // nil looks at nothing
	Limits       serving.Limits // of every replica; part of the revision
	Log          *slog.Logger   // nil is silent
}

// Prepare returns the recipe of an entity. It calls report with each phase as
// it begins, moves on and ends.
func (p *Preparer) Prepare(ctx context.Context, e serving.Entity, report func(serving.Phase)) (serving.Recipe, error) {
	r, err := p.begin(e, report)
	if err != nil {
		return serving.Recipe{}, err
	}
	defer r.close()
	recipe, err := r.prepare(ctx)
	r.log.end(err)
	return recipe, err
}

// Renew brings back what a recipe points at, if it was damaged or removed, and
// fits the recipe to this version of the program. The model's name is not
// resolved anew.
func (p *Preparer) Renew(ctx context.Context, e serving.Entity, old serving.Recipe, report func(serving.Phase)) (serving.Recipe, error) {
	r, err := p.begin(e, report)
	if err != nil {
		return serving.Recipe{}, err
	}
	defer r.close()
	recipe, err := r.renew(ctx, old)
	r.log.end(err)
	return recipe, err
}

func (p *Preparer) begin(e serving.Entity, report func(serving.Phase)) (*run, error) {
	log, err := openLog(filepath.Join(p.Dir, "logs", "prepare"), contentOf(e, p.Limits))
	if err != nil {
		return nil, err
	}
	return &run{p: p, e: e, phases: phases{report: report, log: log}, log: log}, nil
}

// A run is one preparation.
type run struct {
	p      *Preparer
	e      serving.Entity
	phases phases
	log    *logFile
}

func (r *run) close() {
	if err := r.log.Close(); err != nil && r.p.Log != nil {
		r.p.Log.Warn("close build log", "why", err)
	}
}

func (r *run) prepare(ctx context.Context) (serving.Recipe, error) {
	e := r.e
	recipe := serving.Recipe{Asked: e.Model, Strict: e.Strict, Egress: e.Egress, Limits: r.p.Limits, Created: time.Now().UTC()}
	var m mlmodel.Model
	if e.Model != "" {
		pin, err := r.resolve(ctx)
		if err != nil {
			return recipe, err
		}
		recipe.Pinned = pin.Ref
		if recipe.Model, err = r.fetch(ctx, pin, serving.Files{}); err != nil {
			return recipe, err
		}
	}
	if e.Engine != engine.Custom {
		var err error
		if m, err = readModel(recipe.Model.Dir); err != nil {
			return recipe, err
		}
		if recipe.Env, err = r.lock(ctx, recipe.Model.Dir, m); err != nil {
			return recipe, err
		}
	}
	recipe.Digest = revision(e, recipe)
	return r.finish(ctx, recipe, m)
}

func (r *run) renew(ctx context.Context, old serving.Recipe) (serving.Recipe, error) {
	recipe := old
	var m mlmodel.Model
	if old.Pinned != "" {
		pin, err := r.recall(ctx, old.Pinned)
		if err != nil {
			return recipe, err
		}
		files, err := r.fetch(ctx, pin, old.Model)
		if err != nil {
			return recipe, err
		}
		if files.Digest != old.Model.Digest {
			return recipe, &serving.Error{Op: "renew", Subject: old.Pinned, Kind: serving.Conflict,
				Err: errors.New("its bytes are not those that were prepared"), Fix: "deploy it again to serve what is there now"}
		}
		recipe.Model = files
	}
	if old.Env.Digest != "" {
		var err error
		if m, err = readModel(recipe.Model.Dir); err != nil {
			return recipe, err
		}
	}
	return r.finish(ctx, recipe, m)
}

// finish does the phases that follow once the revision is known, or finds them done.
func (r *run) finish(ctx context.Context, recipe serving.Recipe, m mlmodel.Model) (serving.Recipe, error) {
	known, proven, err := r.known(ctx, recipe.Digest)
	if err != nil {
		return recipe, err
	}
	r.log.name(recipe.Digest, proven)
	if recipe.Env.Digest != "" {
		if recipe.Env, err = r.environment(ctx, recipe.Env); err != nil {
			return recipe, err
		}
	}
	if err := r.readExample(&recipe, m); err != nil {
		return recipe, err
	}
	candidate, err := r.native(ctx, &recipe, m, known)
	if err != nil {
		return recipe, err
	}
	if err := r.choose(&recipe, m, candidate); err != nil {
		return recipe, err
	}
	if proven && same(known, recipe) {
		r.phases.cached("prove", "proven before")
		known.Phases = r.phases.done
		return known, nil
	}
	if err := r.prove(ctx, recipe); err != nil {
		return recipe, err
	}
	recipe.Phases = r.phases.done
	return recipe, r.keep(ctx, recipe)
}

// same says whether two recipes start the same thing.
func same(a, b serving.Recipe) bool {
	return reflect.DeepEqual(a.Launch, b.Launch) && a.Model == b.Model && a.Env == b.Env && a.Limits == b.Limits &&
		string(a.Example) == string(b.Example)
}

// known returns the recipe that was proven before. One of another version of
// the program, which cannot be read, is made anew.
func (r *run) known(ctx context.Context, digest string) (recipe serving.Recipe, proven bool, err error) {
	data, err := r.p.Recipes.Get(ctx, "recipe/"+digest)
	if errors.Is(err, serving.NotFound) {
		return recipe, false, nil
	}
	if err != nil {
		return recipe, false, err
	}
	return recipe, json.Unmarshal(data, &recipe) == nil, nil
}

func (r *run) keep(ctx context.Context, recipe serving.Recipe) error {
	data, err := json.Marshal(recipe)
	if err != nil {
		return err
	}
	if err := r.p.Recipes.Put(ctx, "recipe/"+recipe.Digest, data); err != nil {
		return fmt.Errorf("keep recipe: %w", err)
	}
	return nil
}

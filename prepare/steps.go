package prepare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"loadline.dev/loadline/engine"
	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// A memory is what a name was last seen to mean.
type memory struct {
	Pin  Pin
	Seen time.Time
}

func (r *run) recollect(ctx context.Context, key string) (memory, bool, error) {
	data, err := r.p.Recipes.Get(ctx, key)
	if errors.Is(err, serving.NotFound) {
		return memory{}, false, nil
	}
	var m memory
	if err != nil {
		return m, false, err
	}
	return m, json.Unmarshal(data, &m) == nil, nil
}

func (r *run) remember(ctx context.Context, key string, pin Pin) error {
	data, err := json.Marshal(memory{pin, time.Now().UTC()})
	if err != nil {
		return err
	}
	return r.p.Recipes.Put(ctx, key, data)
}

func nameKey(ref string) string   { return "name/" + short(ref) }
func pinnedKey(ref string) string { return "pinned/" + short(ref) }

// resolve finds what the model's name means. An alias whose registry does not
// answer is an error, though one that says what it last meant: nobody is
// served yesterday's meaning unasked.
func (r *run) resolve(ctx context.Context) (pin Pin, err error) {
	ref := r.e.Model
	err = r.phases.run("resolve", func(say func(serving.Phase)) (err error) {
		pin, err = r.p.Models.Resolve(ctx, ref)
		if err != nil {
			return r.lastSeen(ctx, ref, err)
		}
		say(serving.Phase{Note: pin.Ref})
		return errors.Join(r.remember(ctx, nameKey(ref), pin), r.remember(ctx, pinnedKey(pin.Ref), pin))
	})
	return pin, err
}

// lastSeen adds to err what ref was when it could last be resolved.
func (r *run) lastSeen(ctx context.Context, ref string, err error) error {
	last, known, _ := r.recollect(ctx, nameKey(ref))
	if !known || !errors.Is(err, serving.Unavailable) {
		return err
	}
	return &serving.Error{Kind: serving.Unavailable,
		Err: fmt.Errorf("%w; when last seen, %s, it was %s", err, last.Seen.Format(time.DateTime), last.Pin.Ref),
		Fix: "deploy " + last.Pin.Ref + " to serve that, or try again when the registry answers"}
}

// recall returns the pin of a model that was resolved before.
func (r *run) recall(ctx context.Context, ref string) (Pin, error) {
	m, known, err := r.recollect(ctx, pinnedKey(ref))
	if err == nil && !known {
		err = &serving.Error{Op: "recall", Subject: ref, Kind: serving.NotFound, Fix: "deploy it again"}
	}
	return m.Pin, err
}

// fetch brings the model's bytes. Those that had are here already and whole are
// taken as they are, without anybody being asked.
func (r *run) fetch(ctx context.Context, pin Pin, had serving.Files) (files serving.Files, err error) {
	err = r.phases.run("fetch", func(say func(serving.Phase)) (err error) {
		if had.Dir != "" && r.p.Models.Check(ctx, had) == nil {
			files = had
			say(serving.Phase{State: serving.PhaseCached, Note: sizeOf(files.Dir)})
			return nil
		}
		state := serving.PhaseCached // unless there is something to wait for
		files, err = r.p.Models.Fetch(ctx, pin, func(done, total int64) {
			if done < total {
				state = serving.PhaseRunning
			}
			say(serving.Phase{Note: humanBytes(done) + " of " + humanBytes(total), Done: done, Total: total})
		})
		if err == nil {
			say(serving.Phase{State: state, Note: sizeOf(files.Dir)})
		}
		return err
	})
	return files, err
}

// readModel reads the MLmodel file, which the library has kept as outsiders wrote it.
func readModel(dir string) (mlmodel.Model, error) {
	f, err := os.Open(filepath.Join(dir, "MLmodel"))
	if errors.Is(err, fs.ErrNotExist) {
		return mlmodel.Model{}, &serving.Error{Op: "read model", Kind: serving.Invalid,
			Err: errors.New("there is no MLmodel file in it"), Fix: "name the folder that holds MLmodel"}
	}
	if err != nil {
		return mlmodel.Model{}, err
	}
	defer f.Close()
	const most = 64 << 20 // Parse has a lower bound and better words
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return mlmodel.Model{}, err
	}
	return mlmodel.Parse(data)
}

func (r *run) lock(ctx context.Context, dir string, m mlmodel.Model) (env serving.Environment, err error) {
	err = r.phases.run("lock", func(say func(serving.Phase)) (err error) {
		env, err = r.p.Environments.Lock(ctx, dir, m, r.log, say)
		return err
	})
	return env, err
}

func (r *run) environment(ctx context.Context, env serving.Environment) (built serving.Environment, err error) {
	err = r.phases.run("environment", func(say func(serving.Phase)) (err error) {
		built, err = r.p.Environments.Build(ctx, env, r.log, say)
		return err
	})
	return built, err
}

// readExample settles what the engine must answer.
func (r *run) readExample(recipe *serving.Recipe, m mlmodel.Model) (err error) {
	recipe.Example, recipe.ExampleType = nil, ""
	if r.e.Engine != engine.Custom {
		if recipe.Example, err = readExample(recipe.Model.Dir, m, recipe.Limits.Body); err != nil {
			return fmt.Errorf("engine: %w", err)
		}
	}
	if recipe.Example != nil {
		recipe.ExampleType = "application/json"
	}
	return nil
}

func (r *run) facts(recipe *serving.Recipe) engine.Facts {
	return engine.Facts{Env: recipe.Env, Model: recipe.Model.Dir, Worker: r.p.Worker,
		Command: r.e.Command, Health: r.e.Health, Vars: r.e.Vars, Evidence: strings.Join(recipe.Evidence, "; ")}
}

// choose settles the engine. candidate is what the model was converted to, if
// that answers the same.
func (r *run) choose(recipe *serving.Recipe, m mlmodel.Model, candidate *serving.Native) error {
	return r.phases.run("engine", func(say func(serving.Phase)) error {
		f := r.facts(recipe)
		f.Native = candidate
		c, err := engine.Select(r.e.Engine, m, f)
		if err != nil {
			return err
		}
		recipe.Engine, recipe.Why, recipe.Launch = c.Engine, c.Why, c.Launch
		recipe.Launch.Reads = r.e.Reads
		say(serving.Phase{Note: c.Engine + ": " + c.Why})
		return nil
	})
}

// readExample returns the request body that was saved with the model, or nil.
// One that is too large to be asked is as good as none.
func readExample(dir string, m mlmodel.Model, most int64) ([]byte, error) {
	if m.Example == nil || m.Example.Serving == "" {
		return nil, nil
	}
	if most == 0 {
		most = 16 << 20
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(m.Example.Serving)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &serving.Error{Op: "read example", Subject: m.Example.Serving, Kind: serving.Invalid, Err: err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most || len(data) == 0 {
		return nil, nil
	}
	return data, nil
}

// warn writes what the scan of a model found to the log, and sums it up.
func (r *run) warn(ctx context.Context, files serving.Files) (string, error) {
	if r.p.Scan == nil || files.Dir == "" {
		return "", nil
	}
	warnings, err := r.p.Scan(ctx, files.Dir)
	if err != nil {
		return "", fmt.Errorf("look for dangerous pickles: %w", err)
	}
	for _, w := range warnings {
		fmt.Fprintf(r.log, "warning: %s; it runs in the sandbox only\n", w)
	}
	switch len(warnings) {
	case 0:
		return "", nil
	case 1:
		return "warning: " + warnings[0], nil
	}
	return fmt.Sprintf("warning: %s, and %d more", warnings[0], len(warnings)-1), nil
}

func (r *run) prove(ctx context.Context, recipe serving.Recipe) error {
	return r.phases.run("prove", func(say func(serving.Phase)) error {
		warning, err := r.warn(ctx, recipe.Model)
		if err != nil {
			return err
		}
		names := unset(recipe.Model.Dir, r.e.Vars)
		if lacks := unsetNote(names); lacks != "" {
			fmt.Fprintln(r.log, "warning: "+lacks)
			warning = strings.TrimPrefix(warning+"; "+lacks, "; ")
		}
		say(serving.Phase{Note: warning})
		loaded, finish := r.compile(ctx, recipe.Env)
		proof, err := r.p.Prover.Prove(ctx, recipe, r.log, loaded)
		finish()
		if err != nil {
			return forWantOf(names, err)
		}
		note := fmt.Sprintf("started in %.1f s", proof.Loaded.Seconds())
		if len(recipe.Example) > 0 {
			note += fmt.Sprintf(", answered its own example in %.0f ms", float64(proof.Answered.Microseconds())/1000)
		} else if recipe.Engine != engine.Custom {
			note += "; the model has no example of its own to answer"
		}
		if warning != "" {
			note += "; " + warning
		}
		say(serving.Phase{Note: note})
		return nil
	})
}

// compile writes the bytecode of what is loaded while more is being loaded. A
// failure is logged only: replicas would start more slowly, no worse.
func (r *run) compile(ctx context.Context, env serving.Environment) (loaded func(string), finish func()) {
	if env.Digest == "" {
		return func(string) {}, func() {}
	}
	sources, done := make(chan string, 64), make(chan struct{})
	go func() {
		defer close(done)
		n, err := r.p.Environments.Compile(ctx, env, sources)
		for range sources { // it may have given up
		}
		if err != nil {
			fmt.Fprintf(r.log, "%v\n", err)
		} else if n > 0 {
			fmt.Fprintf(r.log, "wrote bytecode of %d files that were loaded without\n", n)
		}
	}()
	return func(source string) { sources <- source }, func() { close(sources); <-done }
}

// sizeOf says how much there is in a folder, for people.
func sizeOf(dir string) string {
	files, bytes := 0, int64(0)
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files++
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return fmt.Sprintf("%d files, %s", files, humanBytes(bytes))
}

func humanBytes(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d bytes", n)
	}
	x, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		if x /= 1000; x < 1000 {
			break
		}
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0") + " " + unit
}

package prepare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

const anMLmodel = `flavors:
  python_function:
    loader_module: mlflow.sklearn
    python_version: 3.11.7
mlflow_version: 3.17.2
saved_input_example_info:
  artifact_path: input_example.json
  serving_input_path: serving_input_example.json
  type: dataframe
`

// world is everything around a Preparer, and counts what is done to it.
type world struct {
	mu      sync.Mutex
	dir     string            // of the one model there is
	names   map[string]string // name → pin
	down    bool              // the registry does not answer
	damaged bool              // the bytes on disk
	builds  int
	proofs  int
	fetches int
	proof   error
	kept    map[string][]byte
}

func newWorld(t *testing.T) (*world, *Preparer) {
	t.Helper()
	w := &world{dir: t.TempDir(), names: map[string]string{"models:/fraud@champion": "models:/fraud/3", "models:/fraud/3": "models:/fraud/3"}, kept: map[string][]byte{}}
	for name, text := range map[string]string{"MLmodel": anMLmodel, "serving_input_example.json": `{"inputs": [1]}`} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return w, &Preparer{Dir: t.TempDir(), Models: (*library)(w), Environments: (*builder)(w), Recipes: (*drawer)(w), Prover: (*prover)(w), Worker: "/tools/worker-1.pyz"}
}

type (
	library world
	builder world
	drawer  world
	prover  world
)

func (l *library) Resolve(_ context.Context, ref string) (Pin, error) {
	if l.down {
		return Pin{}, &serving.Error{Op: "resolve", Kind: serving.Unavailable, Err: errors.New("registry: connection refused")}
	}
	pin, ok := l.names[ref]
	if !ok {
		return Pin{}, &serving.Error{Op: "resolve", Subject: ref, Kind: serving.NotFound}
	}
	return Pin{Ref: pin, Location: l.dir}, nil
}

func (l *library) Fetch(_ context.Context, pin Pin, progress func(done, total int64)) (serving.Files, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fetches++; l.fetches == 1 || l.damaged {
		progress(10, 1000)
	}
	l.damaged = false
	progress(1000, 1000)
	return serving.Files{Dir: pin.Location, Digest: "bytes of " + pin.Ref}, nil
}

func (l *library) Check(context.Context, serving.Files) error {
	if l.damaged {
		return errors.New("MLmodel has changed")
	}
	return nil
}

func (b *builder) Lock(_ context.Context, _ string, m mlmodel.Model, log io.Writer, report func(serving.Phase)) (serving.Environment, error) {
	fmt.Fprintln(log, "locking for MLflow", m.MLflowVersion)
	return serving.Environment{Digest: "e1", Python: "3.11", MLflow: m.MLflowVersion}, nil
}

func (b *builder) Build(_ context.Context, env serving.Environment, _ io.Writer, report func(serving.Phase)) (serving.Environment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.builds++; b.builds > 1 {
		report(serving.Phase{State: serving.PhaseCached})
	}
	env.Dir = "/envs/" + env.Digest
	return env, nil
}

func (b *builder) Compile(_ context.Context, _ serving.Environment, sources <-chan string) (n int, err error) {
	for range sources {
		n++
	}
	return n, nil
}

func (d *drawer) Get(_ context.Context, key string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.kept[key]; ok {
		return v, nil
	}
	return nil, &serving.Error{Subject: key, Kind: serving.NotFound}
}

func (d *drawer) Put(_ context.Context, key string, value []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept[key] = value
	return nil
}

func (p *prover) Prove(_ context.Context, _ serving.Recipe, log io.Writer, loaded func(string)) (Proof, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proofs++
	fmt.Fprintln(log, "what the model printed")
	loaded("/envs/e1/lib/x.py")
	return Proof{Loaded: time.Second, Answered: time.Millisecond}, p.proof
}

// writeModel gives the world's model another MLmodel file.
func writeModel(t *testing.T, w *world, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "MLmodel"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

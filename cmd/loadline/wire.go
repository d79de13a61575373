package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/model/bucket"
	"loadline.dev/loadline/model/dir"
	"loadline.dev/loadline/model/registry"
	"loadline.dev/loadline/platform/local"
	"loadline.dev/loadline/prepare"
	"loadline.dev/loadline/pyenv"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/worker"
)

// This file puts together the rooms that only meet here.

// newPlatform starts replicas as agents of this very version.
func (s *server) newPlatform() (*local.Platform, error) {
	agent, err := agentCommandLine(s.data)
	if s.secured {
		agent, err = secureAgent()
	}
	if err != nil {
		return nil, err
	}
	if s.fresh {
		agent = append(agent, "--owner", strconv.Itoa(os.Getpid()))
	}
	return local.New(local.Config{Dir: s.state, Agent: append(agent, "--dir"), Log: s.log, Registry: s.metrics,
		Credential: s.ring.replica, Secured: s.secured})
}

// newPreparer brings models, environments and the trial of both together. What
// it learns is kept beside the models, for every server on this data folder.
func (s *server) newPreparer(ctx context.Context) (*prepare.Preparer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	zipapp, err := worker.Install(filepath.Join(s.data, "tools"))
	if err != nil {
		return nil, fmt.Errorf("install worker: %w", err)
	}
	trials := filepath.Join(s.state, "trials")
	if err := os.RemoveAll(trials); err != nil { // of a process that was killed
		return nil, fmt.Errorf("clear trials: %w", err)
	}
	builder := &pyenv.Builder{Dir: s.data, UV: s.uv, Log: s.log}
	if err := builder.Clean(ctx); err != nil {
		s.log.Warn("half-built environments stay", "why", err)
	}
	library := &model.Library{Dir: s.data, Sources: s.sources(builder), Pins: s.cache.Drawer("pins"),
		Registry: registry.FromVars(os.Getenv).Place()}
	trial := &prepare.Trial{Dir: trials, Binary: self, Unconfined: !s.sandbox}
	workshop := &prepare.Workshop{Dir: filepath.Join(s.data, "native"), Trial: trial,
		Tools: func(ctx context.Context, python string, log io.Writer, report func(serving.Phase)) (serving.Environment, error) {
			return builder.Tools(ctx, python, prepare.Converters, log, report)
		}}
	return &prepare.Preparer{
		Dir: s.data, Models: shelf{library}, Environments: builder, Recipes: s.cache.Drawer("recipes"),
		Prover: trial, Native: workshop, Worker: zipapp, Scan: model.ScanPickles, Limits: s.limits, Log: s.log,
	}, nil
}

// toolMLflow is what reads a tracking store that is a file or a database.
const toolMLflow = "mlflow==3.17.2"

// sources are the places that a MODEL may lie in.
func (s *server) sources(builder *pyenv.Builder) map[string]model.Source {
	settings := registry.FromVars(os.Getenv)
	settings.Python = func(ctx context.Context) (string, error) { return builder.Tool(ctx, toolMLflow) }
	mlflow, err := registry.New(settings)
	if err != nil {
		s.log.Warn("no registry", "why", err)
		mlflow = closed{err}
	}
	clouds := bucket.New(bucket.FromVars(os.Getenv))
	return map[string]model.Source{
		model.Models: mlflow, model.Runs: mlflow, model.Artifacts: mlflow, model.Folder: dir.Source{},
		model.S3: clouds, model.GS: clouds, model.ABFSS: clouds, model.WASBS: clouds,
	}
}

// closed stands for a registry whose settings cannot be used: everything else
// is served, and who asks for a name of it is told why not.
type closed struct{ err error }

// Resolve implements [model.Source].
func (c closed) Resolve(context.Context, model.Ref) (model.Pin, error) { return model.Pin{}, c.err }

// Files implements [model.Source].
func (c closed) Files(context.Context, model.Pin) ([]model.File, error) { return nil, c.err }

// Open implements [model.Source].
func (c closed) Open(context.Context, model.Pin, string, int64, int64) (io.ReadCloser, error) {
	return nil, c.err
}

// shelf is the library as preparation wants it.
type shelf struct{ *model.Library }

// Resolve implements [prepare.Models].
func (s shelf) Resolve(ctx context.Context, ref string) (prepare.Pin, error) {
	pin, err := s.Library.Resolve(ctx, ref)
	return prepare.Pin(pin), err
}

// Fetch implements [prepare.Models].
func (s shelf) Fetch(ctx context.Context, pin prepare.Pin, progress func(done, total int64)) (serving.Files, error) {
	return s.Library.Fetch(ctx, model.Pin(pin), progress)
}

// close ends what newServer began, in the order in which it depends on each other.
func (s *server) close() error {
	var errs []error
	if s.gateway != nil {
		errs = append(errs, s.gateway.Close())
	}
	return errors.Join(append(errs, s.closeHelm())...)
}

// closeHelm gives up what only one process on the data folder may hold. Replicas
// that run go on.
func (s *server) closeHelm() error {
	var errs []error
	s.helm.closing.Do(func() {
		if s.platform != nil {
			s.platform.Release()
		}
		errs = s.closeStores()
	})
	return errors.Join(errs...)
}

func (s *server) closeStores() (errs []error) {
	for _, store := range []*local.Store{s.store, s.cache} {
		if store != nil {
			errs = append(errs, store.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Release())
	}
	return errs
}

// workspace is a number that is the same at every start on one data folder.
func workspace(data string) string {
	h := fnv.New64a()
	h.Write([]byte(data))
	return strconv.FormatUint(h.Sum64()>>11, 10) // fits a double, as clients of JavaScript need
}

package registry

import (
	"bytes"
	"context"
	_ "embed" // the script that asks MLflow
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

//go:embed resolve.py
var script string

// A Store is a tracking store that is a file or a database. Names in it are
// resolved by MLflow in an interpreter of ours; the bytes then lie in a folder
// or bucket, which the sources of those read.
type Store struct{ settings Settings }

var _ model.Source = (*Store)(nil)

// storePatience bounds one question: importing MLflow takes seconds.
const storePatience = 2 * time.Minute

// Resolve asks MLflow what ref means.
func (s *Store) Resolve(ctx context.Context, ref model.Ref) (model.Pin, error) {
	pin, err := s.resolve(ctx, ref)
	if err != nil {
		return model.Pin{}, fmt.Errorf("resolve %s: %w", ref.Text, err)
	}
	return pin, nil
}

func (s *Store) resolve(ctx context.Context, ref model.Ref) (model.Pin, error) {
	if ref.Scheme != model.Models && ref.Scheme != model.Runs {
		return model.Pin{}, noServer(ref.Scheme)
	}
	python, err := s.settings.Python(ctx)
	if err != nil {
		return model.Pin{}, fmt.Errorf("an interpreter with MLflow, to read %s: %w", s.name(), err)
	}
	ask, err := json.Marshal(map[string]string{"scheme": ref.Scheme, "name": ref.Name, "version": ref.Version, "alias": ref.Alias, "id": ref.ID, "path": ref.Path})
	if err != nil {
		return model.Pin{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-I", "-c", script)
	cmd.Dir = s.settings.Dir
	cmd.Env = append(os.Environ(), "MLFLOW_DISABLE_TELEMETRY=true")
	if s.settings.URI != "" {
		cmd.Env = append(cmd.Env, "MLFLOW_TRACKING_URI="+s.settings.URI)
	}
	cmd.Stdin = bytes.NewReader(ask)
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		return model.Pin{}, &serving.Error{Op: "ask MLflow about " + s.name(), Kind: serving.Unavailable, Err: fmt.Errorf("%w: %s", err, lastLine(talk.String()))}
	}
	return s.read(ref, out)
}

// read takes up the script's last line; MLflow may print above it.
func (s *Store) read(ref model.Ref, out []byte) (model.Pin, error) {
	var a struct{ Ref, Name, Version, Location, Error, Message string }
	if err := json.Unmarshal([]byte(lastLine(string(out))), &a); err != nil {
		return model.Pin{}, &serving.Error{Op: "ask MLflow about " + s.name(), Kind: serving.Internal, Err: fmt.Errorf("its answer is unreadable: %w", err)}
	}
	switch {
	case a.Error == "UNREADY":
		return model.Pin{}, unready(ref.Text, a.Message, "")
	case a.Error == "RESOURCE_DOES_NOT_EXIST", a.Error == "INVALID_PARAMETER_VALUE" && ref.Alias != "":
		return model.Pin{}, absent(fmt.Errorf("%.300s", strings.TrimSuffix(a.Message, ".")),
			"Look at the models in "+s.name()+" (MLFLOW_TRACKING_URI).")
	case a.Error != "":
		return model.Pin{}, &serving.Error{Op: "ask MLflow about " + s.name(), Kind: serving.Unavailable, Err: fmt.Errorf("%s: %.300s", a.Error, a.Message)}
	}
	location, err := located(a.Location, "", true)
	return model.Pin{Ref: a.Ref, Name: a.Name, Version: a.Version, Location: location}, err
}

func (s *Store) name() string {
	if s.settings.URI == "" {
		return "MLflow's default store"
	}
	return shown(s.settings.URI)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// Files is never reached by a pin of this store's own.
func (s *Store) Files(_ context.Context, pin model.Pin) ([]model.File, error) {
	return nil, noServer(pin.Location)
}

// Open is never reached by a pin of this store's own.
func (s *Store) Open(_ context.Context, pin model.Pin, _ string, _, _ int64) (io.ReadCloser, error) {
	return nil, noServer(pin.Location)
}

func noServer(what string) error {
	return &serving.Error{Op: "registry", Subject: what, Kind: serving.Invalid,
		Err: errors.New("proxied artifacts are a server's, and MLFLOW_TRACKING_URI names none"),
		Fix: "Set MLFLOW_TRACKING_URI to the address of the MLflow server."}
}

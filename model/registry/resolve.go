package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

const api = "/api/2.0/mlflow/"

// Resolve asks the server what ref means, along the same routes as MLflow's
// own load_model.
func (s *Server) Resolve(ctx context.Context, ref model.Ref) (model.Pin, error) {
	pin, err := s.resolve(ctx, ref)
	if err != nil {
		return model.Pin{}, fmt.Errorf("resolve %s: %w", ref.Text, err)
	}
	return pin, nil
}

func (s *Server) resolve(ctx context.Context, ref model.Ref) (model.Pin, error) {
	switch {
	case ref.Scheme == model.Artifacts:
		return s.artifacts(ctx, ref)
	case ref.Scheme == model.Runs:
		return s.run(ctx, ref)
	case ref.Scheme != model.Models:
		return model.Pin{}, &serving.Error{Kind: serving.Invalid, Err: fmt.Errorf("%s: is not MLflow's", ref.Scheme)}
	case ref.ID != "":
		return s.logged(ctx, ref.ID)
	}
	version := ref.Version
	var err error
	switch {
	case ref.Alias != "":
		version, err = s.alias(ctx, ref)
	case !number(version):
		version, err = s.latest(ctx, ref)
	}
	if err != nil {
		return model.Pin{}, err
	}
	return s.version(ctx, ref.Name, version)
}

func number(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

type wireVersion struct {
	Version string `json:"version"`
	Status  string `json:"status"`
	Message string `json:"status_message"`
	Stage   string `json:"current_stage"`
}

func (s *Server) alias(ctx context.Context, ref model.Ref) (string, error) {
	var a struct {
		Version wireVersion `json:"model_version"`
	}
	err := s.ask(ctx, call{method: http.MethodGet, path: api + "registered-models/alias", query: url.Values{"name": {ref.Name}, "alias": {ref.Alias}}}, &a)
	// An unknown alias is INVALID_PARAMETER_VALUE, for whatever reason.
	if errors.Is(err, serving.Invalid) || errors.Is(err, serving.NotFound) {
		return "", absent(err, fmt.Sprintf("Look at the model's aliases in MLflow, or name a version: models:/%s/1.", ref.Name))
	}
	return a.Version.Version, err
}

// latest finds the highest version, of a stage if one is named.
func (s *Server) latest(ctx context.Context, ref model.Ref) (string, error) {
	body := map[string]any{"name": ref.Name}
	if !strings.EqualFold(ref.Version, "latest") {
		body["stages"] = []string{ref.Version}
	}
	var a struct {
		Versions []wireVersion `json:"model_versions"`
	}
	err := s.ask(ctx, call{method: http.MethodPost, path: api + "registered-models/get-latest-versions", body: body}, &a)
	if errors.Is(err, serving.Invalid) || errors.Is(err, serving.NotFound) {
		return "", absent(err, "Look at the registered models in MLflow.")
	}
	if err != nil {
		return "", err
	}
	newest := uint64(0)
	for _, v := range a.Versions {
		if n, err := strconv.ParseUint(v.Version, 10, 64); err == nil {
			newest = max(newest, n)
		}
	}
	if newest == 0 {
		return "", absent(fmt.Errorf("model %q has no version %q", ref.Name, ref.Version), "Register a version, or name one that there is.")
	}
	return strconv.FormatUint(newest, 10), nil
}

func (s *Server) version(ctx context.Context, name, version string) (model.Pin, error) {
	query := url.Values{"name": {name}, "version": {version}}
	var a struct {
		Version wireVersion `json:"model_version"`
	}
	if err := s.ask(ctx, call{method: http.MethodGet, path: api + "model-versions/get", query: query}, &a); err != nil {
		if errors.Is(err, serving.NotFound) {
			return model.Pin{}, absent(err, "Look at the registered models and their versions in MLflow.")
		}
		return model.Pin{}, err
	}
	if st := a.Version.Status; st != "READY" && st != "" {
		return model.Pin{}, unready("version "+version, st, a.Version.Message)
	}
	var d struct {
		URI string `json:"artifact_uri"`
	}
	if err := s.ask(ctx, call{method: http.MethodGet, path: api + "model-versions/get-download-uri", query: query}, &d); err != nil {
		return model.Pin{}, err
	}
	pin := model.Pin{Ref: "models:/" + name + "/" + version, Name: name, Version: version}
	if id, ok := strings.CutPrefix(d.URI, "models:/"); ok {
		// Older servers answer with the logged model's name.
		m, err := s.logged(ctx, id)
		pin.Location = m.Location
		return pin, err
	}
	var err error
	pin.Location, err = located(d.URI, s.base.Host, s.loopback)
	return pin, err
}

type wireLogged struct {
	Info struct {
		ID       string `json:"model_id"`
		Name     string `json:"name"`
		URI      string `json:"artifact_uri"`
		Status   string `json:"status"`
		Message  string `json:"status_message"`
		Run      string `json:"source_run_id"`
		Creation int64  `json:"creation_timestamp_ms"`
	} `json:"info"`
}

func (s *Server) logged(ctx context.Context, id string) (model.Pin, error) {
	var a struct {
		Model wireLogged `json:"model"`
	}
	if err := s.ask(ctx, call{method: http.MethodGet, path: api + "logged-models/" + url.PathEscape(id)}, &a); err != nil {
		if errors.Is(err, serving.NotFound) {
			return model.Pin{}, absent(err, "Look at the logged models of the experiment in MLflow (MLflow 3 or later).")
		}
		return model.Pin{}, err
	}
	return s.pinLogged(a.Model)
}

func (s *Server) pinLogged(m wireLogged) (model.Pin, error) {
	if st := m.Info.Status; st != "LOGGED_MODEL_READY" && st != "READY" && st != "" {
		return model.Pin{}, unready("model "+m.Info.ID, st, m.Info.Message)
	}
	location, err := located(m.Info.URI, s.base.Host, s.loopback)
	return model.Pin{Ref: "models:/" + m.Info.ID, Location: location}, err
}

// run looks among the run's artifacts, then for a logged model of that name
// whose source is the run, which is where MLflow 3 puts it.
func (s *Server) run(ctx context.Context, ref model.Ref) (model.Pin, error) {
	var a struct {
		Run struct {
			Info struct {
				URI        string `json:"artifact_uri"`
				Experiment string `json:"experiment_id"`
			} `json:"info"`
		} `json:"run"`
	}
	if err := s.ask(ctx, call{method: http.MethodGet, path: api + "runs/get", query: url.Values{"run_id": {ref.ID}}}, &a); err != nil {
		if errors.Is(err, serving.NotFound) {
			return model.Pin{}, absent(err, "Look at the runs in MLflow.")
		}
		return model.Pin{}, err
	}
	var listed struct {
		Files []wireFile `json:"files"`
	}
	query := url.Values{"run_id": {ref.ID}, "path": {ref.Path}}
	if err := s.ask(ctx, call{method: http.MethodGet, path: api + "artifacts/list", query: query}, &listed); err != nil && !errors.Is(err, serving.NotFound) {
		return model.Pin{}, err
	}
	if len(listed.Files) > 0 {
		location, err := located(strings.TrimRight(a.Run.Info.URI, "/")+"/"+ref.Path, s.base.Host, s.loopback)
		return model.Pin{Ref: "runs:/" + ref.ID + "/" + ref.Path, Location: location}, err
	}
	return s.loggedBy(ctx, ref, a.Run.Info.Experiment)
}

func (s *Server) loggedBy(ctx context.Context, ref model.Ref, experiment string) (model.Pin, error) {
	none := absent(fmt.Errorf("run %s has neither an artifact nor a logged model called %q", ref.ID, ref.Path),
		"Look at the run in MLflow; log_model returns the model's own name (models:/m-…).")
	if strings.ContainsAny(ref.Path, `'"/`) {
		return model.Pin{}, none // no logged model can be called so, and a filter could be broken out of
	}
	body := map[string]any{"experiment_ids": []string{experiment}, "filter": "name = '" + ref.Path + "'", "max_results": 50}
	var best *wireLogged
	for range 100 { // pages; a server that never ends is not followed
		var a struct {
			Models []wireLogged `json:"models"`
			Next   string       `json:"next_page_token"`
		}
		if err := s.ask(ctx, call{method: http.MethodPost, path: api + "logged-models/search", body: body}, &a); err != nil {
			if errors.Is(err, serving.NotFound) {
				return model.Pin{}, none // MLflow 2 has no logged models
			}
			return model.Pin{}, err
		}
		for i, m := range a.Models {
			if m.Info.Run == ref.ID && m.Info.Name == ref.Path && (best == nil || m.Info.Creation > best.Info.Creation) {
				best = &a.Models[i]
			}
		}
		if a.Next == "" {
			break
		}
		body["page_token"] = a.Next
	}
	if best == nil {
		return model.Pin{}, none
	}
	return s.pinLogged(*best)
}

func (s *Server) artifacts(ctx context.Context, ref model.Ref) (model.Pin, error) {
	pin := model.Pin{Ref: "mlflow-artifacts:/" + ref.Path, Location: "mlflow-artifacts:/" + ref.Path}
	files, err := s.list(ctx, ref.Path)
	if err != nil {
		return model.Pin{}, err
	}
	if len(files) == 0 {
		return model.Pin{}, absent(fmt.Errorf("there is no folder %q among the server's artifacts", ref.Path), "Look at the artifact's path in MLflow.")
	}
	return pin, nil
}

func absent(err error, fix string) error {
	if e, ok := errors.AsType[*serving.Error](err); ok {
		if e.Err != nil {
			err = e.Err
		}
		if e.Fix != "" {
			fix = e.Fix
		}
	}
	return &serving.Error{Op: "registry", Kind: serving.NotFound, Err: err, Fix: fix}
}

func unready(what, status, message string) error {
	if message != "" {
		status += ": " + message
	}
	return &serving.Error{Op: "registry", Kind: serving.Unavailable, Err: fmt.Errorf("%s is not ready: %.300s", what, status),
		Fix: "Wait until its registration has ended, or log the model again if it failed."}
}

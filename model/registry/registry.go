// Package registry is the source of models that an MLflow tracking server or
// store knows: registered versions, aliases, logged models, runs, and the
// artifacts that a server proxies.
//
// A server is asked over REST ([Server]). A store that is a file or a database
// is asked through MLflow itself ([Store]): its schema is MLflow's own
// business. Hosts come from the operator's settings alone; a redirect or a
// location that names another is refused.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

// Settings say which registry is asked, as MLflow's own variables do.
type Settings struct {
	URI      string // MLFLOW_TRACKING_URI; empty is MLflow's own default, in Dir
	Token    string // MLFLOW_TRACKING_TOKEN
	Username string // MLFLOW_TRACKING_USERNAME
	Password string // MLFLOW_TRACKING_PASSWORD

	CAFile   string // MLFLOW_TRACKING_SERVER_CERT_PATH
	Insecure bool   // MLFLOW_TRACKING_INSECURE_TLS

	// Python returns an interpreter that has MLflow. It is asked only when URI
	// is no server.
	Python func(context.Context) (string, error)

	// Dir is the folder that a relative URI counts from; empty is the current one.
	Dir string
}

// FromVars reads settings from environment variables.
func FromVars(get func(string) string) Settings {
	return Settings{
		URI:      get("MLFLOW_TRACKING_URI"),
		Token:    get("MLFLOW_TRACKING_TOKEN"),
		Username: get("MLFLOW_TRACKING_USERNAME"),
		Password: get("MLFLOW_TRACKING_PASSWORD"),
		CAFile:   get("MLFLOW_TRACKING_SERVER_CERT_PATH"),
		Insecure: strings.EqualFold(get("MLFLOW_TRACKING_INSECURE_TLS"), "true"),
	}
}

// Place says which registry this is, without what is secret in its address.
// A store without an address of its own is one in the current folder.
func (s Settings) Place() string {
	uri := shown(s.URI)
	if scheme := urlScheme.FindString(s.URI); scheme == "http://" || scheme == "https://" {
		return strings.TrimRight(uri, "/")
	}
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return uri
	}
	return uri + " in " + dir
}

var urlScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

// New returns the source for s: a [Server] or a [Store].
func New(s Settings) (model.Source, error) {
	switch scheme := strings.ToLower(urlScheme.FindString(s.URI)); {
	case scheme == "http://" || scheme == "https://":
		return NewServer(s)
	case s.URI == "databricks" || scheme == "databricks://" || scheme == "databricks-uc://" || scheme == "uc://":
		return nil, &serving.Error{Op: "registry", Subject: s.URI, Kind: serving.Invalid, Err: errors.New("Databricks' own registry is not spoken"),
			Fix: "Set MLFLOW_TRACKING_URI to an http(s) address of an MLflow server, or to a file or database."}
	case s.Python == nil:
		return nil, &serving.Error{Op: "registry", Kind: serving.Invalid,
			Err: errors.New("MLFLOW_TRACKING_URI names no server, and there is no Python with MLflow to read a file or database"),
			Fix: "Set MLFLOW_TRACKING_URI to the address of an MLflow server, such as http://127.0.0.1:5000."}
	}
	return &Store{settings: s}, nil
}

// shown is a URI without what is secret in it.
func shown(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "(unreadable)"
	}
	return u.Redacted()
}

// located turns what a registry says of where bytes lie into a pin's location.
// What it says was written by whoever may register models, so it is read with
// the same care as a caller's MODEL. LocalToo says that folders may be named:
// the registry's disk is this machine's.
func located(uri string, host string, localToo bool) (string, error) {
	if rest, ok := strings.CutPrefix(uri, "mlflow-artifacts://"); ok && !strings.HasPrefix(rest, "/") {
		// MLflow allows the server's own address here; any other is a stranger.
		authority, path, _ := strings.Cut(rest, "/")
		if authority != host {
			return "", foreign(uri)
		}
		uri = "mlflow-artifacts:/" + path
	}
	uri = strings.Replace(uri, "mlflow-artifacts:///", "mlflow-artifacts:/", 1)
	for _, scheme := range []string{"http://", "https://"} {
		if rest, ok := strings.CutPrefix(uri, scheme); ok {
			path, ok := strings.CutPrefix(rest, host+"/api/2.0/mlflow-artifacts/artifacts/")
			if !ok {
				return "", foreign(uri)
			}
			uri = "mlflow-artifacts:/" + path
		}
	}
	ref, err := model.Parse(uri)
	if err != nil {
		return "", fmt.Errorf("where its files lie: %w", err)
	}
	if ref.Scheme == model.Folder && !localToo {
		return "", &serving.Error{Op: "registry", Kind: serving.Invalid,
			Err: errors.New("the model's files lie in a folder of the tracking server's machine, which cannot be read from here"),
			Fix: "Start the MLflow server with --serve-artifacts and an --artifacts-destination, and log the model again."}
	}
	return uri, nil
}

func foreign(uri string) error {
	u, err := url.Parse(uri)
	host := "another host"
	if err == nil && u.Host != "" {
		host = u.Host
	}
	return &serving.Error{Op: "registry", Kind: serving.Denied, Err: fmt.Errorf("the model's files are said to lie at %.100q, which is not the tracking server", host),
		Fix: "Only MLFLOW_TRACKING_URI and the object stores are read. Register the model from there."}
}

// Package model is where models are kept: it turns the MODEL that a user
// wrote into a folder of bytes that never change.
//
// A [Ref] is a parsed MODEL. A [Source] resolves it to a [Pin], the immutable
// thing that a name meant at that moment, lists its files and opens them; the
// rooms below this one are sources. The [Library] fetches a pin into a
// content-addressed store, remembers what was seen under it, and refuses
// other bytes under the same pin later.
//
// It reads no MLmodel and runs nothing; archives are never unpacked.
package model

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"loadline.dev/loadline/serving"
)

// Schemes of a [Ref] and of a [Pin]'s location.
const (
	Models    = "models"           // an MLflow registry's names and logged models
	Runs      = "runs"             // what an MLflow run logged
	Artifacts = "mlflow-artifacts" // a path on the tracking server
	Folder    = "file"             // a folder on this machine
	S3        = "s3"
	GS        = "gs"
	ABFSS     = "abfss"
	WASBS     = "wasbs"
)

// A Ref is a parsed MODEL string.
type Ref struct {
	Text   string // as written
	Scheme string

	// Of models:/. Exactly one of Version, Alias and ID is set. Version may be
	// "latest" or a stage.
	Name, Version, Alias string
	ID                   string // models:/m-…; for runs:/ the run's

	Bucket  string // s3, gs: the bucket; abfss, wasbs: the container
	Account string // abfss, wasbs: the storage account
	Host    string // abfss, wasbs: account and suffix, one of the public clouds'

	// Path is the folder, or the path within run, artifacts or bucket, without
	// slashes at its ends except for a folder's first.
	Path string
}

// Lineage is what versions of the same model share: its name, or path.
func (r Ref) Lineage() string {
	switch {
	case r.Name != "":
		return "models:/" + r.Name
	case r.Scheme == Runs:
		return "runs:/" + r.Path
	}
	return r.Text
}

// Default is a name for an endpoint that serves r: "fraud" for models:/fraud/3.
// It may need mending before it is a valid one.
func (r Ref) Default() string {
	switch {
	case r.Name != "":
		return r.Name
	case r.Path != "":
		return path.Base(r.Path)
	}
	return r.ID
}

const maxRef = 4096

var (
	schemeRE  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)
	modelID   = regexp.MustCompile(`^m-[0-9A-Za-z]{1,64}$`)
	runID     = regexp.MustCompile(`^[0-9A-Za-z_-]{1,256}$`)
	bucketRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)
	numbersRE = regexp.MustCompile(`^(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+))*$`)
	accountRE = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
)

// Parse reads a MODEL. A URI may name no host: which servers are asked is the
// operator's to say.
func Parse(s string) (Ref, error) {
	r := Ref{Text: s}
	switch {
	case s == "":
		return r, refuse(s, "it is empty")
	case len(s) > maxRef:
		return r, refuse(s[:80]+"…", "it is longer than %d bytes", maxRef)
	case strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) >= 0:
		return r, refuse(s, "it holds control characters")
	}
	scheme := strings.ToLower(strings.TrimSuffix(schemeRE.FindString(s), ":"))
	rest := s[len(schemeRE.FindString(s)):]
	r.Scheme = scheme
	switch scheme {
	case "":
		r.Scheme, r.Path = Folder, path.Clean(s)
		return r, nil
	case Folder:
		return parseFile(r)
	case Models, Runs, Artifacts:
		if strings.HasPrefix(rest, "//") {
			return r, refuse(s, "it names a server of its own; write %s:/… and let MLFLOW_TRACKING_URI say which server is asked", scheme)
		}
		return parseMLflow(r, strings.Trim(rest, "/"))
	case S3, GS, ABFSS, WASBS:
		return parseBucket(r, rest)
	}
	return r, refuse(s, "%q is no place for models, and a URI may name no host", scheme+":")
}

func parseFile(r Ref) (Ref, error) {
	u, err := url.Parse(r.Text)
	switch {
	case err != nil:
		return r, refuse(r.Text, "it is not a URI")
	case u.Host != "" && u.Host != "localhost", u.User != nil:
		return r, refuse(r.Text, "it names a host; write file:///folder")
	case u.RawQuery != "" || u.Fragment != "":
		return r, refuse(r.Text, "a file URI has no query or fragment")
	}
	r.Path = u.Path
	if r.Path == "" {
		r.Path = u.Opaque // file:relative
	}
	if r.Path == "" || strings.ContainsRune(r.Path, 0) {
		return r, refuse(r.Text, "it names no folder")
	}
	r.Path = path.Clean(r.Path)
	return r, nil
}

func parseMLflow(r Ref, rest string) (Ref, error) {
	parts := strings.Split(rest, "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.Contains(p, `\`) {
			return r, refuse(r.Text, "%q may not be a part of it", p)
		}
	}
	switch r.Scheme {
	case Artifacts:
		r.Path = rest
		return r, nil
	case Runs:
		if len(parts) < 2 || !runID.MatchString(parts[0]) {
			return r, refuse(r.Text, "it must be runs:/RUN_ID/PATH")
		}
		r.ID, r.Path = parts[0], strings.Join(parts[1:], "/")
		return r, nil
	}
	name, alias, at := strings.Cut(parts[0], "@")
	switch {
	case len(parts) == 1 && at && name != "" && alias != "":
		r.Name, r.Alias = name, alias
	case len(parts) == 1 && modelID.MatchString(parts[0]):
		r.ID = parts[0]
	case len(parts) == 2 && !at:
		r.Name, r.Version = parts[0], parts[1]
	default:
		return r, refuse(r.Text, "it must be models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID")
	}
	return r, nil
}

// azureSuffixes are the public clouds' own; any other host would be the caller's.
var azureSuffixes = []string{"core.windows.net", "core.usgovcloudapi.net", "core.chinacloudapi.cn"}

func parseBucket(r Ref, rest string) (Ref, error) {
	authority, key, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "/")
	if !strings.HasPrefix(rest, "//") || authority == "" {
		return r, refuse(r.Text, "it must be %s://BUCKET/PATH", r.Scheme)
	}
	if strings.ContainsAny(rest, `?#\`) {
		return r, refuse(r.Text, "a bucket's path has no query, fragment or backslash here")
	}
	for p := range strings.SplitSeq(strings.Trim(key, "/"), "/") {
		if p == "." || p == ".." {
			return r, refuse(r.Text, "%q may not be a part of it", p)
		}
	}
	r.Bucket, r.Path = authority, strings.Trim(key, "/")
	if r.Scheme == ABFSS || r.Scheme == WASBS {
		container, host, ok := strings.Cut(authority, "@")
		account, suffix, _ := strings.Cut(host, ".")
		kind := map[string]string{ABFSS: "dfs.", WASBS: "blob."}[r.Scheme]
		suffix, known := strings.CutPrefix(suffix, kind)
		if !ok || !known || !accountRE.MatchString(account) || !slices.Contains(azureSuffixes, suffix) {
			return r, refuse(r.Text, "it must be %s://CONTAINER@ACCOUNT.%score.windows.net/PATH", r.Scheme, kind)
		}
		r.Bucket, r.Account, r.Host = container, account, host
	}
	// What looks like an address is one: 169.254.169.254, 2852039166, 0xa9fe….
	if !bucketRE.MatchString(r.Bucket) || numbersRE.MatchString(r.Bucket) || strings.Contains(r.Bucket, "..") {
		return r, refuse(r.Text, "%.80q is no bucket's name", r.Bucket)
	}
	return r, nil
}

func refuse(text, format string, args ...any) error {
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return &serving.Error{Op: "model", Subject: fmt.Sprintf("%q", text), Kind: serving.Invalid, Err: fmt.Errorf(format, args...),
		Fix: "Name the model as models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID, runs:/ID/PATH, mlflow-artifacts:/PATH, s3://BUCKET/PATH, gs://…, abfss://…, or a folder."}
}

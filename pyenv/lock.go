package pyenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// platform is part of what names a lock: the same requirements resolve to
// other packages elsewhere.
const platform = runtime.GOOS + "-" + runtime.GOARCH

// A kept lock is what lies in locks/<digest>.json.
type kept struct {
	Python   string // minor version
	Exact    string // preferred interpreter; may be empty
	Platform string
	MLflow   string // empty in environments of our own tools
	Text     string // name==version with hashes, one package after another
	Sources  bool   // some packages lie beyond the index and have no hash
	Dir      string // the model's folder, where some packages are; empty otherwise
}

// An answer is what lies in locks/ask-<key>.json: what was asked became which lock.
type answer struct{ Digest, Note string }

// Lock settles which packages the model in dir gets. The same question gets
// the same answer for ever, without the index being asked again. The
// environment returned is not built yet.
func (b *Builder) Lock(ctx context.Context, dir string, m mlmodel.Model, log io.Writer, report Report) (serving.Environment, error) {
	w, err := read(dir, m, b.AllowSources)
	if err != nil {
		return serving.Environment{}, err
	}
	return b.lock(ctx, w, log, report)
}

func (b *Builder) lock(ctx context.Context, w wants, log io.Writer, report Report) (serving.Environment, error) {
	for _, dir := range []string{"locks", "tmp", "envs"} {
		if err := os.MkdirAll(b.path(dir), 0o700); err != nil {
			return serving.Environment{}, err
		}
	}
	key := w.key()
	unlock, err := lockFile(ctx, b.path("tmp", "lock-"+key+".lock"))
	if err != nil {
		return serving.Environment{}, err
	}
	defer unlock()
	asked := b.path("locks", "ask-"+key+".json")
	var known answer
	if err := readJSON(asked, &known); err == nil {
		if k, err := b.kept(known.Digest); err == nil {
			report(serving.Phase{State: serving.PhaseCached, Note: k.note(known.Note), Done: k.size(), Total: k.size()})
			return k.environment(known.Digest), nil
		}
	}
	i, err := find(ctx, w.python, w.exact)
	if err != nil {
		return serving.Environment{}, err
	}
	text, notes, err := b.resolve(ctx, w, i, key, log)
	if err != nil {
		return serving.Environment{}, err
	}
	k := kept{Python: w.python, Exact: w.exact, Platform: platform, MLflow: pinned(text, "mlflow"), Text: text, Sources: w.sources}
	if w.sources || w.wheels {
		k.Dir = w.dir
	}
	digest := k.digest()
	note := strings.Join(append(w.notes, notes...), "; ")
	if err := writeJSON(b.path("locks", digest+".json"), k); err != nil {
		return serving.Environment{}, err
	}
	if err := writeJSON(asked, answer{digest, note}); err != nil {
		return serving.Environment{}, err
	}
	report(serving.Phase{Note: k.note(note), Done: k.size(), Total: k.size()})
	return k.environment(digest), nil
}

// key names the question.
func (w *wants) key() string {
	h := sha256.New()
	put := func(parts ...string) {
		for _, p := range parts {
			fmt.Fprintf(h, "%d:%s\n", len(p), p)
		}
	}
	put("loadline ask 1", platform, w.python, fmt.Sprint(w.pre, w.sources))
	if w.sources || w.wheels {
		put(w.dir)
	}
	put("requirements")
	put(w.lines...)
	put("constraints")
	put(w.constraints...)
	put("build")
	for _, q := range w.build {
		put(q.text)
	}
	put("before", w.before.UTC().Format(time.RFC3339))
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// resolve asks uv for the lock, as of the day the model was made if the index
// can say what there was that day.
func (b *Builder) resolve(ctx context.Context, w wants, i Interpreter, key string, log io.Writer) (text string, notes []string, err error) {
	var last error
	undated := false // the index does not tell upload times
	tmp := b.path("tmp", "lock-"+key)
	os.RemoveAll(tmp)
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(tmp)
	for _, a := range w.attempts() {
		if undated && a.cutoff {
			continue
		}
		a.dir = tmp
		text, dated, err := b.compile(ctx, w, i, a, log)
		undated = undated || !dated
		switch {
		case err == nil:
			return text, a.notes(w.before, undated), nil
		case ctx.Err() != nil:
			return "", nil, ctx.Err()
		case isNetwork(err):
			return "", nil, &serving.Error{Op: "resolve packages", Kind: serving.Unavailable, Err: err,
				Fix: "check that the package index answers, then deploy again"}
		}
		last = err
	}
	return "", nil, &serving.Error{Op: "resolve packages", Kind: serving.Invalid, Err: last,
		Fix: "correct the model's requirements and log it again"}
}

// An attempt is one way of asking uv.
type attempt struct {
	dir    string // for our files, and the only one it may write
	cutoff bool   // only packages from before the model was made
	loose  int    // how far build dependencies are left open, in steps
}

// How far build dependencies may be left open. pip installs them first and
// lets the requirements overrule what they need, so that a wheel that wants a
// newer packaging than MLflow has does no harm there. Setuptools is the last to
// go: older releases of MLflow import its pkg_resources, which newer ones lack.
const (
	asWritten = iota
	setuptoolsOnly
	allOpen
)

// attempts are the ways to try, strictest first.
func (w *wants) attempts() []attempt {
	var out []attempt
	for _, cutoff := range []bool{true, false} {
		if cutoff && w.before.IsZero() {
			continue
		}
		out = append(out, attempt{cutoff: cutoff})
		if slices.ContainsFunc(w.build, func(q requirement) bool { return q.name != "setuptools" && q.name != q.text }) {
			out = append(out, attempt{cutoff: cutoff, loose: setuptoolsOnly})
		}
		if slices.ContainsFunc(w.build, func(q requirement) bool { return q.name != q.text }) {
			out = append(out, attempt{cutoff: cutoff, loose: allOpen})
		}
	}
	return out
}

// notes say in what an answer is less than what was asked for.
func (a attempt) notes(before time.Time, undated bool) (notes []string) {
	switch {
	case a.cutoff || before.IsZero():
	case undated:
		notes = append(notes, "resolved with today's packages: the index does not say when packages were uploaded")
	default:
		notes = append(notes, "resolved with today's packages: the requirements cannot be met by those of "+before.UTC().Format(time.DateOnly))
	}
	switch a.loose {
	case setuptoolsOnly:
		notes = append(notes, "the versions of its build dependencies contradict the requirements and were left open, that of setuptools apart")
	case allOpen:
		notes = append(notes, "the versions of its build dependencies contradict the requirements and were left open")
	}
	return notes
}

// compile runs uv once. dated is false when the index did not say when
// packages were uploaded, though it was asked.
func (b *Builder) compile(ctx context.Context, w wants, i Interpreter, a attempt, log io.Writer) (text string, dated bool, err error) {
	in, out, limits := filepath.Join(a.dir, "requirements.in"), filepath.Join(a.dir, "lock.txt"), filepath.Join(a.dir, "constraints.txt")
	lines := w.lines
	for _, q := range w.build {
		if !contains(w.names, q.name) {
			text := q.text
			if a.loose == allOpen || a.loose == setuptoolsOnly && q.name != "setuptools" {
				text = q.name
			}
			lines = append(lines[:len(lines):len(lines)], text)
		}
	}
	if err := os.WriteFile(in, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return "", true, err
	}
	os.Remove(out)
	// A cache of its own: resolving may run a package's build script, which
	// must not be able to change what other environments are made of.
	args := []string{"pip", "compile", in, "--output-file", out, "--generate-hashes",
		"--no-header", "--no-annotate", "--python", i.Path, "--no-sources", "--no-python-downloads"}
	c := call{args: args, dir: a.dir, cache: filepath.Join(a.dir, "cache"), confined: true, mute: true, read: []string{i.home()}}
	if len(w.constraints) > 0 {
		if err := os.WriteFile(limits, []byte(strings.Join(w.constraints, "\n")+"\n"), 0o600); err != nil {
			return "", true, err
		}
		c.args = append(c.args, "--constraint", limits)
	}
	if a.cutoff {
		c.args = append(c.args, "--exclude-newer", w.before.UTC().Format(time.RFC3339))
	}
	if w.pre {
		c.args = append(c.args, "--prerelease", "allow")
	}
	if w.sources || w.wheels {
		c.read = append(c.read, w.dir)
	}
	if w.sources {
		c.args = append(c.args, "--emit-index-url", "--emit-find-links")
	}
	dated = true
	c.watch = func(line string) { dated = dated && !strings.Contains(line, "is missing an upload date") }
	if err := b.run(ctx, c, log); err != nil {
		return "", dated, err
	}
	data, err := os.ReadFile(out)
	return strings.TrimSpace(string(data)) + "\n", dated, err
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// home is the folder of the interpreter's installation.
func (i Interpreter) home() string { return filepath.Dir(filepath.Dir(i.Path)) }

func (k kept) digest() string {
	sum := sha256.Sum256([]byte("loadline environment 1\n" + k.Platform + "\n" + k.Python + "\n" + k.Dir + "\n" + k.Text))
	return hex.EncodeToString(sum[:])[:32]
}

func (k kept) environment(digest string) serving.Environment {
	return serving.Environment{Digest: digest, Python: k.Python, MLflow: k.MLflow}
}

var packageRE = regexp.MustCompile(`(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?(?:==([^\s;\\]+)| @ )`)

func (k kept) size() int64 { return int64(len(packageRE.FindAllString(k.Text, -1))) }

func (k kept) note(more string) string {
	note := fmt.Sprintf("Python %s, %d packages", k.Python, k.size())
	if k.MLflow != "" {
		note += ", MLflow " + k.MLflow
	}
	if more != "" {
		note += "; " + more
	}
	return note
}

// pinned is the version that the lock gives a package, or "".
func pinned(text, name string) string {
	for _, m := range packageRE.FindAllStringSubmatch(text, -1) {
		if normal(m[1]) == name {
			return m[2]
		}
	}
	return ""
}

var digestRE = regexp.MustCompile(`^[0-9a-f]{32}$`)

// kept reads a lock, and refuses one whose text is no longer what its name says.
func (b *Builder) kept(digest string) (kept, error) {
	var k kept
	if !digestRE.MatchString(digest) {
		return k, &serving.Error{Op: "read lock", Subject: digest, Kind: serving.NotFound}
	}
	path := b.path("locks", digest+".json")
	if err := readJSON(path, &k); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return k, &serving.Error{Op: "read lock", Subject: digest, Kind: serving.NotFound}
		}
		return k, err
	}
	if k.digest() != digest {
		return k, &serving.Error{Op: "read lock", Subject: path, Kind: serving.Internal,
			Err: errors.New("its content has changed since it was written"), Fix: "delete the file and deploy again"}
	}
	return k, nil
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// writeJSON replaces the file whole, so that a reader sees the old or the new.
func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

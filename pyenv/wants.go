package pyenv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// wants is what a model asks of its environment.
type wants struct {
	python string // minor version
	exact  string // full version, for preference only; may be empty

	lines       []string // requirements
	constraints []string
	names       []string // of the packages in lines
	pins        map[string]string

	// build holds what MLflow installs before anything else (pip, setuptools,
	// wheel). Requirements overrule it, as they do there.
	build []requirement

	sources bool   // some line reaches beyond the index, and that was allowed
	wheels  bool   // some packages lie in the model's own folder
	dir     string // that folder
	pre     bool   // --pre
	before  time.Time
	notes   []string
}

func (w *wants) add(r requirement) {
	w.lines = append(w.lines, r.text)
	if r.name == "" {
		return
	}
	w.names = append(w.names, r.name)
	if r.pin != "" {
		if w.pins == nil {
			w.pins = map[string]string{}
		}
		w.pins[r.name] = r.pin
	}
}

// Bounds on what outsiders' files may make us read.
const (
	maxFile  = 1 << 20
	maxLines = 5000
	maxDepth = 5 // of -r within -r
)

// reader reads one model's requirement files, none of them outside its folder.
type reader struct {
	root  *os.Root
	allow bool
	w     wants
	lines int
}

// read finds out what the model in dir asks for.
func read(dir string, m mlmodel.Model, allow bool) (wants, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return wants{}, err
	}
	defer root.Close()
	r := &reader{root: root, allow: allow, w: wants{before: m.Created, dir: dir}}
	pf := m.PyFunc
	if pf == nil {
		pf = &mlmodel.PyFunc{}
	}
	if err := r.environment(pf); err != nil {
		return wants{}, err
	}
	if r.w.exact == "" {
		r.w.exact = pf.PythonVersion
	}
	if r.w.python, err = minorOf(r.w.exact); err != nil {
		return wants{}, err
	}
	r.w.withMLflow(m.MLflowVersion)
	r.w.withSetuptools(m.MLflowVersion)
	return r.w, nil
}

// environment reads python_env.yaml, else conda.yaml, else requirements.txt
// alone, in MLflow's order. A conda.yaml is looked at even when it is not
// used: MLflow drops its conda packages from python_env.yaml without a word.
func (r *reader) environment(pf *mlmodel.PyFunc) error {
	condaName := or(pf.Conda, "conda.yaml")
	conda, err := r.open(condaName)
	if err != nil {
		return err
	}
	var c condaFile
	if conda != nil {
		if c, err = readConda(conda); err != nil {
			return fmt.Errorf("%s: %w", condaName, err)
		}
	}
	pythonName := or(pf.Virtualenv, "python_env.yaml")
	data, err := r.open(pythonName)
	if err != nil {
		return err
	}
	switch {
	case data != nil:
		return r.pythonEnv(pythonName, data)
	case conda != nil:
		r.w.exact = c.python
		return r.each(condaName, c.pip, 0)
	}
	data, err = r.open("requirements.txt")
	if err != nil {
		return err
	}
	if data == nil {
		r.w.notes = append(r.w.notes, "the model names no requirements")
		return nil
	}
	return r.file("requirements.txt", data, 0)
}

func (r *reader) pythonEnv(name string, data []byte) error {
	e, err := readPythonEnv(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.w.exact = e.python
	if err := r.each(name, e.dependencies, 0); err != nil {
		return err
	}
	for _, l := range e.build {
		q, err := readLine(l.text)
		if err != nil {
			return at(name, l.number, err)
		}
		r.w.build = append(r.w.build, q)
	}
	return nil
}

// open returns nil for a file that is not there.
func (r *reader) open(name string) ([]byte, error) {
	f, err := r.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &serving.Error{Op: "read", Subject: name, Kind: serving.Invalid, Err: err}
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, &serving.Error{Op: "read", Subject: name, Kind: serving.Invalid, Err: errors.New("not a regular file")}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, &serving.Error{Op: "read", Subject: name, Kind: serving.Invalid, Err: fmt.Errorf("longer than %d bytes", maxFile)}
	}
	return append([]byte{}, data...), nil
}

// A line is one logical line of a file, comments gone and continuations joined.
type line struct {
	number int // of its first physical line
	text   string
}

var commentRE = regexp.MustCompile(`(^|\s)#.*$`)

func splitLines(data []byte) []line {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var out []line
	joined, start := "", 0
	for n, raw := range strings.Split(string(data), "\n") {
		raw = strings.TrimSuffix(raw, "\r")
		if joined == "" {
			start = n + 1
		}
		if body, more := strings.CutSuffix(raw, `\`); more && !strings.HasPrefix(strings.TrimSpace(raw), "#") {
			joined += body + " "
			continue
		}
		text := strings.TrimSpace(commentRE.ReplaceAllString(joined+raw, ""))
		joined = ""
		if text != "" {
			out = append(out, line{start, text})
		}
	}
	if text := strings.TrimSpace(commentRE.ReplaceAllString(joined, "")); text != "" {
		out = append(out, line{start, text})
	}
	return out
}

func (r *reader) file(name string, data []byte, depth int) error {
	return r.each(name, splitLines(data), depth)
}

var (
	includeRE    = regexp.MustCompile(`^(?:-r|--requirement)[\s=]+(\S+)$`)
	constraintRE = regexp.MustCompile(`^(?:-c|--constraint)[\s=]+(\S+)$`)
)

func (r *reader) each(file string, lines []line, depth int) error {
	for _, l := range lines {
		if r.lines++; r.lines > maxLines {
			return at(file, l.number, refusal("more than %d requirements", maxLines))
		}
		if strings.ContainsFunc(l.text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			return at(file, l.number, refusal("holds a control character"))
		}
		if err := r.one(file, l, depth); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) one(file string, l line, depth int) error {
	if m := includeRE.FindStringSubmatch(l.text); m != nil {
		name, data, err := r.beside(file, m[1], depth)
		if err != nil {
			return at(file, l.number, err)
		}
		return r.file(name, data, depth+1)
	}
	if m := constraintRE.FindStringSubmatch(l.text); m != nil {
		name, data, err := r.beside(file, m[1], depth)
		if err != nil {
			return at(file, l.number, err)
		}
		for _, c := range splitLines(data) {
			q, err := readLine(c.text)
			if err != nil {
				return at(name, c.number, err)
			}
			r.w.constraints = append(r.w.constraints, q.text)
		}
		return nil
	}
	if l.text == "--pre" {
		r.w.pre = true
		return nil
	}
	q, err := readLine(l.text)
	if err != nil && ownWheelRE.MatchString(l.text) {
		q, err = r.wheel(file, l.text)
		r.w.wheels = true
	}
	if err != nil && r.allow {
		r.w.sources = true
		q, err = requirement{text: l.text}, nil
		if name, _, ok := strings.Cut(l.text, "@"); ok && !strings.HasPrefix(l.text, "-") {
			q.name = normal(strings.TrimSpace(name))
		}
	}
	if err != nil {
		return at(file, l.number, err)
	}
	r.w.add(q)
	return nil
}

// MLflow's add_libraries_to_model puts wheels into the model's folder and names
// them like this.
var ownWheelRE = regexp.MustCompile(`^(?:\./)?[A-Za-z0-9_][A-Za-z0-9_.+/-]*\.whl$`)

func (r *reader) wheel(file, name string) (requirement, error) {
	name = path.Join(path.Dir(file), name)
	info, err := r.root.Stat(name) // never outside the folder, not even by links
	if err != nil || !info.Mode().IsRegular() {
		return requirement{}, refusal("%q is not among the model's files", name)
	}
	dist, _, _ := strings.Cut(path.Base(name), "-")
	place := url.URL{Scheme: "file", Path: filepath.Join(r.w.dir, filepath.FromSlash(name))}
	return requirement{name: normal(dist), text: dist + " @ " + place.String()}, nil
}

// beside opens the file that a line of another names.
func (r *reader) beside(file, name string, depth int) (string, []byte, error) {
	if depth >= maxDepth {
		return "", nil, refusal("files include each other more than %d deep", maxDepth)
	}
	if path.IsAbs(name) || strings.Contains(name, "://") {
		return "", nil, refusal("%q lies outside the model's folder", redact(name))
	}
	name = path.Join(path.Dir(file), name)
	data, err := r.open(name)
	if err == nil && data == nil {
		err = refusal("%q is not among the model's files", name)
	}
	return name, data, err
}

// withMLflow sees to it that the scoring server can be imported. MLflow's own
// servers presume it: a model logged by hand may not name it, and one that
// names only mlflow-skinny lacks what pyfunc needs.
func (w *wants) withMLflow(version string) {
	if slices.Contains(w.names, "mlflow") {
		return
	}
	version, _, _ = strings.Cut(version, ".dev") // never on the index; MLflow writes its release instead
	why := "the requirements name no MLflow"
	if slices.Contains(w.names, "mlflow-skinny") {
		why = "mlflow-skinny alone cannot score"
		version = or(w.pins["mlflow-skinny"], version)
	}
	text := "mlflow"
	if version != "" {
		text += "==" + version
	}
	r, err := readLine(text)
	if err != nil { // the version is an outsider's text
		r = requirement{name: "mlflow", text: "mlflow"}
	}
	w.add(r)
	w.notes = append(w.notes, why+": added "+r.text)
}

var oldMLflowRE = regexp.MustCompile(`^(?:1|2\.(?:[0-9]|1[0-6]))(?:\.|$)`)

// withSetuptools keeps pkg_resources, which MLflow imports before 2.17 without
// naming what provides it, and which setuptools has dropped since.
func (w *wants) withSetuptools(logged string) {
	versioned := func(q requirement) bool { return q.name == "setuptools" && q.text != q.name }
	if !oldMLflowRE.MatchString(or(w.pins["mlflow"], logged)) || slices.Contains(w.names, "setuptools") || slices.ContainsFunc(w.build, versioned) {
		return
	}
	w.add(requirement{name: "setuptools", text: "setuptools<81"})
	w.notes = append(w.notes, "MLflow before 2.17 needs pkg_resources: added setuptools<81")
}

var minorRE = regexp.MustCompile(`^(\d+\.\d+)(\.\d+)?([a-z]+\d+)?\+?$`)

func minorOf(version string) (string, error) {
	if version == "" {
		return "", &serving.Error{Op: "read environment", Kind: serving.Invalid,
			Err: errors.New("neither python_env.yaml, conda.yaml nor MLmodel says which Python the model needs"),
			Fix: "add a line like \"python: 3.11.7\" to python_env.yaml"}
	}
	m := minorRE.FindStringSubmatch(version)
	if m == nil {
		return "", refusal("%q is not a Python version such as 3.11.7", shorten(version, 40))
	}
	return m[1], nil
}

func at(file string, number int, err error) error {
	return fmt.Errorf("%s line %d: %w", file, number, err)
}

func refusal(format string, args ...any) error {
	return &serving.Error{Kind: serving.Invalid, Err: fmt.Errorf(format, args...)}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

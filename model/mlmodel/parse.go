// Package mlmodel reads MLmodel files: which flavours a model has, its
// signature, what its Python side needs.
//
// The bytes come from outsiders. Nothing in them is executed or constructed:
// tags are refused, aliases are counted before they are followed, keys may not
// repeat, and every path must stay inside the model's folder. A refusal names
// the line. The package touches no file; whoever has the bytes calls [Parse].
package mlmodel

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"loadline.dev/loadline/serving"
)

// MaxBytes is the size of the largest MLmodel that is read. A signature of ten
// thousand columns takes about 0.7 MB.
const MaxBytes = 4 << 20

// A Model is what an MLmodel file says.
type Model struct {
	Flavors map[string]Flavor
	PyFunc  *PyFunc // the python_function flavour; nil when there is none

	MLflowVersion string // that wrote the model; may be empty
	ModelID       string // "m-…" of MLflow 3; may be empty
	RunID         string
	ArtifactPath  string
	Created       time.Time // UTC; zero when the file does not say

	Signature *Signature // nil when there is none
	Example   *Example   // nil when the model was saved without one

	// TypeHints says that the signature comes from the type hints of the
	// model's predict method; the scoring protocol differs then.
	TypeHints bool
}

// A Flavor is one way to load the model, as plain values: string, int64, bool,
// nil, []any, map[string]any. What looks like a fraction stays text: "3.10" is
// a version far more often than a number.
type Flavor map[string]any

// Text is the value under key as text, or "" when it is absent, null, or not a scalar.
func (f Flavor) Text(key string) string {
	switch v := f[key].(type) {
	case string:
		return v
	case nil, []any, map[string]any:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

// A PyFunc is the python_function flavour.
type PyFunc struct {
	LoaderModule  string // "mlflow.sklearn"
	Data          string // relative path of the model's data; may be empty
	Code          string // relative path of a folder put on Python's path; may be empty
	PredictFn     string // "predict" unless the file says otherwise
	PythonVersion string // full: "3.11.7"; may be empty
	Conda         string // relative path of conda.yaml; may be empty
	Virtualenv    string // relative path of python_env.yaml; may be empty
	Streamable    bool   // has predict_stream
}

// An Example says where the model's own example lies, relative to its folder.
type Example struct {
	Type    string // "dataframe", "ndarray", "json_object", …
	Orient  string // "split", "records"; dataframes only
	Path    string // input_example.json; may be empty
	Serving string // a ready request body; may be empty with old models
}

// Parse reads an MLmodel file.
func Parse(data []byte) (Model, error) {
	root, err := load(data)
	if err != nil {
		return Model{}, refused(err)
	}
	m, err := interpret(root)
	if err != nil {
		return Model{}, refused(err)
	}
	return m, nil
}

func refused(err error) error {
	return &serving.Error{Op: "read MLmodel", Kind: serving.Invalid, Err: err,
		Fix: "Save the model again with mlflow's save_model or log_model."}
}

// load checks what can be checked of the text and parses it to nodes. Nodes
// keep their lines, and aliases in them are not expanded yet.
func load(data []byte) (*yaml.Node, error) {
	switch {
	case len(data) > MaxBytes:
		return nil, fmt.Errorf("%d bytes; at most %d are read", len(data), MaxBytes)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, errors.New("line 1: the file is empty")
	}
	if i := notText(data); i >= 0 {
		return nil, fmt.Errorf("line %d: not UTF-8 text", 1+bytes.Count(data[:i], []byte("\n")))
	}
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		if e, ok := errors.AsType[*yaml.LoadError](err); ok && e.Mark.Line > 0 {
			return nil, fmt.Errorf("line %d: not YAML: %s", e.Mark.Line, e.Message)
		}
		return nil, fmt.Errorf("not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	root := &doc
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: a mapping is needed at the top", max(root.Line, 1))
	}
	return root, nil
}

// notText returns where data stops being UTF-8 text without NUL, or -1. UTF-16
// is refused here: MLflow itself reads MLmodel as UTF-8 only.
func notText(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 || r == 0 {
			return i
		}
		i += n
	}
	return -1
}

func interpret(root *yaml.Node) (Model, error) {
	w := walker{budget: maxNodes}
	top, err := w.mapping(root)
	if err != nil {
		return Model{}, err
	}
	m := Model{
		MLflowVersion: top.text("mlflow_version"),
		ModelID:       top.text("model_id"),
		RunID:         top.text("run_id"),
		ArtifactPath:  top.text("artifact_path"),
		Created:       parseTime(top.text("utc_time_created")),
		TypeHints:     top.text("is_signature_from_type_hint") == "true",
	}
	if err := readFlavors(&m, top); err != nil {
		return Model{}, err
	}
	if m.Signature, err = readSignature(top); err != nil {
		return Model{}, err
	}
	if m.Example, err = readExample(top); err != nil {
		return Model{}, err
	}
	return m, nil
}

func readFlavors(m *Model, top table) error {
	flavors, ok := top.values["flavors"].(table)
	if !ok {
		return fmt.Errorf("line %d: flavors is missing or not a mapping: this is no MLflow model", max(top.lines["flavors"], 1))
	}
	m.Flavors = make(map[string]Flavor, len(flavors.values))
	for name, v := range flavors.values {
		switch v := v.(type) {
		case table:
			m.Flavors[name] = v.plain()
		case scalar:
			if v.value != nil {
				return fmt.Errorf("line %d: flavour %.80q is not a mapping", flavors.lines[name], name)
			}
			m.Flavors[name] = Flavor{}
		default:
			return fmt.Errorf("line %d: flavour %.80q is not a mapping", flavors.lines[name], name)
		}
	}
	t, ok := flavors.values["python_function"].(table)
	if !ok {
		return nil
	}
	p, err := readPyFunc(t)
	m.PyFunc = p
	return err
}

func readPyFunc(t table) (*PyFunc, error) {
	p := &PyFunc{
		LoaderModule:  t.text("loader_module"),
		PredictFn:     t.text("predict_fn"),
		PythonVersion: t.text("python_version"),
		Streamable:    t.text("streamable") == "true",
	}
	if p.PredictFn == "" {
		p.PredictFn = "predict"
	}
	if p.LoaderModule == "" {
		return nil, fmt.Errorf("line %d: python_function has no loader_module", t.line)
	}
	var err error
	// Flavours built on a data file name it "data"; newer ones say "model_path".
	for _, key := range []string{"data", "model_path"} {
		if p.Data == "" {
			if p.Data, err = t.path(key); err != nil {
				return nil, err
			}
		}
	}
	if p.Code, err = t.path("code"); err != nil {
		return nil, err
	}
	if err := readEnv(p, t); err != nil {
		return nil, err
	}
	artifacts, _ := t.values["artifacts"].(table)
	for _, v := range artifacts.values {
		if a, ok := v.(table); ok {
			if _, err := a.path("path"); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// readEnv reads env, which was the conda file's name alone before MLflow 2.
func readEnv(p *PyFunc, t table) (err error) {
	env, ok := t.values["env"].(table)
	if !ok {
		p.Conda, err = t.path("env")
		return err
	}
	if p.Conda, err = env.path("conda"); err != nil {
		return err
	}
	p.Virtualenv, err = env.path("virtualenv")
	return err
}

func readExample(top table) (*Example, error) {
	t, ok := top.values["saved_input_example_info"].(table)
	if !ok {
		return nil, nil
	}
	e := &Example{Type: t.text("type"), Orient: t.text("pandas_orient")}
	var err error
	if e.Path, err = t.path("artifact_path"); err != nil {
		return nil, err
	}
	if e.Serving, err = t.path("serving_input_path"); err != nil {
		return nil, err
	}
	return e, nil
}

// parseTime reads what Python's str(datetime) writes. A time that it cannot
// read is no reason to refuse a model.
func parseTime(s string) time.Time {
	for _, layout := range []string{"2006-01-02 15:04:05.999999", time.RFC3339Nano} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

package prepare

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/serving"
)

// A Workshop converts models for the native engine, and compares the engines'
// answers. Both are done by processes of their own, in a sandbox, so that what
// goes wrong in them loses the candidate and nothing else.
type Workshop struct {
	Dir   string // conversions are kept here, one folder each, named by content
	Trial *Trial // starts the comparing child; unfinished work lies in its folder

	// Tools makes the environment that holds the converters and ONNX Runtime,
	// for models of one Python minor version.
	Tools func(ctx context.Context, python string, log io.Writer, report func(serving.Phase)) (serving.Environment, error)

	Limit time.Duration // of one conversion; zero is a minute
}

// Converters are what the tool environment holds: within the versions that
// were tried, the newest that the Python allows.
var Converters = []string{"skl2onnx>=1.17,<1.21", "onnxmltools>=1.12,<1.17", "onnx>=1.16,<1.24", "onnxruntime>=1.17,<1.33"}

// A Conversion is what became of a model in ONNX.
type Conversion struct {
	Candidates []serving.Native // without guards, one for each precision
	columns    []column
}

// A plan is what convert.py writes.
type plan struct {
	Why            string   // why there is no candidate; else empty
	Lost           []string // why a precision is not among the candidates
	MLflow, Schema string
	Params         string
	Columns        []column
	Candidates     []struct {
		Precision, File string
		Inputs          []serving.NativeInput
		Answer          serving.NativeAnswer
	}
}

// A column is one of the signature, and what is worth asking about it.
type column struct {
	Name   string
	Type   string    // MLflow's; "tensor" for each place in the rows of a tensor
	Points []float64 // at which the model may change its mind
	Texts  []string  // that it was trained on
	Free   bool      // texts are any, made of the words in Texts
}

//go:embed convert.py
var convertPy []byte

const (
	planFile     = "plan.json"
	convertFile  = "convert.py"
	convertTime  = 60 * time.Second
	convertBytes = 2 << 30 // of memory
	maxPlan      = 64 << 20
)

// Convert makes the candidates for a recipe. Its error says why there are none;
// it does not mean that the model cannot be served.
func (w *Workshop) Convert(ctx context.Context, r serving.Recipe, log io.Writer, say func(serving.Phase)) (Conversion, error) {
	tools, err := w.Tools(ctx, r.Env.Python, log, say)
	if err != nil {
		return Conversion{}, &serving.Error{Op: "build the converters' environment", Kind: serving.Unavailable, Err: err}
	}
	library, err := findLibrary(tools.Dir)
	if err != nil {
		return Conversion{}, err
	}
	key := hash("loadline native 1", r.Model.Digest, r.Env.Digest, tools.Digest, string(convertPy))[:32]
	dir := filepath.Join(w.Dir, key)
	p, err := readPlan(dir)
	if errors.Is(err, os.ErrNotExist) {
		say(serving.Phase{Note: "converting"})
		if err = w.convert(ctx, r, tools, dir, log); err == nil {
			p, err = readPlan(dir)
		}
	} else if err == nil {
		say(serving.Phase{State: serving.PhaseCached})
	}
	if err != nil {
		return Conversion{}, err
	}
	for _, why := range p.Lost {
		fmt.Fprintf(log, "native: not converted: %s\n", why)
	}
	if p.Why != "" {
		return Conversion{}, errors.New(p.Why)
	}
	c := Conversion{columns: p.Columns}
	for _, one := range p.Candidates {
		if one.File != filepath.Base(one.File) {
			return Conversion{}, fmt.Errorf("the conversion names %q", one.File)
		}
		c.Candidates = append(c.Candidates, serving.Native{Library: library, Model: filepath.Join(dir, one.File), Precision: one.Precision,
			Schema: p.Schema, Params: p.Params, MLflow: p.MLflow, Inputs: one.Inputs, Answer: one.Answer})
	}
	return c, nil
}

// findLibrary is ONNX Runtime within an environment.
func findLibrary(env string) (string, error) {
	found, err := filepath.Glob(filepath.Join(env, "lib", "python3*", "site-packages", "onnxruntime", "capi", "libonnxruntime.so*"))
	if err == nil && len(found) == 0 {
		err = errors.New("the onnxruntime package has no libonnxruntime.so for this system")
	}
	if err != nil {
		return "", err
	}
	return slices.Max(found), nil
}

func readPlan(dir string) (p plan, err error) {
	f, err := os.Open(filepath.Join(dir, planFile))
	if err != nil {
		return p, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPlan))
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return p, fmt.Errorf("read conversion: %w", err)
	}
	return p, nil
}

// convert runs the script, and moves what it made to dir once it is whole.
func (w *Workshop) convert(ctx context.Context, r serving.Recipe, tools serving.Environment, dir string, log io.Writer) error {
	if err := errors.Join(os.MkdirAll(w.Trial.Dir, 0o700), os.MkdirAll(w.Dir, 0o700)); err != nil {
		return err
	}
	work, err := os.MkdirTemp(w.Trial.Dir, "convert-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	out := filepath.Join(work, "out")
	if err := errors.Join(os.Mkdir(out, 0o700), os.WriteFile(filepath.Join(work, convertFile), convertPy, 0o600)); err != nil {
		return err
	}
	limit := cmp.Or(w.Limit, convertTime)
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	packages, err := sitePackages(tools.Dir)
	if err != nil {
		return err
	}
	cmd, err := w.converter(within, r, work, tools.Dir, r.Env.Dir+"/bin/python", "-I", filepath.Join(work, convertFile), r.Model.Dir, out, packages)
	if err != nil {
		return err
	}
	tail := new(trace)
	cmd.Stdout, cmd.Stderr = log, io.MultiWriter(log, tail)
	failed := runConfined(cmd)
	if err := sandbox.Clean(filepath.Base(work)); err != nil {
		fmt.Fprintf(log, "clean up after the conversion: %v\n", err)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case within.Err() != nil:
		return fmt.Errorf("its conversion was not done after %v", limit)
	case failed != nil:
		return fmt.Errorf("its conversion ended: %w: %s", failed, tail.last())
	}
	if err := checkOutput(out); err != nil {
		return err
	}
	if err := os.Rename(out, dir); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

// converter makes the process of a conversion.
func (w *Workshop) converter(ctx context.Context, r serving.Recipe, work, tools string, argv ...string) (*exec.Cmd, error) {
	vars := map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": work, "TMPDIR": work,
		"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "sqlite://"}
	if w.Trial.Unconfined {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir, cmd.SysProcAttr = work, new(syscall.SysProcAttr)
		for k, v := range vars {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		return cmd, nil
	}
	return sandbox.Command(ctx, sandbox.Policy{Name: filepath.Base(work), Read: []string{r.Model.Dir, r.Env.Dir, tools},
		Write: []string{work}, Dir: work, Vars: vars, Memory: convertBytes, Processes: trialProcesses, FileSize: trialFile, OpenFiles: trialOpen}, argv...)
}

// runConfined is runToEnd for a command that has attributes of its own.
func runConfined(cmd *exec.Cmd) error {
	attributes := cmd.SysProcAttr
	attributes.Setpgid = true
	dieWithParent(attributes)
	return runGroup(cmd)
}

func sitePackages(env string) (string, error) {
	found, err := filepath.Glob(filepath.Join(env, "lib", "python3*", "site-packages"))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("there are no packages in %s", env)
	}
	return found[0], nil
}

var outputRE = regexp.MustCompile(`^(plan\.json|[a-z0-9]+\.onnx)$`)

// checkOutput refuses what a conversion had no business to write: links, and
// files that nobody expects. Outsiders' code ran there.
func checkOutput(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if !f.Type().IsRegular() || !outputRE.MatchString(f.Name()) {
			return fmt.Errorf("its conversion wrote %q", f.Name())
		}
	}
	if !slices.ContainsFunc(files, func(f os.DirEntry) bool { return f.Name() == planFile }) {
		return errors.New("its conversion wrote nothing")
	}
	data, err := os.ReadFile(filepath.Join(dir, planFile))
	if err == nil && !bytes.HasPrefix(data, []byte("{")) {
		err = errors.New("its conversion wrote no plan")
	}
	return err
}

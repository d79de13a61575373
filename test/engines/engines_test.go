package engines

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/engine"
	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/prepare"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/test/harness"
	"loadline.dev/loadline/worker"
)

// A finding is one line of the table.
type finding struct {
	name      string
	best      *prepare.Comparison
	all       []prepare.Comparison
	converted error
}

// Each estimator that docs/engines.md says runs natively still does: it converts,
// and answers as MLflow does on all rows that were drawn. LOADLINE_ENGINES says
// which are tried ("all", or names between semicolons): all take a quarter of an
// hour, so a usual run tries the one that has a bit of everything.
// LOADLINE_ENGINES_TABLE is the file to write the table to.
func TestEstimatorsRunNatively(t *testing.T) {
	python, tools := harness.Needed(t, "LOADLINE_TEST_PYTHON"), harness.Needed(t, "LOADLINE_TEST_TOOLS")
	wanted, table := []string{"ColumnTransformer, OneHotEncoder + RandomForestClassifier"}, os.Getenv("LOADLINE_ENGINES_TABLE")
	if names := os.Getenv("LOADLINE_ENGINES"); names == "all" {
		wanted = nil
	} else if names != "" {
		wanted = strings.Split(names, ";")
	}
	known, err := os.ReadFile("../../docs/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	train := exec.CommandContext(t.Context(), python, append([]string{"estimators.py", filepath.Join(dir, "models")}, wanted...)...)
	var errs bytes.Buffer
	train.Stderr = &errs
	out, err := train.Output()
	if err != nil {
		t.Fatalf("train: %v\n%s", err, errs.String())
	}
	names := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(wanted) > len(names) {
		t.Fatalf("trained %q only\n%s", names, errs.String())
	}
	w, env, app := workshop(t, dir, python, tools)
	var found []finding
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			f := try(t, w, env, app, filepath.Join(dir, "models", name))
			f.name = name
			found = append(found, f)
			t.Log(f)
			if f.best == nil && table == "" && strings.Contains(string(known), "| "+name+" | float") {
				t.Error("it does not run natively any more")
			}
		})
	}
	if table != "" && !t.Failed() {
		if err := write(table, found); err != nil {
			t.Fatal(err)
		}
	}
}

// workshop is what converts and compares, in the environments of the tests.
func workshop(t *testing.T, dir, python, tools string) (*prepare.Workshop, serving.Environment, string) {
	t.Helper()
	binary, err := harness.Binary(dir)
	if err != nil {
		t.Fatal(err)
	}
	app, err := worker.Install(filepath.Join(dir, "tools"))
	if err != nil {
		t.Fatal(err)
	}
	w := &prepare.Workshop{Dir: filepath.Join(dir, "native"), Trial: &prepare.Trial{Dir: filepath.Join(dir, "trials"), Binary: binary},
		Tools: func(context.Context, string, io.Writer, func(serving.Phase)) (serving.Environment, error) {
			return serving.Environment{Dir: tools, Digest: filepath.Base(tools)}, nil
		}}
	return w, serving.Environment{Dir: filepath.Dir(filepath.Dir(python)), Digest: "tests", Python: "3.11"}, app
}

func try(t *testing.T, w *prepare.Workshop, env serving.Environment, app, dir string) finding {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "MLmodel"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := mlmodel.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(dir, "serving_input_example.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := engine.Select(engine.Python, m, engine.Facts{Env: env, Model: dir, Worker: app})
	if err != nil {
		t.Fatal(err)
	}
	r := serving.Recipe{Model: serving.Files{Dir: dir, Digest: filepath.Base(dir)}, Env: env, Engine: c.Engine, Launch: c.Launch,
		Example: example, ExampleType: "application/json"}
	if err := engine.Convertible(m); err != nil {
		return finding{converted: err}
	}
	var log bytes.Buffer
	say := func(serving.Phase) {}
	start := time.Now()
	conversion, err := w.Convert(t.Context(), r, &log, say)
	if err != nil {
		return finding{converted: err}
	}
	t.Logf("converted in %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	all, err := w.Compare(t.Context(), r, conversion, &log, func(string) {})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Logf("compared in %v", time.Since(start).Round(time.Millisecond))
	f := finding{all: all}
	if best, ok := prepare.Best(all); ok {
		f.best = &best
	}
	return f
}

func (f finding) String() string {
	if f.converted != nil {
		return "does not convert: " + f.converted.Error()
	}
	var lines []string
	for _, one := range f.all {
		lines = append(lines, fmt.Sprintf("%s; exact %d", one, one.Exact))
	}
	return strings.Join(lines, "\n")
}

// Marks in docs/engines.md between which the table stands.
const begin, end = "<!-- table begins -->\n", "<!-- table ends -->\n"

func write(path string, found []finding) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, okToo := strings.Cut(rest, end)
	if !ok || !okToo {
		return fmt.Errorf("%s has no marks for a table", path)
	}
	// Lines of estimators that were not tried now stay as they are.
	lines := map[string]string{}
	old, _, _ := strings.Cut(rest, end)
	for line := range strings.Lines(old) {
		if name, _, is := strings.Cut(strings.TrimPrefix(line, "| "), " | "); is && !strings.HasPrefix(line, "|--") && name != "estimator" {
			lines[name] = line
		}
	}
	for _, f := range found {
		lines[f.name] = f.line()
	}
	var b strings.Builder
	b.WriteString("\n| estimator | precision | rows equal | native | Python engine | |\n|---|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		b.WriteString(lines[name])
	}
	return os.WriteFile(path, []byte(before+begin+b.String()+"\n"+end+after), 0o644)
}

// line is the finding's line of the table.
func (f finding) line() string {
	switch {
	case f.best != nil:
		return fmt.Sprintf("| %s | %s | %d of %d | %d µs | %d µs | **%.0f ×** |\n", f.name, f.best.Native.Precision, f.best.Equal, f.best.Asked,
			f.best.Took.Microseconds(), f.best.Against.Microseconds(), float64(f.best.Against)/float64(f.best.Took))
	case f.converted != nil:
		return fmt.Sprintf("| %s | | | – | | does not convert: %s |\n", f.name, oneLine(f.converted.Error()))
	}
	var why []string
	for _, one := range f.all {
		why = append(why, one.Native.Precision+": "+one.Why)
	}
	return fmt.Sprintf("| %s | | | – | | %s |\n", f.name, oneLine(strings.Join(why, "; ")))
}

func oneLine(s string) string {
	s = strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", "\\|")
	if len(s) > 220 {
		s = strings.ToValidUTF8(s[:220], "") + "…"
	}
	return s
}

package prepare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/serving"
)

// newWorkshop is one whose Python, in the environment returned, is a shell script.
// $5 is where it is to write.
func newWorkshop(t *testing.T, script string) (*Workshop, serving.Recipe) {
	t.Helper()
	dir := t.TempDir()
	for path, text := range map[string]string{
		"env/bin/python": "#!/bin/sh\n" + script + "\n",
		"tools/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.2": "",
		"model/MLmodel": signed,
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	w := &Workshop{Dir: filepath.Join(dir, "native"), Trial: &Trial{Dir: filepath.Join(dir, "trials"), Unconfined: true},
		Tools: func(context.Context, string, io.Writer, func(serving.Phase)) (serving.Environment, error) {
			return serving.Environment{Dir: filepath.Join(dir, "tools"), Digest: "tools"}, nil
		}}
	return w, serving.Recipe{Model: serving.Files{Dir: filepath.Join(dir, "model"), Digest: "m"}, Env: serving.Environment{Dir: filepath.Join(dir, "env"), Digest: "e"}}
}

const goodPlan = `cat > "$4/plan.json" <<'X'
{"schema": "[]", "mlflow": "3.17.2", "columns": [], "lost": ["float64: no"], "candidates": [{"precision": "float32", "file": "float32.onnx", "inputs": [], "answer": {"output": "y", "kind": "d"}}]}
X
echo model > "$4/float32.onnx"`

func TestConversionIsKeptByContent(t *testing.T) {
	w, r := newWorkshop(t, "echo once >> \"$HOME/../../count\"\n"+goodPlan)
	var log bytes.Buffer
	for range 2 {
		c, err := w.Convert(t.Context(), r, &log, func(serving.Phase) {})
		if err != nil || len(c.Candidates) != 1 {
			t.Fatalf("got %+v, %v\n%s", c, err, log.String())
		}
		n := c.Candidates[0]
		if n.Precision != "float32" || n.MLflow != "3.17.2" || !strings.HasSuffix(n.Library, "libonnxruntime.so.1.2") {
			t.Errorf("got %+v", n)
		}
		if text, err := os.ReadFile(n.Model); err != nil || string(text) != "model\n" {
			t.Errorf("the file holds %q, %v", text, err)
		}
	}
	if count, _ := os.ReadFile(filepath.Join(w.Dir, "..", "count")); string(count) != "once\n" {
		t.Errorf("converted %q", count)
	}
	if !strings.Contains(log.String(), "not converted: float64: no") {
		t.Errorf("the log says %q", log.String())
	}
	if left, _ := os.ReadDir(w.Trial.Dir); len(left) > 0 {
		t.Errorf("%d folders are left", len(left))
	}
}

// A conversion that hangs, dies or writes what it should not loses the candidate.
func TestConversionThatGoesWrongLosesTheCandidate(t *testing.T) {
	for name, c := range map[string][2]string{
		"hangs":                         {"exec sleep 100", "not done after 200ms"},
		"dies":                          {"echo 'KeyError: lost' >&2; exit 3", "KeyError: lost"},
		"is killed":                     {"kill -SEGV $$", "ended"},
		"writes nothing":                {"true", "wrote nothing"},
		"has no converter":              {`echo '{"why": "models of it have none"}' > "$4/plan.json"`, "models of it have none"},
		"writes no JSON":                {`echo 'plan' > "$4/plan.json"`, "wrote no plan"},
		"writes broken JSON":            {`echo '{' > "$4/plan.json"`, "read conversion"},
		"writes a link":                 {`ln -s /etc/passwd "$4/plan.json"`, `wrote "plan.json"`},
		"writes a folder":               {goodPlan + "\nmkdir \"$4/more.onnx\"", `wrote "more.onnx"`},
		"writes another file":           {goodPlan + "\necho x > \"$4/evil.so\"", `wrote "evil.so"`},
		"names a file outside its own":  {strings.Replace(goodPlan, `"file": "float32.onnx"`, `"file": "../../x.onnx"`, 1), `names "../../x.onnx"`},
		"names a file by its full path": {strings.Replace(goodPlan, `"file": "float32.onnx"`, `"file": "/etc/passwd"`, 1), `names "/etc/passwd"`},
	} {
		t.Run(name, func(t *testing.T) {
			w, r := newWorkshop(t, c[0])
			if name == "hangs" {
				w.Limit = 200 * time.Millisecond
			}
			got, err := w.Convert(t.Context(), r, io.Discard, func(serving.Phase) {})
			if err == nil || !strings.Contains(err.Error(), c[1]) {
				t.Errorf("got %+v, %v, want %q", got, err, c[1])
			}
			if left, _ := os.ReadDir(w.Trial.Dir); len(left) > 0 {
				t.Errorf("%d folders are left", len(left))
			}
		})
	}
}

func TestConvertersThatAreMissingAreTold(t *testing.T) {
	w, r := newWorkshop(t, goodPlan)
	w.Tools = func(context.Context, string, io.Writer, func(serving.Phase)) (serving.Environment, error) {
		return serving.Environment{}, fmt.Errorf("no index")
	}
	if _, err := w.Convert(t.Context(), r, io.Discard, func(serving.Phase) {}); !errors.Is(err, serving.Unavailable) || !strings.Contains(err.Error(), "no index") {
		t.Errorf("got %v", err)
	}
	w.Tools = func(context.Context, string, io.Writer, func(serving.Phase)) (serving.Environment, error) {
		return serving.Environment{Dir: t.TempDir()}, nil
	}
	if _, err := w.Convert(t.Context(), r, io.Discard, func(serving.Phase) {}); err == nil || !strings.Contains(err.Error(), "libonnxruntime.so") {
		t.Errorf("got %v", err)
	}
}

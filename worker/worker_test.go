package worker

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"loadline.dev/loadline/pyenv"
	"loadline.dev/loadline/test/harness"
)

func TestZipappIsTheSameBytesEachTime(t *testing.T) {
	if !bytes.Equal(pack(), pack()) {
		t.Error("two packings differ")
	}
	z, err := zip.NewReader(bytes.NewReader(Zipapp()), int64(len(Zipapp())))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	for _, want := range []string{"__main__.py", "loadline_worker/__init__.py", "loadline_worker/main.py"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing among %v", want, names)
		}
	}
}

func TestInstallMayBeRepeated(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tools")
	first, err := Install(dir)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Install(dir)
	if err != nil || second != first {
		t.Fatalf("got %s, %v", second, err)
	}
	if after, err := os.Stat(second); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was written again: %v", err)
	}
	if err := os.Chmod(first, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(first); err != nil || !bytes.Equal(text, Zipapp()) {
		t.Errorf("a broken file stays: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The oldest and the newest Python that the worker is tested on.
func TestWorkerOnPython39(t *testing.T)  { runPythonTests(t, "3.9") }
func TestWorkerOnPython313(t *testing.T) { runPythonTests(t, "3.13") }

// The environment with MLflow has numpy and pandas, which columns.py needs.
func TestWorkerInModelEnvironment(t *testing.T) {
	unittest(t, harness.Needed(t, "LOADLINE_TEST_PYTHON"))
}

func runPythonTests(t *testing.T, minor string) {
	all := pyenv.Interpreters(t.Context())
	i := slices.IndexFunc(all, func(i pyenv.Interpreter) bool { return i.Minor == minor })
	switch {
	case i >= 0:
		unittest(t, all[i].Path)
	case os.Getenv("CI") == "true":
		t.Fatalf("Python %s is not there; there are %v", minor, all)
	default:
		t.Skipf("needs Python %s", minor)
	}
}

func unittest(t *testing.T, python string) {
	t.Helper()
	cmd := exec.Command(python, "-m", "unittest", "discover", "-s", "tests", "-t", ".")
	cmd.Env = append(os.Environ(), "PYTHONPATH=.", "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("\nOK")) {
		t.Errorf("%s: %v\n%s", python, err, out)
	}
}

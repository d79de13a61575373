package pyenv

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/serving"
)

// sourceIndex serves one source package whose build script writes to a file of
// this machine, if it can, and keeps in the package what came of it.
func sourceIndex(t *testing.T, victim string) *httptest.Server {
	t.Helper()
	script := fmt.Sprintf(`
import os
from setuptools import setup
try:
    open(%q, "w").write("changed")
    outcome = "wrote"
except OSError as e:
    outcome = type(e).__name__
os.makedirs("nosy", exist_ok=True)
open("nosy/__init__.py", "w").write("outcome = %%r\n" %% outcome)
setup(name="nosy-test-package", version="1.0", packages=["nosy"])
`, victim)
	var out bytes.Buffer
	gz := gzip.NewWriter(&out)
	tw := tar.NewWriter(gz)
	for name, text := range map[string]string{"setup.py": script, "PKG-INFO": "Metadata-Version: 1.0\nName: nosy-test-package\nVersion: 1.0\n"} {
		tw.WriteHeader(&tar.Header{Name: "nosy_test_package-1.0/" + name, Mode: 0o644, Size: int64(len(text))})
		io.WriteString(tw, text)
	}
	tw.Close()
	gz.Close()
	index := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const file = "nosy_test_package-1.0.tar.gz"
		switch {
		case strings.HasSuffix(r.URL.Path, file):
			w.Write(out.Bytes())
		case strings.HasSuffix(r.URL.Path, "/nosy-test-package/"):
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, `<a href="/files/`+file+`">`+file+`</a>`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(index.Close)
	return index
}

func TestBuildScriptsAreConfined(t *testing.T) {
	if h := sandbox.Probe(); !h.Files.Held {
		t.Skip("no file sandbox here: " + h.Files.Why)
	}
	b, dir, m := real(t, "nosy-test-package==1.0\n")
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("whole"), 0o644); err != nil {
		t.Fatal(err)
	}
	index := sourceIndex(t, victim)
	t.Setenv("UV_INDEX", index.URL+"/simple")
	shared := t.TempDir()
	t.Setenv("UV_CACHE_DIR", shared)

	env, p, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err, p)
	}
	env, p = build(t, b, env)
	if !strings.Contains(p.Note, "built from source") {
		t.Errorf("note %q does not say that something was built", p.Note)
	}
	if got := python(t, env, "import nosy; print(nosy.outcome)"); got != "PermissionError" {
		t.Errorf("the build script %s", got)
	}
	if data, _ := os.ReadFile(victim); string(data) != "whole" {
		t.Error("the build script wrote outside")
	}

	// The environment comes back without any index.
	index.Close()
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("UV_HTTP_RETRIES", "0")
	os.RemoveAll(env.Dir)
	var log bytes.Buffer
	if _, err := b.Build(t.Context(), env, &log, func(serving.Phase) {}); err != nil {
		t.Errorf("%v\n%s", err, log.String())
	}
}

// A wheel that MLflow's add_libraries_to_model has put into the model's folder,
// and the same one behind an address, which has to be allowed.
func TestWheelsBesideTheModelAreInstalled(t *testing.T) {
	b, dir, m := real(t, "wheels/tiny_test_package-1.0-py3-none-any.whl\nsix==1.16.0\nmlflow\n")
	wheel := tinyWheel(t)
	inside := filepath.Join(dir, "wheels", "tiny_test_package-1.0-py3-none-any.whl")
	os.MkdirAll(filepath.Dir(inside), 0o755)
	os.WriteFile(inside, wheel, 0o644)
	env, p, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	if env, _ = build(t, b, env); python(t, env, "import tiny; print(tiny.where)") != "wheel" {
		t.Error("another package")
	}
	if p.Total != 2 {
		t.Errorf("%d packages, want 2", p.Total)
	}

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(wheel) }))
	defer server.Close()
	line := "tiny-test-package @ " + server.URL + "/tiny_test_package-1.0-py3-none-any.whl\nmlflow\n"
	os.WriteFile(filepath.Join(dir, "requirements.txt"), []byte(line), 0o644)
	if _, _, err = lockOf(t.Context(), t, b, dir, m); err == nil {
		t.Error("an address was taken unasked")
	}
	b.AllowSources = true
	if env, _, err = lockOf(t.Context(), t, b, dir, m); err != nil {
		t.Fatal(err)
	}
	if env, _ = build(t, b, env); python(t, env, "import tiny; print(tiny.where)") != "wheel" {
		t.Error("another package")
	}
}

func tinyWheel(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	info := "tiny_test_package-1.0.dist-info/"
	for name, text := range map[string]string{
		"tiny.py":         "where = 'wheel'\n",
		info + "METADATA": "Metadata-Version: 2.1\nName: tiny-test-package\nVersion: 1.0\n",
		info + "WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		info + "RECORD":   "tiny.py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n",
	} {
		f, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, text)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

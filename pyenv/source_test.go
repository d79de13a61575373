package pyenv

import (
	"archive/tar"
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

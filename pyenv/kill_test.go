package pyenv

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/serving"
)

// buildVar makes this test binary build one environment: "DIR DIGEST".
const buildVar = "LOADLINE_TEST_BUILD"

func buildAsChild(order string) int {
	dir, digest, _ := strings.Cut(order, " ")
	b := &Builder{Dir: dir, UV: os.Getenv("LOADLINE_UV")}
	if _, err := b.Build(context.Background(), serving.Environment{Digest: digest}, os.Stderr, func(serving.Phase) {}); err != nil {
		return 1
	}
	return 0
}

func TestKilledBuildIsTakenUpAgain(t *testing.T) {
	b, dir, m := real(t, "six==1.16.0\n")
	wheels := t.TempDir()
	pip := filepath.Join(pipPython(t, b), "bin", "python")
	if out, err := exec.Command(pip, "-I", "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, "six==1.16.0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	names, _ := filepath.Glob(filepath.Join(wheels, "*.whl"))
	wheel, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	// An index that sends half of the wheel and then nothing, until released.
	half, release := make(chan bool, 10), make(chan struct{})
	var locked atomic.Bool
	index := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := filepath.Base(names[0])
		switch {
		case !strings.HasSuffix(r.URL.Path, ".whl"):
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, `<a href="/files/`+name+`">`+name+`</a>`)
		case !locked.Load(): // metadata for the lock, by ranges
			http.ServeFile(w, r, names[0])
		default:
			w.Write(wheel[:len(wheel)/2])
			w.(http.Flusher).Flush()
			half <- true
			select {
			case <-release:
				w.Write(wheel[len(wheel)/2:])
			case <-r.Context().Done():
			}
		}
	}))
	defer index.Close()
	t.Setenv("UV_DEFAULT_INDEX", index.URL+"/simple")
	t.Setenv("UV_CACHE_DIR", t.TempDir())
	env, _, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	locked.Store(true)

	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), buildVar+"="+b.Dir+" "+env.Digest)
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-half:
	case <-time.After(30 * time.Second):
		t.Fatal("the build never asked for the package")
	}
	child.Process.Signal(syscall.SIGKILL)
	child.Wait()
	work := b.path("tmp", "env-"+env.Digest)
	if !exists(work) {
		t.Fatal("nothing was left to clean, so this test shows nothing")
	}
	if exists(b.path("envs", env.Digest)) {
		t.Error("half an environment can be seen")
	}
	if err := b.Clean(t.Context()); err != nil || exists(work) {
		t.Errorf("not cleaned at start: %v", err)
	}
	close(release)
	if env, _ = build(t, b, env); python(t, env, "import six; print(six.__version__)") != "1.16.0" {
		t.Error("another six")
	}
}

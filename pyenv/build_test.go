package pyenv

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// real is a builder on the uv of this machine, and a model that asks for
// requirements. Without uv or an interpreter the test is skipped, where it may.
func real(t *testing.T, requirements string) (*Builder, string, mlmodel.Model) {
	t.Helper()
	present := Interpreters(t.Context())
	b := &Builder{Dir: t.TempDir(), UV: os.Getenv("LOADLINE_UV")}
	if b.UV == "" && len(uvCandidates()) == 0 || len(present) == 0 {
		if os.Getenv("CI") == "true" || os.Getenv("LOADLINE_TEST_FULL") == "1" {
			t.Fatal("no uv or no Python on this machine")
		}
		t.Skip("no uv or no Python on this machine")
	}
	dir := folder(t, map[string]string{"requirements.txt": requirements,
		"python_env.yaml": "python: " + present[0].Version + "\ndependencies: [-r requirements.txt]\n"})
	// A name that needs no MLflow: the packages here are to be small.
	return b, dir, mlmodel.Model{PyFunc: &mlmodel.PyFunc{}, Created: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// lockOf is Lock without MLflow added.
func lockOf(ctx context.Context, t *testing.T, b *Builder, dir string, m mlmodel.Model) (serving.Environment, serving.Phase, error) {
	t.Helper()
	w, err := read(dir, m, b.AllowSources)
	if err != nil {
		return serving.Environment{}, serving.Phase{}, err
	}
	w.lines = w.lines[:len(w.lines)-1] // MLflow is always last here
	w.notes = nil
	var last serving.Phase
	env, err := b.lock(ctx, w, io.Discard, func(p serving.Phase) { last = p })
	return env, last, err
}

func build(t *testing.T, b *Builder, env serving.Environment) (serving.Environment, serving.Phase) {
	t.Helper()
	var log bytes.Buffer
	var last serving.Phase
	env, err := b.Build(t.Context(), env, &log, func(p serving.Phase) { last = p })
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	return env, last
}

func python(t *testing.T, env serving.Environment, script string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(env.Dir, "bin", "python"), "-I", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestOpenRequirementsGetThePackagesOfTheirDay(t *testing.T) {
	b, dir, m := real(t, "attrs\nsix==1.16.0\n")
	env, p, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.kept(env.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if pinned(k.Text, "attrs") != "23.2.0" || pinned(k.Text, "six") != "1.16.0" || !strings.Contains(k.Text, "--hash=sha256:") {
		if strings.Contains(p.Note, "does not say when") {
			t.Skip("the index of this machine has no upload times")
		}
		t.Errorf("got %s (%s)", k.Text, p.Note)
	}
	if env, p = build(t, b, env); p.State == serving.PhaseCached {
		t.Error("a first build says it was done before")
	}
	if got := python(t, env, "import attr, six; print(attr.__version__, six.__version__)"); got != "23.2.0 1.16.0" {
		t.Errorf("got %s", got)
	}
}

func TestKnownLockNeedsNoIndex(t *testing.T) {
	b, dir, m := real(t, "six==1.16.0\n")
	env, _, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	build(t, b, env)

	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	t.Setenv("UV_HTTP_RETRIES", "0")
	again, p, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil || again.Digest != env.Digest || p.State != serving.PhaseCached {
		t.Fatalf("got %v, %v, %v", again, p, err)
	}
	if env, p = build(t, b, again); p.State != serving.PhaseCached {
		t.Errorf("built again: %v", p)
	}
	// Even without the environment: uv's cache still holds the wheels.
	if err := os.RemoveAll(env.Dir); err != nil {
		t.Fatal(err)
	}
	if env, p = build(t, b, again); p.State == serving.PhaseCached || python(t, env, "import six") != "" {
		t.Errorf("not built again: %v", p)
	}

	other := folder(t, map[string]string{"requirements.txt": "six==1.15.0\n", "python_env.yaml": "python: " + env.Python + "\ndependencies: [-r requirements.txt]\n"})
	_, _, err = lockOf(t.Context(), t, b, other, m)
	if !errors.Is(err, serving.Unavailable) || !strings.Contains(err.Error(), "://") {
		t.Errorf("an index that does not answer: got %v, want it to be unavailable and named", err)
	}
}

func TestConflictIsToldInUVsWords(t *testing.T) {
	b, dir, m := real(t, "attrs==23.1.0\nattrs==22.1.0\n")
	_, _, err := lockOf(t.Context(), t, b, dir, m)
	if !errors.Is(err, serving.Invalid) || !strings.Contains(err.Error(), "attrs==23.1.0") || !strings.Contains(err.Error(), "unsatisfiable") {
		t.Errorf("got %v", err)
	}
}

func TestPackagesNewerThanTheModelAreNoted(t *testing.T) {
	b, dir, m := real(t, "six==1.17.0\n") // of December 2024
	_, p, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil || !strings.Contains(p.Note, "resolved with today's packages") {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestSetuptoolsIsTheLastToBeLeftOpen(t *testing.T) {
	b, dir, m := real(t, "packaging==23.2\n")
	env := "python: " + Interpreters(t.Context())[0].Version + "\nbuild_dependencies: [pip, setuptools==68.2.2, wheel==0.46.3]\ndependencies: [-r requirements.txt]\n"
	if err := os.WriteFile(filepath.Join(dir, "python_env.yaml"), []byte(env), 0o644); err != nil { // this wheel wants packaging 24
		t.Fatal(err)
	}
	got, p, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.kept(got.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if pinned(k.Text, "setuptools") != "68.2.2" || pinned(k.Text, "packaging") != "23.2" || !strings.Contains(p.Note, "setuptools apart") {
		t.Errorf("got %s (%s)", k.Text, p.Note)
	}
}

// An index whose pages carry no upload times.
func TestIndexWithoutUploadTimesIsNoted(t *testing.T) {
	b, dir, m := real(t, "six==1.16.0\n")
	wheels := t.TempDir()
	out, err := exec.Command(filepath.Join(pipPython(t, b), "bin", "python"), "-I", "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, "six==1.16.0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	names, _ := filepath.Glob(filepath.Join(wheels, "*.whl"))
	index := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := filepath.Base(names[0])
		if strings.HasSuffix(r.URL.Path, ".whl") {
			http.ServeFile(w, r, names[0])
			return
		}
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<html><body><a href="/files/`+name+`">`+name+`</a></body></html>`)
	}))
	defer index.Close()
	t.Setenv("UV_DEFAULT_INDEX", index.URL+"/simple")
	t.Setenv("UV_CACHE_DIR", t.TempDir())
	env, p, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil || !strings.Contains(p.Note, "the index does not say when") {
		t.Fatalf("got %v, %v", p, err)
	}
	if env, _ = build(t, b, env); python(t, env, "import six; print(six.__version__)") != "1.16.0" {
		t.Error("another six")
	}
}

// pipPython is an environment with pip in it, which also shows Tool at work.
func pipPython(t *testing.T, b *Builder) string {
	t.Helper()
	path, err := b.Tool(t.Context(), "pip==24.0", "setuptools")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(path))
}

func TestManyBuildersMakeOneEnvironment(t *testing.T) {
	b, dir, m := real(t, "six==1.16.0\n")
	var wg sync.WaitGroup
	var mu sync.Mutex
	built := 0
	for range 4 {
		wg.Go(func() {
			other := &Builder{Dir: b.Dir, UV: b.UV} // as another process would
			env, _, err := lockOf(t.Context(), t, other, dir, m)
			if err != nil {
				t.Error(err)
				return
			}
			var last serving.Phase
			if _, err := other.Build(t.Context(), env, io.Discard, func(p serving.Phase) { last = p }); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if last.State != serving.PhaseCached {
				built++
			}
		})
	}
	wg.Wait()
	if built != 1 {
		t.Errorf("built %d times", built)
	}
	left, _ := filepath.Glob(filepath.Join(b.Dir, "tmp", "env-*[0-9a-f]"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDamageIsFoundAndBuiltAnew(t *testing.T) {
	b, dir, m := real(t, "six==1.16.0\n")
	t.Setenv("UV_CACHE_DIR", t.TempDir()) // the damage goes through hard links into it
	env, _, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	env, _ = build(t, b, env)
	found, _ := filepath.Glob(filepath.Join(env.Dir, "lib", "python*", "site-packages", "six.py"))
	f, err := os.OpenFile(found[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("!"), 100)
	f.Close()
	_, p := build(t, b, env)
	if p.State == serving.PhaseCached {
		t.Error("a damaged environment was taken as good")
	}
	if data, _ := os.ReadFile(found[0]); data[100] == '!' {
		t.Error("still damaged")
	}
	if bad, _ := filepath.Glob(filepath.Join(b.Dir, "tmp", "bad-*")); len(bad) != 1 {
		t.Errorf("quarantined: %v", bad)
	}
	// A file that was only touched is good.
	now := time.Now()
	os.Chtimes(found[0], now, now)
	if _, p = build(t, b, env); p.State != serving.PhaseCached {
		t.Error("a touched file counted as damage")
	}
}

func TestHalfAnEnvironmentIsNeverTaken(t *testing.T) {
	b, dir, m := real(t, "six==1.16.0\n")
	env, _, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	// What kill -9 leaves: unfinished work, and on an older file system perhaps
	// a folder without its mark.
	left := b.path("tmp", "env-"+env.Digest, "env")
	for _, dir := range []string{left, filepath.Join(b.path("envs", env.Digest), "bin")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exists(left) {
		t.Error("not cleaned at start")
	}
	if env, p := build(t, b, env); p.State == serving.PhaseCached || python(t, env, "import six") != "" {
		t.Error("half an environment was taken")
	}
}

func TestCleanLeavesBuildsThatGoOn(t *testing.T) {
	b := &Builder{Dir: t.TempDir()}
	work := b.path("tmp", "env-0123")
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockFile(t.Context(), work+".lock")
	if err != nil {
		t.Fatal(err)
	}
	b.Clean(t.Context())
	if !exists(work) {
		t.Error("a build that goes on lost its folder")
	}
	unlock()
	b.Clean(t.Context())
	if exists(work) {
		t.Error("left behind")
	}
}

func TestBytecodeIsWrittenForTheEnvironmentOnly(t *testing.T) {
	b, dir, m := real(t, "six==1.16.0\n")
	env, _, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	env, _ = build(t, b, env)
	found, _ := filepath.Glob(filepath.Join(env.Dir, "lib", "python*", "site-packages", "six.py"))
	foreign := filepath.Join(dir, "x.py")
	os.WriteFile(foreign, []byte("x = 1\n"), 0o644)
	escape := filepath.Join(filepath.Dir(found[0]), "..", "..", "..", "..", "..", "x.py")
	sources := make(chan string, 5)
	for _, source := range []string{found[0], foreign, escape, "no.py", found[0] + "x"} {
		sources <- source
	}
	close(sources)
	n, err := b.Compile(t.Context(), env, sources)
	if err != nil || n != 1 {
		t.Errorf("got %d, %v", n, err)
	}
	if pyc, _ := filepath.Glob(filepath.Join(filepath.Dir(found[0]), "__pycache__", "six.*.pyc")); len(pyc) != 1 {
		t.Error("no bytecode")
	}
	if exists(filepath.Join(dir, "__pycache__")) {
		t.Error("wrote outside the environment")
	}
	if _, p := build(t, b, env); p.State != serving.PhaseCached {
		t.Error("bytecode counts as damage")
	}
}

func TestChangedLockIsNotUsed(t *testing.T) {
	b, dir, m := real(t, "six==1.16.0\n")
	env, _, err := lockOf(t.Context(), t, b, dir, m)
	if err != nil {
		t.Fatal(err)
	}
	path := b.path("locks", env.Digest+".json")
	data, _ := os.ReadFile(path)
	os.WriteFile(path, bytes.Replace(data, []byte("1.16.0"), []byte("1.15.0"), 1), 0o600)
	if _, err := b.Build(t.Context(), env, io.Discard, func(serving.Phase) {}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want it to name %s", err, path)
	}
	if _, err := b.Build(t.Context(), serving.Environment{Digest: "../../etc"}, io.Discard, func(serving.Phase) {}); !errors.Is(err, serving.NotFound) {
		t.Errorf("got %v", err)
	}
}

func TestMissingUVIsInstalled(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads uv")
	}
	able := false
	for _, i := range Interpreters(t.Context()) {
		able = able || exec.Command(i.Path, "-m", "pip", "--version").Run() == nil
	}
	if !able {
		t.Skip("no interpreter here has pip")
	}
	dirs := []string{"/usr/bin", "/bin"}
	for _, i := range Interpreters(t.Context()) {
		dirs = append(dirs, linkOnly(t, i))
	}
	t.Setenv("PATH", strings.Join(dirs, ":"))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PYENV_ROOT", "")
	b := &Builder{Dir: t.TempDir()}
	if found := uvCandidates(); len(found) > 0 {
		t.Skip("uv is part of the system here: " + found[0])
	}
	path, err := b.uv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if path != b.path("tools", "uv-"+uvVersion, "bin", "uv") || works(t.Context(), path) != nil {
		t.Errorf("got %s", path)
	}
}

// linkOnly is a folder that holds an interpreter and nothing else.
func linkOnly(t *testing.T, i Interpreter) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(i.Path, filepath.Join(dir, "python"+i.Minor)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestConstraintsAndBuildDependenciesYield(t *testing.T) {
	b, dir, m := real(t, "mlflow\n")
	w, err := read(dir, m, false)
	if err != nil {
		t.Fatal(err)
	}
	// MLflow's pip would replace a setuptools that contradicts what is wanted.
	w.lines, w.names, w.notes = []string{"attrs", "setuptools-scm==8.0.4"}, []string{"attrs", "setuptools-scm"}, nil
	w.constraints = []string{"attrs<23", "setuptools>=65"}
	w.build = []requirement{{name: "setuptools", text: "setuptools==60.0.0"}}
	env, err := b.lock(t.Context(), w, io.Discard, func(serving.Phase) {})
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.kept(env.Digest)
	if err != nil || pinned(k.Text, "attrs") != "22.2.0" || pinned(k.Text, "setuptools") == "60.0.0" || pinned(k.Text, "setuptools") == "" {
		t.Errorf("got %s, %v", k.Text, err)
	}
}

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// FAULTS 6: a version that ends itself each time it is started is given up with
// its decisive line; meanwhile and afterwards the old one serves all.
func TestCrashLoopFailsTheUpdateAndTheOldVersionServes(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	before := deployed(t, "looper")
	stop := load(t, shared, []string{"looper"})
	defer stop()
	s := shared.run("deploy", "looper", model("brute"), "--command", brute, "--health", "/", "--env", `AT_LOAD={"do": "die_in_replica"}`)
	for _, want := range []string{"ValueError: not in this house", "config 1 goes on serving", "  fix "} {
		if s.code != 1 || !strings.Contains(s.out, want) {
			t.Errorf("exit code %d and no %q:\n%s", s.code, want, s.out)
		}
	}
	stop()
	if after := shared.settle(t, "looper", 1)[0]; after.Engine != before.Engine {
		t.Errorf("the old version was %+v, and is %+v", before, after)
	}
	status, _, body := shared.call(t, "GET", "/api/2.0/serving-endpoints/looper", "")
	if status != 200 || !strings.Contains(body, "UPDATE_FAILED") || !strings.Contains(body, `"ready":"READY"`) {
		t.Errorf("SDKs are told %d %s", status, body)
	}
}

// FAULTS 28: a hundred updates in a row, roll-backs and a scale among them: one
// is under way at a time, the others are told so, and the last one accepted is
// what serves. Nothing else is left running.
func TestManyUpdatesConvergeToTheLastAccepted(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	deployed(t, "busy", "--env", "GREETING=0")
	stop := load(t, shared, []string{"busy"})
	defer stop()
	last, accepted, refused := "0", 0, 0
	for i := 1; i <= 100; i++ {
		greeting := fmt.Sprint(i)
		body := order{"model": model("brute"), "command": brute, "health": "/", "env": order{"GREETING": greeting}}.text()
		path, method := "/api/loadline/v1/endpoints/busy", "PUT"
		if i%10 == 0 { // of no effect on what must serve, while an update is under way
			path, method, body = path+"/rollback", "POST", `{"to": 1}`
			greeting = "0"
		}
		switch status, _, text := shared.call(t, method, path, body); status {
		case 200:
			last = greeting
			accepted++
		case 409:
			refused++
			if !strings.Contains(text, "RESOURCE_CONFLICT") {
				t.Fatalf("update %d is refused with %s", i, text)
			}
		default:
			t.Fatalf("update %d is answered %d %s", i, status, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%d updates accepted, %d refused", accepted, refused)
	if accepted < 2 || refused == 0 {
		t.Errorf("%d updates were accepted, %d refused: that shows little", accepted, refused)
	}
	shared.must(t, "wait", "busy", "--for", "updated", "--timeout", "60s")
	stop()
	var got struct{ Greeting string }
	if a := shared.brute(t, "busy", order{"do": "own"}); json.Unmarshal([]byte(a.body), &got) != nil || got.Greeting != last {
		t.Errorf("version %q serves, %q was accepted last", got.Greeting, last)
	}
	shared.settle(t, "busy", 1)
}

// FAULTS 28: an endpoint that is deleted while it is updated goes, whatever was
// under way, and its name is free.
func TestDeletedWhileUpdatingIsGone(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	for _, wait := range []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond} {
		r := deployed(t, "doomed", "--env", "GREETING=one")
		shared.must(t, "deploy", "doomed", model("puppet"), "--no-wait")
		time.Sleep(wait) // where the update is then does not matter
		shared.must(t, "delete", "doomed", "--yes")
		if a := shared.get(t, "doomed", "{}"); a.status != 404 {
			t.Errorf("it still answers %d %s", a.status, a.body)
		}
		eventually(t, 20*time.Second, func() error {
			folders, _ := filepath.Glob(filepath.Join(shared.data, "replicas", "*", "spec.json"))
			for _, spec := range folders {
				if text, _ := os.ReadFile(spec); strings.Contains(string(text), `"Endpoint": "doomed"`) {
					return fmt.Errorf("%s is left", spec)
				}
			}
			if harness.Alive(r.PID) || harness.Alive(r.Engine) {
				return errors.New("its processes are left")
			}
			return nil
		})
	}
}

// A shelf is a registry of one model, brute, with one version, in its own words.
type shelf struct {
	mu    sync.Mutex
	dir   string
	fault func(http.ResponseWriter, *http.Request) bool // answers instead, if it says so
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil && s.fault(w, r) {
		return
	}
	const artifacts = "/api/2.0/mlflow-artifacts/artifacts"
	switch {
	case r.URL.Path == "/api/2.0/mlflow/model-versions/get-download-uri":
		fmt.Fprint(w, `{"artifact_uri": "mlflow-artifacts:/brute"}`)
	case r.URL.Path == "/api/2.0/mlflow/model-versions/get":
		fmt.Fprint(w, `{"model_version": {"name": "brute", "version": "1", "status": "READY", "source": "mlflow-artifacts:/brute"}}`)
	case r.URL.Path == artifacts:
		s.list(w, strings.TrimPrefix(strings.TrimPrefix(r.URL.Query().Get("path"), "brute"), "/"))
	case strings.HasPrefix(r.URL.Path, artifacts+"/brute/"):
		http.ServeFile(w, r, filepath.Join(s.dir, filepath.FromSlash(path.Clean("/"+strings.TrimPrefix(r.URL.Path, artifacts+"/brute/")))))
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no %s here"}`, r.URL.Path)
	}
}

func (s *shelf) list(w http.ResponseWriter, sub string) {
	type file struct {
		Path string `json:"path"`
		Dir  bool   `json:"is_dir"`
		Size int64  `json:"file_size,omitempty"`
	}
	files := []file{}
	entries, err := os.ReadDir(filepath.Join(s.dir, filepath.FromSlash(sub)))
	for _, e := range entries {
		var info fs.FileInfo
		if info, err = e.Info(); err != nil {
			break
		}
		f := file{Path: e.Name(), Dir: e.IsDir()}
		if !f.Dir {
			f.Size = info.Size()
		}
		files = append(files, f)
	}
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"files": files})
}

func (s *shelf) set(fault func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// FAULTS 25: a registry that is slow to tell the truth. Other bytes under a
// version that was seen before are never served beside the first ones.
func TestVersionWhoseBytesChangedIsRefused(t *testing.T) {
	need(t)
	t.Parallel()
	s := &shelf{dir: filepath.Join(t.TempDir(), "brute")}
	if err := os.CopyFS(s.dir, os.DirFS(model("brute"))); err != nil {
		t.Fatal(err)
	}
	registry := httptest.NewServer(s)
	defer registry.Close()
	h := ownHouse(t)
	h.env = []string{"MLFLOW_TRACKING_URI=" + registry.URL}
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	deploy := func(name string) said {
		return h.run("deploy", name, "models:/brute/1", "--command", brute, "--health", "/", "--env", "GREETING="+name)
	}
	half := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/acts.py") {
			return false
		}
		w.Header().Set("Content-Length", "100000")
		fmt.Fprint(w, "half of it")
		return true
	}
	s.set(half)
	if said := deploy("cut-off"); said.code != 1 || !strings.Contains(said.out, "acts.py") {
		t.Errorf("a download that is cut off: exit code %d\n%s", said.code, said.out)
	}
	s.set(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true })
	if said := deploy("broken"); said.code != 1 || !strings.Contains(said.out, "500") || !strings.Contains(said.out, "  fix ") {
		t.Errorf("a registry that is broken: exit code %d\n%s", said.code, said.out)
	}
	s.set(nil)
	if said := deploy("first"); said.code != 0 {
		t.Fatal(said.out)
	}
	file := filepath.Join(s.dir, "acts.py")
	text, err := os.ReadFile(file)
	if err == nil {
		err = errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, append(text, "# more\n"...), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	if said := deploy("longer"); said.code != 1 || !strings.Contains(said.out, `"acts.py" is not what it was`) || !strings.Contains(said.out, "new version") {
		t.Errorf("a file that grew: exit code %d\n%s", said.code, said.out)
	}
	// Of the same size, it is only seen when it has to be fetched again.
	text[0] ^= 1
	store, _ := filepath.Glob(filepath.Join(h.data, "models", "*", "acts.py"))
	if len(store) != 1 {
		t.Fatal(store)
	}
	flip(t, store[0])
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := deploy("other"); said.code != 1 || !strings.Contains(said.out, `"acts.py" is not what it was`) {
		t.Errorf("a file with other bytes: exit code %d\n%s", said.code, said.out)
	}
	if a := h.brute(t, "first", order{"do": "own"}); a.status != 200 {
		t.Errorf("the first one answers %d %s", a.status, a.body)
	}
	// A registry that is gone is no matter for what is here.
	text[0] ^= 1
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := deploy("mended"); said.code != 0 {
		t.Errorf("the old bytes are back, and still: %s", said.out)
	}
	registry.Close()
	if said := deploy("alone"); said.code != 0 {
		t.Errorf("without the registry: %s", said.out)
	}
	if said := h.run("deploy", "second", "models:/brute/2", "--command", brute, "--health", "/"); said.code != 1 || !strings.Contains(said.out, strings.TrimPrefix(registry.URL, "http://")) {
		t.Errorf("a new version without the registry: exit code %d\n%s", said.code, said.out)
	}
}

package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/model/dir"
	"loadline.dev/loadline/model/registry"
	"loadline.dev/loadline/serving"
)

// A drawer keeps values in memory.
type drawer struct{ values sync.Map }

func (d *drawer) Get(_ context.Context, key string) ([]byte, error) {
	if v, ok := d.values.Load(key); ok {
		return v.([]byte), nil
	}
	return nil, serving.NotFound
}
func (d *drawer) Put(_ context.Context, key string, v []byte) error {
	d.values.Store(key, v)
	return nil
}
func (d *drawer) Delete(_ context.Context, key string) error     { d.values.Delete(key); return nil }
func (d *drawer) Keys(context.Context, string) ([]string, error) { return nil, nil }

func newLibrary(t *testing.T, s registry.Settings) *model.Library {
	t.Helper()
	source, err := registry.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return &model.Library{Dir: t.TempDir(), Pins: new(drawer), Piece: 1000, Patience: 500 * time.Millisecond, Sources: map[string]model.Source{
		model.Models: source, model.Runs: source, model.Artifacts: source, model.Folder: dir.Source{}}}
}

func fetch(t *testing.T, l *model.Library, ref string) (serving.Files, error) {
	t.Helper()
	pin, err := l.Resolve(t.Context(), ref)
	if err != nil {
		return serving.Files{}, err
	}
	return l.Fetch(t.Context(), pin, nil)
}

// A server is an MLflow server with faults, as far as one logged model needs.
type server struct {
	*httptest.Server
	location string
	status   string
	listing  string
	body     []byte
	ranges   bool
	fail     map[string]*atomic.Int32 // by path: how often it answers 500
	cut      *atomic.Int32            // how often a download ends early
	hang     *atomic.Int32            // how often a download stops in the middle
	answer   func(w http.ResponseWriter, r *http.Request) bool
	header   atomic.Value
}

func newServer(t *testing.T) *server {
	s := &server{location: "mlflow-artifacts:/0/m/artifacts", status: "LOGGED_MODEL_READY", ranges: true, body: []byte(strings.Repeat("0123456789", 1234)),
		fail: map[string]*atomic.Int32{}, cut: new(atomic.Int32), hang: new(atomic.Int32)}
	s.listing = fmt.Sprintf(`{"files":[{"path":"MLmodel","is_dir":false,"file_size":%d}]}`, len(s.body))
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.header.Store(r.Header.Get("Authorization"))
	if n := s.fail[r.URL.Path]; n != nil && n.Add(-1) >= 0 {
		http.Error(w, `<html>secret page</html>`, http.StatusInternalServerError)
		return
	}
	if s.answer != nil && s.answer(w, r) {
		return
	}
	switch {
	case r.URL.Path == "/api/2.0/mlflow/logged-models/m-1":
		fmt.Fprintf(w, `{"model":{"info":{"model_id":"m-1","artifact_uri":%q,"status":%q}}}`, s.location, s.status)
	case r.URL.Path == "/api/2.0/mlflow-artifacts/artifacts":
		fmt.Fprint(w, s.listing)
	case strings.HasPrefix(r.URL.Path, "/api/2.0/mlflow-artifacts/artifacts/"):
		if s.hang.Add(-1) >= 0 {
			w.Header().Set("Content-Length", "99999")
			_, _ = w.Write(s.body[:50])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		if s.cut.Add(-1) >= 0 {
			w.Header().Set("Content-Length", "99999")
			_, _ = w.Write(s.body[:50])
			return
		}
		if !s.ranges {
			_, _ = w.Write(s.body)
			return
		}
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(string(s.body)))
	default:
		w.WriteHeader(404)
		fmt.Fprint(w, `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"nothing here."}`)
	}
}

func times(n int32) *atomic.Int32 {
	a := new(atomic.Int32)
	a.Store(n)
	return a
}

func TestAServerWithFaultsIsBorne(t *testing.T) {
	for name, set := range map[string]func(*server){
		"none":                  func(*server) {},
		"500 at resolving":      func(s *server) { s.fail["/api/2.0/mlflow/logged-models/m-1"] = times(2) },
		"500 at listing":        func(s *server) { s.fail["/api/2.0/mlflow-artifacts/artifacts"] = times(2) },
		"500 at a file":         func(s *server) { s.fail["/api/2.0/mlflow-artifacts/artifacts/0/m/artifacts/MLmodel"] = times(2) },
		"downloads cut off":     func(s *server) { s.cut.Store(2) },
		"downloads that hang":   func(s *server) { s.hang.Store(2) },
		"no ranges":             func(s *server) { s.ranges = false },
		"no ranges and cut off": func(s *server) { s.ranges = false; s.cut.Store(2) },
		"sizes as strings":      func(s *server) { s.listing = strings.ReplaceAll(s.listing, "12340", `"12340"`) },
		"three slashes":         func(s *server) { s.location = "mlflow-artifacts:///0/m/artifacts" },
		"its own address":       func(s *server) { s.location = "mlflow-artifacts://" + s.Listener.Addr().String() + "/0/m/artifacts" },
		"its own proxy": func(s *server) {
			s.location = s.URL + "/api/2.0/mlflow-artifacts/artifacts/0/m/artifacts"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			set(s)
			l := newLibrary(t, registry.Settings{URI: s.URL + "/"})
			files, err := fetch(t, l, "models:/m-1")
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(files.Dir, "MLmodel"))
			if err != nil || string(data) != string(s.body) {
				t.Errorf("%d bytes, %v", len(data), err)
			}
		})
	}
}

func TestWhatAServerMayNotSay(t *testing.T) {
	const none = serving.Internal
	for name, c := range map[string]struct {
		set  func(*server)
		kind serving.Kind
		want string
	}{
		"always 500":           {func(s *server) { s.fail["/api/2.0/mlflow/logged-models/m-1"] = times(99) }, serving.Unavailable, "answered 500"},
		"a folder elsewhere":   {func(s *server) { s.location = "mlflow-artifacts://evil.example.com/x" }, serving.Denied, "not the tracking server"},
		"a web page":           {func(s *server) { s.location = "http://169.254.169.254/latest" }, serving.Denied, "not the tracking server"},
		"a strange scheme":     {func(s *server) { s.location = "gopher://x/y" }, serving.Invalid, "no place for models"},
		"a climbing place":     {func(s *server) { s.location = "mlflow-artifacts:/0/../../x" }, serving.Invalid, ".."},
		"not ready":            {func(s *server) { s.status = "LOGGED_MODEL_UPLOAD_FAILED" }, serving.Unavailable, "UPLOAD_FAILED"},
		"a name that climbs":   {func(s *server) { s.listing = `{"files":[{"path":"../x","file_size":1}]}` }, serving.Invalid, "leaves the model directory"},
		"an absolute name":     {func(s *server) { s.listing = `{"files":[{"path":"/etc/passwd","file_size":1}]}` }, serving.Invalid, "absolute"},
		"a backslash":          {func(s *server) { s.listing = `{"files":[{"path":"a\\b","file_size":1}]}` }, serving.Invalid, "backslash"},
		"a folder that climbs": {func(s *server) { s.listing = `{"files":[{"path":"..","is_dir":true}]}` }, serving.Invalid, "leaves the model directory"},
		"folders without end":  {func(s *server) { s.listing = `{"files":[{"path":"d","is_dir":true}]}` }, serving.Invalid, "leaves the model directory"},
		"colliding names":      {func(s *server) { s.listing = `{"files":[{"path":"A","file_size":1},{"path":"a","file_size":1}]}` }, serving.Invalid, "collides"},
		"a wrong size":         {func(s *server) { s.listing = `{"files":[{"path":"MLmodel","file_size":"x"}]}` }, serving.Invalid, "size"},
		"a negative size":      {func(s *server) { s.listing = `{"files":[{"path":"MLmodel","file_size":-1}]}` }, serving.Invalid, "MLmodel"},
		"a size too small":     {func(s *server) { s.listing = `{"files":[{"path":"MLmodel","file_size":5}]}` }, serving.Invalid, "longer than the 5 bytes"},
		"a size too large":     {func(s *server) { s.listing = `{"files":[{"path":"MLmodel","file_size":20000}]}` }, none, "MLmodel"},
		"no files":             {func(s *server) { s.listing = `{}` }, serving.NotFound, "no files"},
		"no JSON":              {func(s *server) { s.listing = `<html>secret` }, serving.Unavailable, "not MLflow's JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			c.set(s)
			_, err := fetch(t, newLibrary(t, registry.Settings{URI: s.URL}), "models:/m-1")
			if err == nil || c.kind != none && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRedirectsAreNotFollowedAbroad(t *testing.T) {
	var reached atomic.Bool
	abroad := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer abroad.Close()
	s := newServer(t)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, abroad.URL+"/latest/meta-data", http.StatusFound)
		return true
	}
	_, err := fetch(t, newLibrary(t, registry.Settings{URI: s.URL, Token: "t"}), "models:/m-1")
	if !errors.Is(err, serving.Denied) || reached.Load() {
		t.Errorf("got %v; reached %v", err, reached.Load())
	}
}

func TestCredentialsAreSent(t *testing.T) {
	for name, c := range map[string]struct {
		settings registry.Settings
		want     string
	}{
		"token":       {registry.Settings{Token: "abc"}, "Bearer abc"},
		"user":        {registry.Settings{Username: "u", Password: "p", Token: "abc"}, "Basic dTpw"},
		"in the URI":  {registry.Settings{URI: "u:p@"}, "Basic dTpw"},
		"none at all": {registry.Settings{}, ""},
	} {
		s := newServer(t)
		c.settings.URI = strings.Replace(s.URL, "://", "://"+c.settings.URI, 1)
		if _, err := fetch(t, newLibrary(t, c.settings), "models:/m-1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := s.header.Load(); got != c.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestARefusedAccountSaysWhichVariablesHelp(t *testing.T) {
	s := newServer(t)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(401); return true }
	_, err := fetch(t, newLibrary(t, registry.Settings{URI: s.URL, Password: "hunter2", Username: "u"}), "models:/m-1")
	if !errors.Is(err, serving.Denied) || !strings.Contains(serving.FixOf(err), "MLFLOW_TRACKING_TOKEN") || strings.Contains(fmt.Sprint(err), "hunter2") {
		t.Errorf("got %v; fix %q", err, serving.FixOf(err))
	}
}

func TestAServerThatIsDownIsUnavailable(t *testing.T) {
	s := newServer(t)
	s.Close()
	_, err := fetch(t, newLibrary(t, registry.Settings{URI: s.URL}), "models:/m-1")
	if !errors.Is(err, serving.Unavailable) || serving.FixOf(err) == "" || !strings.Contains(err.Error(), s.URL) {
		t.Errorf("got %v", err)
	}
}

func TestOtherBytesOnTheServerNameTheFile(t *testing.T) {
	s := newServer(t)
	l := newLibrary(t, registry.Settings{URI: s.URL})
	files, err := fetch(t, l, "models:/m-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(files.Dir, 0o700), os.RemoveAll(files.Dir)); err != nil {
		t.Fatal(err)
	}
	s.body[77] = '!'
	if _, err := fetch(t, l, "models:/m-1"); !errors.Is(err, serving.Conflict) || !strings.Contains(err.Error(), `"MLmodel"`) {
		t.Errorf("got %v", err)
	}
}

func TestUnusableSettingsSayWhatToSet(t *testing.T) {
	for _, uri := range []string{"", "databricks", "http://", "sqlite:///x.db"} {
		if _, err := registry.New(registry.Settings{URI: uri}); !errors.Is(err, serving.Invalid) || serving.FixOf(err) == "" {
			t.Errorf("%q: got %v", uri, err)
		}
	}
}

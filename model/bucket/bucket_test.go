package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/model/bucket"
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

// A store is a server of the S3 protocol in this process.
type store struct {
	*s3mem.Backend
	library *model.Library
}

func newStore(t *testing.T) *store {
	t.Helper()
	backend := s3mem.New()
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	t.Setenv("MLFLOW_S3_ENDPOINT_URL", server.URL)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	source := bucket.New(bucket.FromVars(os.Getenv))
	t.Cleanup(func() {
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := backend.CreateBucket("models"); err != nil {
		t.Fatal(err)
	}
	return &store{backend, &model.Library{Dir: t.TempDir(), Pins: new(drawer), Piece: 10_000, Sources: map[string]model.Source{
		model.S3: source, model.GS: source, model.ABFSS: source, model.WASBS: source}}}
}

func (s *store) put(t *testing.T, key string, data []byte) {
	t.Helper()
	if _, err := s.PutObject("models", key, nil, bytes.NewReader(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
}

func (s *store) fetch(t *testing.T, ref string) (serving.Files, error) {
	t.Helper()
	pin, err := s.library.Resolve(t.Context(), ref)
	if err != nil {
		return serving.Files{}, err
	}
	return s.library.Fetch(t.Context(), pin, nil)
}

func TestAModelInABucketIsFetched(t *testing.T) {
	s := newStore(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	s.put(t, "a/iris/MLmodel", []byte("flavors: {}"))
	s.put(t, "a/iris/data/model.pkl", big)
	s.put(t, "a/iris/data/", nil)
	s.put(t, "a/iris/empty", nil)
	s.put(t, "a/iris2/other", []byte("x"))
	files, err := s.fetch(t, "s3://models/a/iris/")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"MLmodel": []byte("flavors: {}"), "data/model.pkl": big, "empty": {}} {
		if got, err := os.ReadFile(filepath.Join(files.Dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := os.Stat(filepath.Join(files.Dir, "other")); err == nil {
		t.Error("a neighbour with the same beginning was fetched too")
	}

	// Objects can be replaced: that is another pin, and the first stays.
	s.put(t, "a/iris/MLmodel", []byte("flavors: {a}"))
	again, err := s.fetch(t, "s3://models/a/iris")
	if err != nil || again.Digest == files.Digest {
		t.Errorf("got %+v, %v", again, err)
	}
	if err := s.library.Check(t.Context(), files); err != nil {
		t.Error(err)
	}
}

func TestObjectsReplacedUnderwayAreNotMixed(t *testing.T) {
	s := newStore(t)
	s.put(t, "m/MLmodel", []byte("one"))
	pin, err := s.library.Resolve(t.Context(), "s3://models/m")
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, "m/MLmodel", []byte("two!"))
	if _, err := s.library.Fetch(t.Context(), pin, nil); !errors.Is(err, serving.Conflict) {
		t.Errorf("got %v", err)
	}
}

func TestWhatABucketMayNotHold(t *testing.T) {
	for name, keys := range map[string][]string{"climbs": {"m/../../x"}, "backslash": {`m/a\b`}, "collides": {"m/A", "m/a"}, "double slash": {"m/a//b"}, "file and folder": {"m/a", "m/a/b"}} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			for _, k := range keys {
				s.put(t, k, []byte("x"))
			}
			if _, err := s.fetch(t, "s3://models/m"); !errors.Is(err, serving.Invalid) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestWhatIsNotThereSaysSo(t *testing.T) {
	s := newStore(t)
	for _, ref := range []string{"s3://models/none", "s3://no-such-bucket/m"} {
		if _, err := s.fetch(t, ref); !errors.Is(err, serving.NotFound) || serving.FixOf(err) == "" {
			t.Errorf("%s: got %v", ref, err)
		}
	}
}

func TestAnotherAzureAccountIsNotSpokenTo(t *testing.T) {
	s := newStore(t)
	for _, ref := range []string{"abfss://c1s@stranger.dfs.core.windows.net/m", "wasbs://c1s@stranger.blob.core.windows.net/m"} {
		if _, err := s.fetch(t, ref); !errors.Is(err, serving.Denied) || !strings.Contains(fmt.Sprint(serving.FixOf(err)), "AZURE_STORAGE_ACCOUNT") {
			t.Errorf("%s: got %v", ref, err)
		}
	}
}

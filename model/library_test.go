package model_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

// A drawer keeps values in memory.
type drawer struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (d *drawer) Get(_ context.Context, key string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.values[key]; ok {
		return v, nil
	}
	return nil, serving.NotFound
}

func (d *drawer) Put(_ context.Context, key string, value []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.values == nil {
		d.values = map[string][]byte{}
	}
	d.values[key] = value
	return nil
}

func (d *drawer) Delete(_ context.Context, key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.values, key)
	return nil
}

func (d *drawer) Keys(_ context.Context, prefix string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var keys []string
	for k := range d.values {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// A place is a source in memory with faults.
type place struct {
	mu     sync.Mutex
	files  map[string][]byte
	down   bool
	whole  bool           // cannot begin in the middle
	short  map[string]int // how often a file ends early
	longer string         // a file with more bytes than announced
	opened []string       // "path@offset"
	hang   func(opened int)
}

func (p *place) Resolve(_ context.Context, ref model.Ref) (model.Pin, error) {
	if p.down {
		return model.Pin{}, &serving.Error{Kind: serving.Unavailable, Err: errors.New("down")}
	}
	version := ref.Version
	if ref.Alias != "" {
		version = "1"
	}
	return model.Pin{Ref: "models:/" + ref.Name + "/" + version, Name: ref.Name, Version: version, Location: "mlflow-artifacts:/x"}, nil
}

func (p *place) Files(context.Context, model.Pin) ([]model.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, &serving.Error{Kind: serving.Unavailable, Err: errors.New("down")}
	}
	var out []model.File
	for name, data := range p.files {
		size := int64(len(data))
		if name == p.longer {
			size--
		}
		out = append(out, model.File{Path: name, Size: size})
	}
	return out, nil
}

func (p *place) Open(_ context.Context, _ model.Pin, path string, offset, length int64) (io.ReadCloser, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, &serving.Error{Kind: serving.Unavailable, Err: errors.New("down")}
	}
	if p.whole && length >= 0 {
		return nil, model.ErrWhole
	}
	p.opened = append(p.opened, fmt.Sprintf("%s@%d", path, offset))
	if p.hang != nil {
		p.hang(len(p.opened))
	}
	data := p.files[path][offset:]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	if p.short[path] > 0 {
		p.short[path]--
		data = data[:len(data)/2]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func newLibrary(t *testing.T, p *place) *model.Library {
	t.Helper()
	return &model.Library{Dir: t.TempDir(), Pins: new(drawer), Piece: 1000,
		Sources: map[string]model.Source{model.Models: p, model.Artifacts: p}}
}

func someFiles() map[string][]byte {
	big := make([]byte, 10_500)
	for i := range big {
		big[i] = byte(i * i >> 3)
	}
	return map[string][]byte{"MLmodel": []byte("flavors: {}\n"), "data/model.pkl": big, "requirements.txt": {}}
}

func fetch(t *testing.T, l *model.Library, ref string) (serving.Files, error) {
	t.Helper()
	pin, err := l.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return l.Fetch(t.Context(), pin, nil)
}

func sameFiles(t *testing.T, dir string, want map[string][]byte) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		rel, _ := filepath.Rel(dir, path)
		data, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(data, want[rel]) {
			t.Errorf("%s has other bytes", rel)
		}
		return err
	})
	if err != nil || n != len(want) {
		t.Errorf("%d files, want %d; %v", n, len(want), err)
	}
}

func TestFetchBringsEveryByteAndPinsIt(t *testing.T) {
	for name, p := range map[string]*place{
		"in pieces":            {files: someFiles()},
		"whole":                {files: someFiles(), whole: true},
		"with faults":          {files: someFiles(), short: map[string]int{"data/model.pkl": 3, "MLmodel": 1}},
		"whole and with fault": {files: someFiles(), whole: true, short: map[string]int{"data/model.pkl": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLibrary(t, p)
			pin, err := l.Resolve(t.Context(), "models:/m@a")
			if err != nil {
				t.Fatal(err)
			}
			var done, total int64
			files, err := l.Fetch(t.Context(), pin, func(d, t int64) { done, total = d, t })
			if err != nil {
				t.Fatal(err)
			}
			sameFiles(t, files.Dir, p.files)
			if filepath.Base(files.Dir) != files.Digest || done != total || total != 10_512 {
				t.Errorf("%+v, %d of %d", files, done, total)
			}
			if err := l.Check(t.Context(), files); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(filepath.Join(l.Dir, "tmp", "fetch-*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestAPinnedVersionNeedsNoRegistry(t *testing.T) {
	p := &place{files: someFiles()}
	l := newLibrary(t, p)
	first, err := fetch(t, l, "models:/m/1")
	if err != nil {
		t.Fatal(err)
	}
	opened := len(p.opened)
	p.down = true
	second, err := fetch(t, l, "models:/m/1")
	if err != nil || first != second || len(p.opened) != opened {
		t.Errorf("got %+v, %v; %d opened", second, err, len(p.opened)-opened)
	}
	if _, err := l.Resolve(t.Context(), "models:/m@a"); !errors.Is(err, serving.Unavailable) {
		t.Errorf("an alias was answered from memory: %v", err)
	}
}

func TestOtherBytesUnderAPinNameTheFile(t *testing.T) {
	for name, c := range map[string]struct {
		change func(map[string][]byte)
		file   string
	}{
		"size":     {func(f map[string][]byte) { f["MLmodel"] = append(f["MLmodel"], ' ') }, "MLmodel"},
		"bytes":    {func(f map[string][]byte) { f["data/model.pkl"][7]++ }, "data/model.pkl"},
		"gone":     {func(f map[string][]byte) { delete(f, "requirements.txt") }, "requirements.txt"},
		"one more": {func(f map[string][]byte) { f["code/evil.py"] = []byte("x") }, "code/evil.py"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &place{files: someFiles()}
			l := newLibrary(t, p)
			files, err := fetch(t, l, "models:/m/1")
			if err != nil {
				t.Fatal(err)
			}
			c.change(p.files)
			if name == "bytes" { // the source is read again only when the store has lost it
				makeWritable(t, files.Dir)
				if err := os.RemoveAll(files.Dir); err != nil {
					t.Fatal(err)
				}
			}
			_, err = fetch(t, l, "models:/m/1")
			if !errors.Is(err, serving.Conflict) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("%q", c.file)) || serving.FixOf(err) == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnotherRegistryMayUseTheSameName(t *testing.T) {
	pin := model.Pin{Ref: "models:/m/1", Name: "m", Version: "1", Location: "mlflow-artifacts:/x"}
	p := &place{files: someFiles()}
	l := newLibrary(t, p)
	l.Registry = "http://one"
	if _, err := l.Fetch(t.Context(), pin, nil); err != nil {
		t.Fatal(err)
	}
	p.files["MLmodel"] = []byte("flavors: {other: {}}\n")
	l.Registry = "http://moved"
	if _, err := l.Fetch(t.Context(), pin, nil); !errors.Is(err, serving.Conflict) {
		t.Errorf("other bytes in the same place: got %v", err)
	}
	l.Registry, pin.Location = "http://one", "mlflow-artifacts:/y"
	if _, err := l.Fetch(t.Context(), pin, nil); !errors.Is(err, serving.Conflict) {
		t.Errorf("other bytes in the same registry: got %v", err)
	}
	l.Registry = "http://two"
	files, err := l.Fetch(t.Context(), pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameFiles(t, files.Dir, p.files)
}

func makeWritable(t *testing.T, dir string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		} else if err == nil {
			err = os.Chmod(path, 0o600)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestDamageInTheStoreIsFoundAndMended(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"same size": func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "data/model.pkl"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("evil"), 100)
			return errors.Join(err, f.Close())
		},
		"shorter": func(dir string) error { return os.Truncate(filepath.Join(dir, "data/model.pkl"), 5) },
		"replaced by a link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "data/model.pkl")), os.Symlink("/etc/hostname", filepath.Join(dir, "data/model.pkl")))
		},
		"removed": func(dir string) error { return os.Remove(filepath.Join(dir, "data/model.pkl")) },
		"another": func(dir string) error { return os.WriteFile(filepath.Join(dir, "data/model.pkl2"), nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			p := &place{files: someFiles()}
			l := newLibrary(t, p)
			files, err := fetch(t, l, "models:/m/1")
			if err != nil {
				t.Fatal(err)
			}
			makeWritable(t, files.Dir)
			if err := damage(files.Dir); err != nil {
				t.Fatal(err)
			}
			if err := l.Check(t.Context(), files); !errors.Is(err, serving.Conflict) || !strings.Contains(fmt.Sprint(err), "data/model.pkl") {
				t.Errorf("got %v", err)
			}
			if again, err := fetch(t, l, "models:/m/1"); err != nil || again != files {
				t.Fatalf("got %+v, %v", again, err)
			}
			sameFiles(t, files.Dir, p.files)
		})
	}
}

func TestPythonsCachesAreNoDamage(t *testing.T) {
	l := newLibrary(t, &place{files: someFiles()})
	files, err := fetch(t, l, "models:/m/1")
	if err != nil {
		t.Fatal(err)
	}
	makeWritable(t, files.Dir)
	cache := filepath.Join(files.Dir, "data", "__pycache__")
	if err := errors.Join(os.Mkdir(cache, 0o700), os.WriteFile(filepath.Join(cache, "x.pyc"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(t.Context(), files); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(cache); !os.IsNotExist(err) {
		t.Errorf("the cache is still there: %v", err)
	}
}

func TestLiesAboutSizesAreRefused(t *testing.T) {
	for name, p := range map[string]*place{
		"longer":        {files: someFiles(), longer: "MLmodel"},
		"always short":  {files: someFiles(), short: map[string]int{"MLmodel": 99}},
		"nothing there": {},
		"climbs":        {files: map[string][]byte{"../x": nil}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLibrary(t, p)
			if _, err := fetch(t, l, "models:/m/1"); err == nil {
				t.Error("fetched")
			}
			if left, _ := filepath.Glob(filepath.Join(l.Dir, "models", "*")); len(left) > 0 {
				t.Errorf("kept: %v", left)
			}
		})
	}
}

func TestManyFetchersOneDownload(t *testing.T) {
	p := &place{files: someFiles()}
	l := newLibrary(t, p)
	pin, err := l.Resolve(t.Context(), "models:/m/1")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := l.Fetch(t.Context(), pin, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(p.opened) != 12 {
		t.Errorf("%d downloads, want 12", len(p.opened))
	}
}

// A download that is killed goes on from the pieces that were on disk.
func TestAKilledDownloadGoesOn(t *testing.T) {
	if dir := os.Getenv("LOADLINE_TEST_FETCH_INTO"); dir != "" {
		p := &place{files: someFiles(), hang: func(n int) {
			if n == 7 {
				fmt.Println("stuck")
				select {}
			}
		}}
		l := newLibrary(t, p)
		l.Dir, l.Streams = dir, 1
		_, _ = fetch(t, l, "models:/m/1")
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAKilledDownloadGoesOn$")
	cmd.Env = append(os.Environ(), "LOADLINE_TEST_FETCH_INTO="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if line := make([]byte, 6); func() bool { _, err := io.ReadFull(out, line); return err != nil || string(line) != "stuck\n" }() {
		t.Fatal("the child did not get there")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	// One of the pieces rots meanwhile: it must be fetched again.
	grown, _ := filepath.Glob(filepath.Join(dir, "tmp", "fetch-*", "files", "data", "model.pkl"))
	if len(grown) != 1 {
		t.Fatalf("found %v", grown)
	}
	f, err := os.OpenFile(grown[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("rot"), 2100); err != nil {
		t.Fatal(err)
	}
	f.Close()

	p := &place{files: someFiles()}
	l := newLibrary(t, p)
	l.Dir = dir
	files, err := fetch(t, l, "models:/m/1")
	if err != nil {
		t.Fatal(err)
	}
	sameFiles(t, files.Dir, p.files)
	if len(p.opened) != 12-6+1 || !strings.Contains(strings.Join(p.opened, " "), "model.pkl@2000") {
		t.Errorf("fetched again: %v", p.opened)
	}
}

func TestALookNeedsNoDownload(t *testing.T) {
	l := newLibrary(t, &place{files: someFiles()})
	pin, err := l.Resolve(t.Context(), "models:/m/1")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := l.Read(t.Context(), pin, "MLmodel", 100); err != nil || string(data) != "flavors: {}\n" {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := l.Read(t.Context(), pin, "data/model.pkl", 100); err == nil {
		t.Error("read more than the limit")
	}
}

package dir_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/model/dir"
	"loadline.dev/loadline/serving"
)

// nothing remembers nothing, which is what a folder needs.
type nothing struct{}

func (nothing) Get(context.Context, string) ([]byte, error)    { return nil, serving.NotFound }
func (nothing) Put(context.Context, string, []byte) error      { return nil }
func (nothing) Delete(context.Context, string) error           { return nil }
func (nothing) Keys(context.Context, string) ([]string, error) { return nil, nil }

func newModel(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "m")
	if err := errors.Join(os.MkdirAll(filepath.Join(folder, "data"), 0o755),
		os.WriteFile(filepath.Join(folder, "MLmodel"), []byte("flavors: {}\n"), 0o644),
		os.WriteFile(filepath.Join(folder, "requirements.txt"), nil, 0o644),
		os.WriteFile(filepath.Join(folder, "data", "w"), make([]byte, 100_000), 0o644)); err != nil {
		t.Fatal(err)
	}
	return folder
}

func newLibrary(t *testing.T) *model.Library {
	return &model.Library{Dir: t.TempDir(), Pins: nothing{}, Piece: 30_000, Sources: map[string]model.Source{model.Folder: dir.Source{}}}
}

func fetch(t *testing.T, l *model.Library, ref string) (serving.Files, error) {
	t.Helper()
	pin, err := l.Resolve(t.Context(), ref)
	if err != nil {
		return serving.Files{}, err
	}
	return l.Fetch(t.Context(), pin, nil)
}

func TestAFolderIsNamedByItsContent(t *testing.T) {
	l, folder := newLibrary(t), newModel(t)
	first, err := fetch(t, l, folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(folder, "__pycache__", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if again, err := fetch(t, l, "file://"+folder); err != nil || again != first {
		t.Errorf("the same content has two names: %+v, %+v, %v", first, again, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "data", "w"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	second, err := fetch(t, l, folder)
	if err != nil || second.Digest == first.Digest {
		t.Errorf("other content has the same name: %+v, %v", second, err)
	}
	// The first is still what it was: a folder is copied, never linked to.
	if err := l.Check(t.Context(), first); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(first.Dir, "data", "w")); err != nil || info.Size() != 100_000 || info.Mode().Perm() != 0o400 {
		t.Errorf("got %v, %v", info, err)
	}
}

func TestAFolderThatChangesUnderwayIsNotKept(t *testing.T) {
	l, folder := newLibrary(t), newModel(t)
	pin, err := l.Resolve(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "MLmodel"), []byte("flavors: {a: b}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Fetch(t.Context(), pin, nil); !errors.Is(err, serving.Conflict) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoPlainFileIsRefusedWithItsReason(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"pipe":             {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "it is a pipe"},
		"link out":         {func(p string) error { return os.Symlink("/etc/passwd", p) }, "symbolic link"},
		"link within":      {func(p string) error { return os.Symlink("MLmodel", p) }, "symbolic link"},
		"link to a folder": {func(p string) error { return os.Symlink("/etc", p) }, "symbolic link"},
		"setuid": {func(p string) error {
			return errors.Join(os.WriteFile(p, nil, 0o700), os.Chmod(p, 0o700|os.ModeSetuid))
		}, "setuid"},
		"backslash": {func(p string) error { return os.WriteFile(p+`\y`, nil, 0o600) }, "backslash"},
		"collision": {func(p string) error { return os.WriteFile(filepath.Join(filepath.Dir(p), "mlMODEL"), nil, 0o600) }, "collides"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := newModel(t)
			if err := c.make(filepath.Join(folder, "x")); err != nil {
				t.Fatal(err)
			}
			if _, err := fetch(t, newLibrary(t), folder); !errors.Is(err, serving.Invalid) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestASocketIsRefused(t *testing.T) {
	folder := newModel(t)
	t.Chdir(folder) // a socket's path may be no longer than about 100 bytes
	l, err := net.Listen("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := fetch(t, newLibrary(t), folder); !errors.Is(err, serving.Invalid) || !strings.Contains(fmt.Sprint(err), "it is a socket") {
		t.Errorf("got %v", err)
	}
}

func TestALinkPutInLaterIsNotFollowed(t *testing.T) {
	folder := newModel(t)
	if err := errors.Join(os.Remove(filepath.Join(folder, "data", "w")), os.Symlink("/etc/passwd", filepath.Join(folder, "data", "w"))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"data/w", "../m/MLmodel", "/etc/passwd"} {
		if r, err := (dir.Source{}).Open(t.Context(), model.Pin{Location: folder}, path, 0, -1); err == nil {
			r.Close()
			t.Errorf("%s was opened", path)
		}
	}
}

func TestWhatIsNoModelSaysWhatIsMissing(t *testing.T) {
	folder := t.TempDir()
	onnx := filepath.Join(folder, "m.onnx")
	if err := os.WriteFile(onnx, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for ref, c := range map[string]struct {
		kind serving.Kind
		want string
	}{
		folder + "/none":     {serving.NotFound, "no such folder"},
		folder:               {serving.Invalid, "no MLmodel"},
		onnx:                 {serving.Invalid, "waits for the native engine"},
		"file:///etc/passwd": {serving.Invalid, "it is a file"},
	} {
		if _, err := fetch(t, newLibrary(t), ref); !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.want) || serving.FixOf(err) == "" {
			t.Errorf("%s: got %v", ref, err)
		}
	}
}

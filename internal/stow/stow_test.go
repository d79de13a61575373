package stow

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFileIsNamedByItsContentAndRepaired(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tools")
	path, err := File(dir, "worker", ".pyz", []byte("one"), 0o444)
	if err != nil {
		t.Fatal(err)
	}
	other, err := File(dir, "worker", ".pyz", []byte("two"), 0o444)
	if err != nil || other == path {
		t.Fatalf("got %s and %s, %v", path, other, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := File(dir, "worker", ".pyz", []byte("one"), 0o444)
	if err != nil || again != path {
		t.Fatalf("got %s, %v, want %s", again, err, path)
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "one" {
		t.Errorf("holds %q, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o444 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

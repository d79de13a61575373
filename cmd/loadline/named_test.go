package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCommandsMayReadWhatTheyName(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"serve.py", "venv/bin/python", "venv/lib/x", "home/bin/tool", "data/token", "config/a b"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("data/token", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"exec DIR/venv/bin/python DIR/serve.py --conf='DIR/config' $PORT": "DIR/venv DIR/serve.py DIR/config",
		"DIR/home/bin/tool":                          "DIR/home/bin/tool",
		"cd DIR/config;python3 x.py":                 "DIR/config",
		"python3 serve.py DIR/absent":                "",
		"cat DIR/data/token DIR/data DIR / DIR/link": "",
		"cat DIR/config/../data/token":               "",
	} {
		command = strings.ReplaceAll(command, "DIR", dir)
		if got := named(command, filepath.Join(dir, "data")); !slices.Equal(got, strings.Fields(strings.ReplaceAll(want, "DIR", dir))) {
			t.Errorf("%s: got %v, want %s", command, got, want)
		}
	}
}

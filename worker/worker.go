// Package worker carries the Python side of a replica: one package of the
// standard library only, packed as a zipapp that runs inside a model's own
// environment. The zipapp is the same bytes for the same sources, so that its
// hash can name it.
//
// It holds no knowledge of the frames; agent/pyworker speaks them.
package worker

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

//go:embed loadline_worker/*.py
var sources embed.FS

const entry = "import sys\n\nfrom loadline_worker.main import main\n\nsys.exit(main())\n"

// Zipapp returns the worker as a file that Python runs.
var Zipapp = sync.OnceValue(pack)

// pack writes entries in name order, uncompressed (start-up counts, 30 kB do
// not) and without times. It cannot fail: sources are in the binary, the
// writer is memory.
func pack() []byte {
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	add := func(name string, text []byte) {
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = f.Write(text)
		}
		if err != nil {
			panic(fmt.Sprintf("worker: packing %s into memory: %v", name, err))
		}
	}
	add("__main__.py", []byte(entry))
	names, _ := fs.Glob(sources, "loadline_worker/*.py")
	for _, name := range names {
		text, _ := sources.ReadFile(name)
		add(name, text)
	}
	if err := z.Close(); err != nil {
		panic(fmt.Sprintf("worker: packing into memory: %v", err))
	}
	return out.Bytes()
}

// Install puts the zipapp into dir under a name that holds its hash, and
// returns its path. It is safe to call from several processes at once.
func Install(dir string) (string, error) {
	app := Zipapp()
	sum := sha256.Sum256(app)
	path := filepath.Join(dir, "worker-"+hex.EncodeToString(sum[:8])+".pyz")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, app) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("install worker: %w", err)
	}
	tmp, err := os.CreateTemp(dir, "worker-*.tmp")
	if err != nil {
		return "", fmt.Errorf("install worker: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(app)
	if err == nil {
		err = tmp.Chmod(0o444)
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("install worker: %w", err)
	}
	return path, nil
}

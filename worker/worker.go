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
	"embed"
	"fmt"
	"io/fs"
	"sync"

	"loadline.dev/loadline/internal/stow"
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
	return stow.File(dir, "worker", ".pyz", Zipapp(), 0o444)
}

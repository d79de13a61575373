package model

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"loadline.dev/loadline/serving"
)

// sealedTime is the modification time of every file in the store, so that a
// touched one shows without being read.
var sealedTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Check proves that the folder still holds what its digest says: names and
// sizes, and by hash whatever does not have the time it was sealed with. The
// error names the file. Python's caches, which loading a model may leave
// there, are removed.
func (l *Library) Check(ctx context.Context, files serving.Files) error {
	text, err := os.ReadFile(files.Dir + ".manifest")
	if err != nil {
		return damaged(files, "", err)
	}
	m, err := parseManifest(text)
	if err != nil {
		return damaged(files, "", err)
	}
	if m.Digest() != files.Digest {
		return damaged(files, "", errors.New("its manifest is not the one it was fetched with"))
	}
	root, err := os.OpenRoot(files.Dir)
	if err != nil {
		return damaged(files, "", err)
	}
	defer root.Close()
	if err := sweep(root, m); err != nil {
		return damaged(files, "", err)
	}
	now, err := look(ctx, root, m)
	if err != nil {
		return damaged(files, "", err)
	}
	if file, how := differ(m, now); file != "" {
		return damaged(files, file, errors.New(how))
	}
	return nil
}

func damaged(files serving.Files, file string, err error) error {
	if file != "" {
		err = fmt.Errorf("file %q was changed in the store: %w", file, err)
	}
	return &serving.Error{Op: "check model", Subject: files.Dir, Kind: serving.Conflict, Err: err,
		Fix: "Deploy the model again: it is then fetched anew."}
}

// look reads the folder as it is. A file with the size and time it was sealed
// with passes for itself.
func look(ctx context.Context, root *os.Root, want Manifest) (Manifest, error) {
	known := make(map[string]Summed, len(want))
	for _, f := range want {
		known[f.Path] = f
	}
	var now Manifest
	err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := Summed{File: File{p, info.Size()}}
		switch w, ok := known[p]; {
		case !info.Mode().IsRegular():
			f.Sum = "no plain file" // differs from any sum
		case ok && w.Size == f.Size && info.ModTime().Equal(sealedTime):
			f.Sum = w.Sum
		case ok && w.Size == f.Size:
			if f.Sum, err = sumFile(ctx, root, p); err != nil {
				return err
			}
		}
		now = append(now, f)
		return nil
	})
	return now, err
}

func sumFile(ctx context.Context, root *os.Root, p string) (string, error) {
	f, err := root.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, contextReader{ctx, f}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// A contextReader stops when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// sweep removes __pycache__ folders that the model did not come with.
func sweep(root *os.Root, m Manifest) error {
	own := map[string]bool{}
	for _, f := range m {
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			own[d] = true
		}
	}
	var stray []string
	err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "__pycache__" && !own[p] {
			stray = append(stray, p)
			return fs.SkipDir
		}
		return err
	})
	for _, p := range stray {
		err = errors.Join(err, root.Chmod(path.Dir(p), 0o700), root.RemoveAll(p), root.Chmod(path.Dir(p), 0o500))
	}
	return err
}

// seal makes a folder read-only and gives every file the same time.
func seal(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var dirs []string
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, p)
			return nil
		}
		if err := root.Chmod(p, 0o400); err != nil {
			return err
		}
		return root.Chtimes(p, sealedTime, sealedTime)
	})
	for _, d := range dirs {
		if d != "." {
			err = errors.Join(err, root.Chmod(d, 0o500))
		}
	}
	return err
}

// remove takes a sealed folder away.
func remove(dir string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = root.Chmod(p, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// writeFile replaces a file in one step.
func writeFile(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// copyAtMost copies at most limit bytes; more is an error.
func copyAtMost(w io.Writer, r io.Reader, limit int64) (int64, error) {
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return n, err
}

// Package dir is the source of models that are folders on this machine. A
// folder may change at any time, so its pin is the digest of what it holds
// now. It follows no link and reads nothing but plain files.
package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

// A Source reads folders. The zero value is ready.
type Source struct{}

var _ model.Source = Source{}

// ignored are names that are no part of a model: caches that come and go.
var ignored = []string{"__pycache__", ".ipynb_checkpoints", ".DS_Store"}

// Resolve reads the whole folder and pins it by its digest.
func (s Source) Resolve(ctx context.Context, ref model.Ref) (model.Pin, error) {
	path, err := filepath.Abs(filepath.FromSlash(ref.Path))
	if err != nil {
		return model.Pin{}, err
	}
	if err := checkFolder(path); err != nil {
		return model.Pin{}, err
	}
	pin := model.Pin{Location: path}
	files, err := s.Files(ctx, pin)
	if err != nil {
		return model.Pin{}, err
	}
	if err := model.CheckFiles(files, model.MaxFiles, model.MaxBytes); err != nil {
		return model.Pin{}, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return model.Pin{}, err
	}
	defer root.Close()
	var sums []model.Summed
	for _, f := range files {
		sum, err := hash(ctx, root, f.Path)
		if err != nil {
			return model.Pin{}, fmt.Errorf("read model: %s: %w", f.Path, err)
		}
		sums = append(sums, model.Summed{File: f, Sum: sum})
	}
	pin.Digest = model.NewManifest(sums).Digest()
	pin.Ref = "folder:" + pin.Digest
	return pin, nil
}

func checkFolder(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &serving.Error{Op: "model", Subject: path, Kind: serving.NotFound, Err: errors.New("there is no such folder"),
			Fix: "Give a folder that holds an MLmodel file, or a models:/ name."}
	case err != nil:
		return &serving.Error{Op: "model", Subject: path, Kind: serving.Invalid, Err: err}
	case !info.IsDir() && strings.EqualFold(filepath.Ext(path), ".onnx"):
		return &serving.Error{Op: "model", Subject: path, Kind: serving.Invalid, Err: errors.New("a bare .onnx file waits for the native engine, which this version does not have"),
			Fix: "Save it as an MLflow model: mlflow.onnx.save_model(onnx.load(FILE), DIR), and give DIR."}
	case !info.IsDir():
		return &serving.Error{Op: "model", Subject: path, Kind: serving.Invalid, Err: errors.New("it is a file, not a folder"),
			Fix: "Give the folder that holds the MLmodel file."}
	}
	if info, err := os.Lstat(filepath.Join(path, "MLmodel")); err != nil || !info.Mode().IsRegular() {
		return &serving.Error{Op: "model", Subject: path, Kind: serving.Invalid, Err: errors.New("the folder holds no MLmodel file"),
			Fix: "Save the model with MLflow (for example mlflow.sklearn.save_model(model, DIR)) and give that folder."}
	}
	return nil
}

// Files lists the folder. What is no plain file is refused with its reason.
func (Source) Files(ctx context.Context, pin model.Pin) ([]model.File, error) {
	root, err := open(pin)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var files []model.File
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		for _, name := range ignored {
			if d.Name() == name {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
		}
		if d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if why := unfit(info.Mode()); why != "" {
			return &serving.Error{Op: "read model", Subject: fmt.Sprintf("%q", p), Kind: serving.Invalid, Err: errors.New(why),
				Fix: "A model's folder must hold plain files only. Copy it with cp -RL, or save the model again."}
		}
		if len(files) >= model.MaxFiles {
			return &serving.Error{Op: "read model", Subject: pin.Location, Kind: serving.Invalid,
				Err: fmt.Errorf("the folder holds more than %d files", model.MaxFiles), Fix: "Give the model's own folder."}
		}
		files = append(files, model.File{Path: p, Size: info.Size()})
		return nil
	})
	return files, err
}

func unfit(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "it is a symbolic link, and links are not followed"
	case m&fs.ModeNamedPipe != 0:
		return "it is a pipe"
	case m&fs.ModeSocket != 0:
		return "it is a socket"
	case m&fs.ModeDevice != 0:
		return "it is a device"
	case !m.IsRegular():
		return "it is no plain file"
	case m&(fs.ModeSetuid|fs.ModeSetgid) != 0:
		return "it would run as somebody else (setuid or setgid)"
	}
	return ""
}

func open(pin model.Pin) (*os.Root, error) {
	ref, err := model.Parse(pin.Location)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(filepath.FromSlash(ref.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &serving.Error{Op: "read model", Subject: ref.Path, Kind: serving.NotFound, Err: errors.New("there is no such folder")}
	}
	return root, err
}

// Open reads a part of a file.
func (Source) Open(_ context.Context, pin model.Pin, path string, offset, length int64) (io.ReadCloser, error) {
	root, err := open(pin)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Lstat(path)
	if err != nil {
		return nil, err
	}
	if why := unfit(info.Mode()); why != "" { // opening a pipe would wait for its other end
		return nil, &serving.Error{Op: "read model", Subject: fmt.Sprintf("%q", path), Kind: serving.Invalid, Err: errors.New(why)}
	}
	f, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	if length < 0 {
		length = 1<<63 - 1 - offset
	}
	return part{io.NewSectionReader(f, offset, length), f}, nil
}

type part struct {
	io.Reader
	io.Closer
}

func hash(ctx context.Context, root *os.Root, path string) (string, error) {
	f, err := root.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		switch _, err := io.CopyN(h, f, 64<<20); {
		case errors.Is(err, io.EOF):
			return hex.EncodeToString(h.Sum(nil)), nil
		case err != nil:
			return "", err
		}
	}
}

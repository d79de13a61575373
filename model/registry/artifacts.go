package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

const proxied = "/api/2.0/mlflow-artifacts/artifacts"

type wireFile struct {
	Path  string          `json:"path"`
	IsDir bool            `json:"is_dir"`
	Size  json.RawMessage `json:"file_size"` // a number or, from some servers, a string
}

func (f wireFile) size() (int64, error) {
	if len(f.Size) == 0 {
		return 0, nil // empty fields are left out
	}
	return strconv.ParseInt(strings.Trim(string(f.Size), `"`), 10, 64)
}

// maxFolders bounds how many folders are listed for one model.
const maxFolders = 2_000

// Files lists the artifacts below the pin's location, folder by folder: a
// listing covers one level.
func (s *Server) Files(ctx context.Context, pin model.Pin) ([]model.File, error) {
	ref, err := model.Parse(pin.Location)
	if err != nil {
		return nil, err
	}
	var files []model.File
	folders := []string{""}
	for done := 0; done < len(folders); done++ {
		if done >= maxFolders {
			return nil, tooMany(pin, "folders", maxFolders)
		}
		list, err := s.list(ctx, path.Join(ref.Path, folders[done]))
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", pin.Location, err)
		}
		for _, f := range list {
			// Names are relative to the listed folder, one part each. Any other
			// is passed on as it is, to be refused by name.
			name := f.Path
			if folders[done] != "" {
				name = folders[done] + "/" + f.Path
			}
			if f.IsDir {
				if strings.Count(name, "/") > 50 || !plain(f.Path) {
					return nil, &serving.Error{Op: "list " + pin.Location, Kind: serving.Invalid, Err: fmt.Errorf("path leaves the model directory, or is not plain: %.200q", name)}
				}
				folders = append(folders, name)
				continue
			}
			size, err := f.size()
			if err != nil {
				return nil, &serving.Error{Op: "list " + pin.Location, Subject: name, Kind: serving.Invalid, Err: fmt.Errorf("its size is %.50q", f.Size)}
			}
			files = append(files, model.File{Path: name, Size: size})
			if len(files) > model.MaxFiles {
				return nil, tooMany(pin, "files", model.MaxFiles)
			}
		}
	}
	return files, nil
}

func plain(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, `/\`)
}

func tooMany(pin model.Pin, what string, limit int) error {
	return &serving.Error{Op: "list " + pin.Location, Kind: serving.Invalid, Err: fmt.Errorf("more than %d %s", limit, what),
		Fix: "Name the model's own folder, the one that holds MLmodel."}
}

func (s *Server) list(ctx context.Context, folder string) ([]wireFile, error) {
	var a struct {
		Files []wireFile `json:"files"`
	}
	err := s.ask(ctx, call{method: http.MethodGet, path: proxied, query: url.Values{"path": {folder}}}, &a)
	return a.Files, err
}

// Open reads a part of an artifact.
func (s *Server) Open(ctx context.Context, pin model.Pin, name string, offset, length int64) (io.ReadCloser, error) {
	ref, err := model.Parse(pin.Location)
	if err != nil {
		return nil, err
	}
	var parts []string
	for p := range strings.SplitSeq(path.Join(ref.Path, name), "/") {
		parts = append(parts, url.PathEscape(p))
	}
	c := call{method: http.MethodGet, path: proxied + "/" + strings.Join(parts, "/")}
	ranged := offset > 0 || length >= 0
	if ranged {
		last := ""
		if length >= 0 {
			last = strconv.FormatInt(offset+length-1, 10)
		}
		c.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%s", offset, last)}}
	}
	resp, err := s.send(ctx, c)
	if err != nil {
		return nil, err
	}
	if !ranged {
		return resp.Body, nil
	}
	if resp.StatusCode != http.StatusPartialContent ||
		!strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
		_ = resp.Body.Close() // a remote store is streamed whole; it is asked again without a range
		return nil, model.ErrWhole
	}
	return resp.Body, nil
}

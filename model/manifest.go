package model

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"loadline.dev/loadline/serving"
)

// Bounds of one model unless a [Library] says otherwise.
const (
	MaxFiles = 20_000
	MaxBytes = 1 << 40
)

// A Summed file is a file with its content's name.
type Summed struct {
	File
	Sum string // hex sha256
}

// A Manifest is a model's files, sorted by path. Its text is one line a file;
// the digest of that text names the model.
type Manifest []Summed

// Text is "sum size path", one line a file. A path holds no line feed; see [CheckFiles].
func (m Manifest) Text() []byte {
	var b bytes.Buffer
	for _, f := range m {
		fmt.Fprintf(&b, "%s %d %s\n", f.Sum, f.Size, f.Path)
	}
	return b.Bytes()
}

// Digest is the hex sha256 of the manifest's text.
func (m Manifest) Digest() string {
	sum := sha256.Sum256(m.Text())
	return hex.EncodeToString(sum[:])
}

// Bytes is the sum of the files' sizes.
func (m Manifest) Bytes() int64 {
	var n int64
	for _, f := range m {
		n += f.Size
	}
	return n
}

// NewManifest sorts files.
func NewManifest(files []Summed) Manifest {
	m := slices.Clone(files)
	slices.SortFunc(m, func(a, b Summed) int { return cmp.Compare(a.Path, b.Path) })
	return m
}

func parseManifest(text []byte) (Manifest, error) {
	var m Manifest
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		sum, rest, ok := strings.Cut(s.Text(), " ")
		size, path, ok2 := strings.Cut(rest, " ")
		n, err := strconv.ParseInt(size, 10, 64)
		if !ok || !ok2 || err != nil {
			return nil, fmt.Errorf("manifest line %d is damaged", len(m)+1)
		}
		m = append(m, Summed{File{path, n}, sum})
	}
	return m, nil
}

// differ names the first file in which got is not want, and how; "" if none.
func differ(want, got Manifest) (file, how string) {
	have := make(map[string]Summed, len(got))
	for _, f := range got {
		have[f.Path] = f
	}
	for _, w := range want {
		g, ok := have[w.Path]
		switch {
		case !ok:
			return w.Path, "it is gone"
		case g.Size != w.Size:
			return w.Path, fmt.Sprintf("it has %d bytes, and had %d", g.Size, w.Size)
		case g.Sum != "" && g.Sum != w.Sum:
			return w.Path, fmt.Sprintf("its sha256 is %.12s…, and was %.12s…", g.Sum, w.Sum)
		}
		delete(have, w.Path)
	}
	for _, g := range got {
		if _, extra := have[g.Path]; extra {
			return g.Path, "it was not there before"
		}
	}
	return "", ""
}

// CheckFiles refuses a listing that cannot be written down safely as a folder
// on any system: names that climb, collide, or mean something to a shell or
// file system, and listings without bound.
func CheckFiles(files []File, maxFiles int, maxBytes int64) error {
	if len(files) > maxFiles {
		return badFile("", "the model has %d files; at most %d are allowed", len(files), maxFiles)
	}
	seen := make(map[string]string, len(files)) // folded path of a file or folder → as written
	isFile := make(map[string]bool, len(files))
	var total int64
	for _, f := range files {
		if why := checkName(f.Path); why != "" {
			return badFile(f.Path, "%s", why)
		}
		if f.Size < 0 || f.Size > maxBytes-total {
			return badFile(f.Path, "the model is larger than %d bytes", maxBytes)
		}
		total += f.Size
		for i, c := range f.Path + "/" {
			if c != '/' {
				continue
			}
			part := f.Path[:i]
			folded := strings.ToLower(part)
			if other, ok := seen[folded]; ok && (other != part || i == len(f.Path) || isFile[folded]) {
				return badFile(f.Path, "its name collides with %.200q", other)
			}
			seen[folded] = part
			isFile[folded] = i == len(f.Path)
		}
	}
	return nil
}

// checkName says why a file's path cannot be used, or "".
func checkName(p string) string {
	switch {
	case p == "":
		return "a file without a name"
	case len(p) > 1024:
		return "its path is longer than 1024 bytes"
	case strings.HasPrefix(p, "/"):
		return "its path is absolute"
	case strings.Contains(p, `\`):
		return "its path holds a backslash"
	case !utf8.ValidString(p):
		return "its path is not UTF-8"
	case strings.IndexFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f || c == 0x2028 || c == 0x2029 }) >= 0:
		return "its path holds control characters"
	}
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "" || part == "." || part == "..":
			return "path leaves the model directory, or is not plain"
		case len(part) > 255:
			return "a part of its path is longer than 255 bytes"
		case strings.HasSuffix(part, ".") || strings.HasSuffix(part, " "):
			return "a part of its path ends in a dot or blank"
		case len(part) > 1 && part[1] == ':':
			return "its path names a drive"
		}
	}
	return ""
}

func badFile(path, format string, args ...any) error {
	subject := ""
	if path != "" {
		if len(path) > 200 {
			path = path[:200] + "…"
		}
		subject = fmt.Sprintf("%q", path)
	}
	return &serving.Error{Op: "model file", Subject: subject, Kind: serving.Invalid, Err: fmt.Errorf(format, args...),
		Fix: "Log the model again under plain file names."}
}

package pyenv

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"loadline.dev/loadline/serving"
)

// stock is the name of the list of an environment's files, within it. It is
// also the mark of a whole one.
const stock = "loadline.files"

// takeStock writes down size and time of every file of a fresh environment.
func takeStock(dir string) error {
	var list strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == stock {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || strings.ContainsAny(name, "\n") {
			return errors.Join(err, fmt.Errorf("file name %q", name))
		}
		fmt.Fprintf(&list, "%d %d %s\n", info.Size(), info.ModTime().UnixNano(), name)
		return nil
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, stock), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(list.String())
	return errors.Join(err, f.Sync(), f.Close())
}

// check returns the files of an environment that are not as they were built.
// Files of an unchanged size and time are taken as good; the others are
// compared with the hashes that their packages carry. An environment that is
// not there or was never finished is [os.ErrNotExist].
func check(dir string) (bad []string, err error) {
	if _, err := os.Lstat(dir); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, stock))
	if err != nil {
		return nil, fmt.Errorf("it was never finished: %w", errors.New(stock+" is missing"))
	}
	defer f.Close()
	if _, err := os.Stat(filepath.Join(dir, "bin", "python")); err != nil {
		return nil, errors.New("the interpreter it was built on is gone")
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var size, when int64
		var name string
		if n, _ := fmt.Sscanf(lines.Text(), "%d %d", &size, &when); n == 2 {
			_, rest, _ := strings.Cut(lines.Text(), " ")
			_, name, _ = strings.Cut(rest, " ")
		}
		info, err := os.Lstat(filepath.Join(dir, name))
		if name == "" || err != nil || info.Size() != size || info.ModTime().UnixNano() != when {
			bad = append(bad, name)
		}
	}
	if err := lines.Err(); err != nil || len(bad) == 0 {
		return nil, err
	}
	hashes := records(dir)
	return slices.DeleteFunc(bad, func(name string) bool {
		r, ok := hashes[name]
		return ok && r.hash != "" && r.hash == hashOf(filepath.Join(dir, name))
	}), nil
}

// A record is what a package's RECORD says of one file.
type record struct {
	dist string
	hash string // unpadded URL-safe base64 of the SHA-256; may be empty
}

// records reads every package's RECORD, keyed by path within the environment.
func records(dir string) map[string]record {
	out := map[string]record{}
	lists, _ := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages", "*.dist-info", "RECORD"))
	for _, list := range lists {
		info := filepath.Dir(list)
		dist, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(info), ".dist-info"), "-")
		f, err := os.Open(list)
		if err != nil {
			continue
		}
		rows := csv.NewReader(f)
		rows.FieldsPerRecord = -1
		for {
			row, err := rows.Read()
			if err != nil {
				break
			}
			name, err := filepath.Rel(dir, filepath.Join(filepath.Dir(info), row[0]))
			if err != nil || len(row) < 2 {
				continue
			}
			hash, _ := strings.CutPrefix(row[1], "sha256=")
			out[name] = record{dist, hash}
		}
		f.Close()
	}
	return out
}

func hashOf(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// quarantine puts a damaged environment aside and drops the packages that the
// damage is in from uv's cache, whose files are the very same.
func (b *Builder) quarantine(ctx context.Context, env serving.Environment, bad []string, log io.Writer) error {
	hashes := records(env.Dir)
	var dists []string
	for _, name := range bad {
		if d := hashes[name].dist; d != "" && !slices.Contains(dists, d) {
			dists = append(dists, d)
		}
	}
	b.log().Warn("environment damaged, building it again", "dir", env.Dir, "files", len(bad), "why", bad[0])
	fmt.Fprintf(log, "damaged: %s (%d files in all); building again\n", filepath.Join(env.Dir, bad[0]), len(bad))
	if err := b.setAside(env); err != nil || len(dists) == 0 {
		return err
	}
	tmp := b.path("tmp", "env-"+env.Digest)
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	caches := []string{""}
	if own := b.path("built", env.Digest); exists(own) {
		caches = append(caches, own)
	}
	for _, cache := range caches {
		c := call{dir: tmp, cache: cache, args: append([]string{"cache", "clean", "--quiet"}, dists...)}
		if err := b.run(ctx, c, log); err != nil {
			return fmt.Errorf("drop damaged packages from uv's cache: %w", err)
		}
	}
	return nil
}

// setAside moves an environment to where [Builder.Clean] removes it.
func (b *Builder) setAside(env serving.Environment) error {
	for n := range 1000 {
		to := b.path("tmp", fmt.Sprintf("bad-%s-%d", env.Digest, n))
		if exists(to) {
			continue
		}
		return os.Rename(env.Dir, to)
	}
	return fmt.Errorf("too many damaged copies of %s in %s", env.Digest, b.path("tmp"))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

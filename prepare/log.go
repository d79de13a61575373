package prepare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"loadline.dev/loadline/serving"
)

// maxLog bounds the log of one preparation; what a model prints is not ours to bound otherwise.
const maxLog = 4 << 20

// A logFile is the log of one preparation. It goes by the entity's content
// from the start, and by the revision as soon as that is known.
type logFile struct {
	mu   sync.Mutex
	f    *os.File
	dir  string
	left int
}

func openLog(dir, entity string) (*logFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "entity-"+entity+".log")
	// A new file, not the old one emptied: that may be a revision's log by now.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if errors.Is(err, fs.ErrExist) { // the same entity is being prepared elsewhere
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	}
	if err != nil {
		return nil, err
	}
	return &logFile{f: f, dir: dir, left: maxLog}, nil
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left <= 0 {
		return len(p), nil
	}
	n := min(len(p), l.left)
	text := bytes.Map(tame, p[:n])
	if l.left -= n; l.left <= 0 {
		text = append(text, "\n… cut here: the log is full\n"...)
	}
	if _, err := l.f.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}

// tame takes out what would move the cursor, or worse, of whoever reads the log
// in a terminal. A model may print anything.
func tame(c rune) rune {
	if c < ' ' && c != '\n' && c != '\t' || c >= 0x7f && c < 0xa0 {
		return -1
	}
	return c
}

// end writes how it went, however full the log is.
func (l *logFile) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		fmt.Fprintf(l.f, "%s failed: %v\n", time.Now().UTC().Format(time.RFC3339), err)
	}
}

// name lets the log go by the revision too. The log of the preparation that
// went well says more than later ones of having found all done, so that one stays.
func (l *logFile) name(digest string, proven bool) {
	path := filepath.Join(l.dir, digest+".log")
	if !proven {
		os.Remove(path)
	}
	_ = os.Link(l.f.Name(), path)
}

func (l *logFile) Close() error { return l.f.Close() }

var digestRE = regexp.MustCompile(`^[0-9a-f]{64}$`)

// BuildLog returns the log of the preparation of a revision, or serving.NotFound.
func (p *Preparer) BuildLog(_ context.Context, digest string) ([]byte, error) {
	if !digestRE.MatchString(digest) {
		return nil, &serving.Error{Op: "build log", Subject: digest, Kind: serving.NotFound}
	}
	return p.readLog(digest)
}

// EntityLog returns the log of the last preparation of an entity, also of one
// that failed before its revision was known, or serving.NotFound.
func (p *Preparer) EntityLog(_ context.Context, e serving.Entity) ([]byte, error) {
	return p.readLog("entity-" + contentOf(e, p.Limits))
}

func (p *Preparer) readLog(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(p.Dir, "logs", "prepare", name+".log"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &serving.Error{Op: "build log", Subject: name, Kind: serving.NotFound}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 2*maxLog))
}

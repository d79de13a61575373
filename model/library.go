package model

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"loadline.dev/loadline/serving"
)

// A Library fetches models into a content-addressed store, DIR/models/<digest>,
// and remembers what it saw. It is safe for concurrent use, also by several
// processes on the same folder.
type Library struct {
	Dir     string // the data folder
	Sources map[string]Source
	Pins    Drawer

	// Registry is where names are resolved: the same version of the same name
	// is another one in another registry.
	Registry string

	// MaxFiles and MaxBytes bound one model; zero is the package's own bound.
	MaxFiles int
	MaxBytes int64

	Streams int   // downloads at once; zero is 6
	Piece   int64 // bytes of one download; zero is 8 MiB

	// Patience is how long a download may bring no byte before it is tried
	// again; zero is 30 s.
	Patience time.Duration

	mu    sync.Mutex
	under map[string]chan struct{} // pins being fetched, by key
}

// resolvePatience bounds how long a registry is waited for when what it would
// say of an immutable name is known from before.
const resolvePatience = 5 * time.Second

// Resolve finds out what a MODEL means now. An immutable name that was
// resolved before is answered from memory while its registry does not answer.
func (l *Library) Resolve(ctx context.Context, modelRef string) (Pin, error) {
	ref, err := Parse(modelRef)
	if err != nil {
		return Pin{}, err
	}
	source, err := l.source(ref.Scheme, ref.Text)
	if err != nil {
		return Pin{}, err
	}
	key := "resolved/" + ref.Text
	known, isKnown := l.recall(ctx, key, ref)
	asking := ctx
	if isKnown {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, resolvePatience)
		defer cancel()
	}
	pin, err := source.Resolve(asking, ref)
	switch {
	case err == nil:
	case isKnown && ctx.Err() == nil && (errors.Is(err, serving.Unavailable) || asking.Err() != nil):
		return known, nil
	default:
		return Pin{}, err
	}
	if immutable(ref) {
		value, err := json.Marshal(pin)
		if err != nil {
			return Pin{}, err
		}
		if err := l.Pins.Put(ctx, key, value); err != nil {
			return Pin{}, fmt.Errorf("remember %s: %w", ref.Text, err)
		}
	}
	return pin, nil
}

func (l *Library) recall(ctx context.Context, key string, ref Ref) (Pin, bool) {
	if !immutable(ref) {
		return Pin{}, false
	}
	value, err := l.Pins.Get(ctx, key)
	if err != nil {
		return Pin{}, false
	}
	var pin Pin
	return pin, json.Unmarshal(value, &pin) == nil
}

// immutable says that what ref means cannot change.
func immutable(ref Ref) bool {
	if ref.Scheme == Models && ref.ID != "" || ref.Scheme == Runs {
		return true
	}
	_, err := strconv.ParseUint(ref.Version, 10, 64)
	return ref.Scheme == Models && err == nil
}

func (l *Library) source(scheme, text string) (Source, error) {
	if s, ok := l.Sources[scheme]; ok {
		return s, nil
	}
	return nil, &serving.Error{Op: "model", Subject: fmt.Sprintf("%q", text), Kind: serving.Invalid,
		Err: fmt.Errorf("no source for %s: is set up", scheme)}
}

// located is the source that opens pin's location.
func (l *Library) located(pin Pin) (Source, error) {
	ref, err := Parse(pin.Location)
	if err != nil {
		return nil, err
	}
	return l.source(ref.Scheme, pin.Location)
}

// A record is what was seen under a pin the first time.
type record struct {
	Digest   string
	Manifest string // its text
	Seen     time.Time
	Registry string // where the pin was resolved
	Location string // and where its bytes lay
}

// Fetch brings a pin's files into the store, or finds them there. The files
// are pinned when they are first seen; other bytes under the same pin later
// are a [serving.Conflict] that names the file. A download that was cut off,
// even by a kill, goes on where it was. Progress may be nil; it is called from
// one goroutine at a time.
func (l *Library) Fetch(ctx context.Context, pin Pin, progress func(done, total int64)) (serving.Files, error) {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	sum := sha256.Sum256([]byte(pin.Ref + "\n" + pin.Location))
	key := hex.EncodeToString(sum[:16])
	leave, err := l.enter(ctx, key)
	if err != nil {
		return serving.Files{}, err
	}
	defer leave()

	if files := (serving.Files{Dir: l.dir(pin.Digest), Digest: pin.Digest}); pin.Digest != "" && l.Check(ctx, files) == nil {
		return files, nil
	}
	seen, err := l.seen(ctx, pin)
	if err != nil {
		return serving.Files{}, err
	}
	if seen != nil {
		files := serving.Files{Dir: l.dir(seen.Digest()), Digest: seen.Digest()}
		if l.Check(ctx, files) == nil {
			if err := l.compareListing(ctx, pin, seen); err != nil {
				return serving.Files{}, err
			}
			progress(seen.Bytes(), seen.Bytes())
			return files, nil
		}
	}
	return l.download(ctx, pin, key, seen, progress)
}

func (l *Library) dir(digest string) string { return filepath.Join(l.Dir, "models", digest) }

// seen is the manifest pinned under pin; nil when it is new. A version that
// another registry keeps elsewhere is new; a registry that has merely moved
// still says where the bytes are.
func (l *Library) seen(ctx context.Context, pin Pin) (Manifest, error) {
	value, err := l.Pins.Get(ctx, "manifest/"+pin.Ref)
	if errors.Is(err, serving.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what was seen of %s: %w", pin.Ref, err)
	}
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("what was seen of %s: %w", pin.Ref, err)
	}
	if r.Registry != l.Registry && r.Location != pin.Location {
		return nil, nil
	}
	m, err := parseManifest([]byte(r.Manifest))
	if err == nil && m.Digest() != r.Digest {
		err = errors.New("it is damaged")
	}
	if err != nil {
		return nil, fmt.Errorf("what was seen of %s: %w", pin.Ref, err)
	}
	return m, nil
}

// compareListing looks, as far as the source answers at once, whether names
// and sizes are still what they were. That it does not answer is no matter:
// the bytes are here. Pins of mutable places are left out: their names hold a
// digest, so other bytes get another pin.
func (l *Library) compareListing(ctx context.Context, pin Pin, seen Manifest) error {
	if ref, err := Parse(pin.Ref); err != nil || ref.Scheme != Models && ref.Scheme != Runs && ref.Scheme != Artifacts {
		return nil
	}
	source, err := l.located(pin)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	files, err := source.Files(asking, pin)
	if err != nil {
		return ctx.Err()
	}
	var now Manifest
	for _, f := range files {
		now = append(now, Summed{File: f})
	}
	if file, how := differ(seen, now); file != "" {
		return changed(pin, file, how)
	}
	return nil
}

func changed(pin Pin, file, how string) error {
	return &serving.Error{Op: "fetch model", Subject: pin.Ref, Kind: serving.Conflict,
		Err: fmt.Errorf("file %q is not what it was when this version was first seen: %s", file, how),
		Fix: "A version never changes. Register the new bytes as a new version, or restore the old ones."}
}

// enter waits until nobody else, in this process or another, fetches key.
func (l *Library) enter(ctx context.Context, key string) (leave func(), err error) {
	for {
		l.mu.Lock()
		if l.under == nil {
			l.under = map[string]chan struct{}{}
		}
		other, busy := l.under[key]
		if !busy {
			l.under[key] = make(chan struct{})
		}
		l.mu.Unlock()
		if !busy {
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	out := func() {
		l.mu.Lock()
		close(l.under[key])
		delete(l.under, key)
		l.mu.Unlock()
	}
	unlock, err := lockFile(ctx, filepath.Join(l.Dir, "tmp"), key+".lock")
	if err != nil {
		out()
		return nil, err
	}
	return func() { unlock(); out() }, nil
}

// keep turns the finished folder into the one named by its digest.
func (l *Library) keep(ctx context.Context, pin Pin, from string, m Manifest) (serving.Files, error) {
	files := serving.Files{Dir: l.dir(m.Digest()), Digest: m.Digest()}
	if err := os.MkdirAll(filepath.Dir(files.Dir), 0o700); err != nil {
		return serving.Files{}, err
	}
	if err := seal(from); err != nil {
		return serving.Files{}, err
	}
	if l.Check(ctx, files) != nil {
		// Not there, or damaged: what we have is known to be whole.
		if err := remove(files.Dir); err != nil {
			return serving.Files{}, err
		}
		if err := writeFile(files.Dir+".manifest", m.Text()); err != nil {
			return serving.Files{}, err
		}
		if err := os.Rename(from, files.Dir); err != nil {
			return serving.Files{}, err
		}
		if err := os.Chmod(files.Dir, 0o500); err != nil { // only now: a read-only folder cannot be moved
			return serving.Files{}, err
		}
	}
	value, err := json.Marshal(record{Digest: m.Digest(), Manifest: string(m.Text()), Seen: time.Now().UTC(), Registry: l.Registry, Location: pin.Location})
	if err != nil {
		return serving.Files{}, err
	}
	if err := l.Pins.Put(ctx, "manifest/"+pin.Ref, value); err != nil {
		return serving.Files{}, fmt.Errorf("pin %s: %w", pin.Ref, err)
	}
	return files, nil
}

// Read returns a file of pin from its source, at most limit bytes of it. It is
// for a look before the whole is fetched; nothing is pinned by it.
func (l *Library) Read(ctx context.Context, pin Pin, path string, limit int64) ([]byte, error) {
	if why := checkName(path); why != "" {
		return nil, badFile(path, "%s", why)
	}
	source, err := l.located(pin)
	if err != nil {
		return nil, err
	}
	r, err := source.Open(ctx, pin, path, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b strings.Builder
	if _, err := copyAtMost(&b, r, limit); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return []byte(b.String()), nil
}

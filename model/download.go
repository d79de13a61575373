package model

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"loadline.dev/loadline/serving"
)

const tries = 4

// A download is one model on its way into the store.
type download struct {
	library *Library
	source  Source
	pin     Pin
	files   []File
	root    *os.Root // where the files grow
	journal *journal
	piece   int64

	wholes []sync.Once // by file: read whole because its source cannot begin in the middle
	failed []error     // by file: how reading it whole went

	mu       sync.Mutex
	done     int64
	total    int64
	progress func(done, total int64)
}

// download fetches pin's files and keeps them. Seen is what they must be; nil
// when they are new.
func (l *Library) download(ctx context.Context, pin Pin, key string, seen Manifest, progress func(done, total int64)) (serving.Files, error) {
	source, err := l.located(pin)
	if err != nil {
		return serving.Files{}, err
	}
	files, err := l.list(ctx, source, pin)
	if err != nil {
		return serving.Files{}, err
	}
	dir := filepath.Join(l.Dir, "tmp", "fetch-"+key)
	d, err := l.start(source, pin, files, dir)
	if err != nil {
		return serving.Files{}, err
	}
	d.progress = progress
	defer d.close()
	if err := d.run(ctx, l.streams()); err != nil {
		return serving.Files{}, err
	}
	m, err := d.manifest(ctx)
	if err != nil {
		return serving.Files{}, err
	}
	if pin.Digest != "" && pin.Digest != m.Digest() {
		return serving.Files{}, errors.Join(&serving.Error{Op: "fetch model", Subject: pin.Location, Kind: serving.Conflict,
			Err: errors.New("the folder changed while it was copied"), Fix: "Try again when it is left alone."}, remove(dir))
	}
	if seen != nil {
		if file, how := differ(seen, m); file != "" {
			return serving.Files{}, errors.Join(changed(pin, file, how), remove(dir))
		}
	}
	kept, err := l.keep(ctx, pin, filepath.Join(dir, "files"), m)
	if err != nil {
		return serving.Files{}, err
	}
	return kept, remove(dir)
}

func (l *Library) list(ctx context.Context, source Source, pin Pin) ([]File, error) {
	files, err := source.Files(ctx, pin)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) }) // a later try must see the same order
	if len(files) == 0 {
		return nil, &serving.Error{Op: "fetch model", Subject: pin.Ref, Kind: serving.NotFound,
			Err: fmt.Errorf("there are no files at %s", pin.Location), Fix: "Look whether its artifacts were deleted, and log the model again."}
	}
	maxFiles, maxBytes := l.MaxFiles, l.MaxBytes
	if maxFiles == 0 {
		maxFiles = MaxFiles
	}
	if maxBytes == 0 {
		maxBytes = MaxBytes
	}
	if err := CheckFiles(files, maxFiles, maxBytes); err != nil {
		return nil, fmt.Errorf("fetch model: %s: %w", pin.Ref, err)
	}
	return files, nil
}

func (l *Library) streams() int {
	if l.Streams > 0 {
		return l.Streams
	}
	return 6
}

// start opens the folder where the files grow, and takes up what is there
// from an earlier try of the same listing.
func (l *Library) start(source Source, pin Pin, files []File, dir string) (*download, error) {
	d := &download{library: l, source: source, pin: pin, files: files, piece: l.Piece,
		wholes: make([]sync.Once, len(files)), failed: make([]error, len(files))}
	if d.piece <= 0 {
		d.piece = 8 << 20
	}
	for _, f := range files {
		d.total += f.Size
	}
	var err error
	name := filepath.Join(dir, "journal")
	if d.journal, err = openJournal(name, listing(files, d.piece)); errors.Is(err, errOtherListing) {
		if err := remove(dir); err != nil {
			return nil, err
		}
		d.journal, err = openJournal(name, listing(files, d.piece))
	}
	if err != nil {
		return nil, err
	}
	grow := filepath.Join(dir, "files")
	if err := os.MkdirAll(grow, 0o700); err != nil {
		d.journal.close()
		return nil, err
	}
	if d.root, err = os.OpenRoot(grow); err != nil {
		d.journal.close()
		return nil, err
	}
	return d, nil
}

func (d *download) close() {
	d.journal.close()
	_ = d.root.Close()
}

// run brings every piece of every file.
func (d *download) run(ctx context.Context, streams int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(streams)
	for i, f := range d.files {
		if err := d.root.MkdirAll(path.Dir(f.Path), 0o700); err != nil {
			return errors.Join(err, g.Wait())
		}
		file, err := d.open(f)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		if err := file.Close(); err != nil {
			return errors.Join(err, g.Wait())
		}
		for n := int64(0); n*d.piece < f.Size && ctx.Err() == nil; n++ {
			g.Go(func() error { return d.bring(ctx, i, n) })
		}
	}
	return g.Wait()
}

func (d *download) open(f File) (*os.File, error) {
	return d.root.OpenFile(f.Path, os.O_CREATE|os.O_RDWR, 0o600)
}

// bring fetches piece n of file i unless it is there already.
func (d *download) bring(ctx context.Context, i int, n int64) error {
	f := d.files[i]
	out, err := d.open(f)
	if err != nil {
		return err
	}
	defer out.Close()
	offset := n * d.piece
	length := min(d.piece, f.Size-offset)
	if want, ok := d.journal.sum(i, n); ok {
		h := sha256.New()
		if k, err := io.Copy(h, io.NewSectionReader(out, offset, length)); err == nil && k == length && hex.EncodeToString(h.Sum(nil)) == want {
			d.advance(length)
			return nil
		}
	}
	ask := length
	if offset == 0 && length == f.Size {
		ask = -1 // the whole file: no source refuses that
	}
	err = d.again(ctx, f, func(ctx context.Context) error {
		return d.stream(ctx, f, offset, ask, func(r io.Reader) error {
			if err := d.put(out, i, n, r); err != nil {
				return err
			}
			return d.ended(f, r, ask)
		})
	})
	if errors.Is(err, ErrWhole) {
		d.wholes[i].Do(func() { d.failed[i] = d.whole(ctx, i) })
		return d.failed[i]
	}
	if err == nil {
		d.advance(length)
	}
	return err
}

// whole reads file i from beginning to end.
func (d *download) whole(ctx context.Context, i int) error {
	f := d.files[i]
	out, err := d.open(f)
	if err != nil {
		return err
	}
	defer out.Close()
	err = d.again(ctx, f, func(ctx context.Context) error {
		return d.stream(ctx, f, 0, -1, func(r io.Reader) error {
			for n := int64(0); n*d.piece < f.Size; n++ {
				if err := d.put(out, i, n, r); err != nil {
					return err
				}
			}
			return d.ended(f, r, -1)
		})
	})
	if err == nil {
		d.advance(f.Size)
	}
	return err
}

// put writes piece n from r, and notes it down.
func (d *download) put(out *os.File, i int, n int64, r io.Reader) error {
	f := d.files[i]
	offset := n * d.piece
	length := min(d.piece, f.Size-offset)
	h := sha256.New()
	k, err := io.Copy(io.MultiWriter(io.NewOffsetWriter(out, offset), h), io.LimitReader(r, length))
	if err != nil {
		return err
	}
	if k < length {
		return fmt.Errorf("ended after %d of %d bytes: %w", offset+k, f.Size, io.ErrUnexpectedEOF)
	}
	return d.journal.note(i, n, hex.EncodeToString(h.Sum(nil)))
}

// ended makes sure that a file is not longer than it was said to be.
func (d *download) ended(f File, r io.Reader, ask int64) error {
	if ask >= 0 {
		return nil
	}
	if k, _ := io.ReadFull(r, make([]byte, 1)); k > 0 {
		return badFile(f.Path, "it is longer than the %d bytes that were announced", f.Size)
	}
	return nil
}

// again repeats what a network may do better the next time.
func (d *download) again(ctx context.Context, f File, do func(context.Context) error) error {
	wait := 200 * time.Millisecond
	for try := 1; ; try++ {
		err := do(ctx)
		if err == nil || errors.Is(err, ErrWhole) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if k := serving.KindOf(err); try == tries || k != serving.Internal && k != serving.Unavailable {
			return fmt.Errorf("fetch model: %s: file %q: %w", d.pin.Ref, f.Path, err)
		}
		select {
		case <-time.After(wait):
			wait *= 3
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stream opens a part of f and hands it to read. A source that brings nothing
// for a while is given up.
func (d *download) stream(ctx context.Context, f File, offset, length int64, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := d.library.Patience
	if stall <= 0 {
		stall = 30 * time.Second
	}
	idle := time.AfterFunc(stall, func() { cancel(fmt.Errorf("no byte in %v", stall)) })
	defer idle.Stop()
	r, err := d.source.Open(ctx, d.pin, f.Path, offset, length)
	if err == nil {
		defer r.Close()
		err = read(lively{r, idle, stall})
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return &serving.Error{Kind: serving.Unavailable, Err: cause}
	}
	return err
}

// A lively reader puts off its timer with every byte.
type lively struct {
	r     io.Reader
	idle  *time.Timer
	stall time.Duration
}

func (l lively) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		l.idle.Reset(l.stall)
	}
	return n, err
}

func (d *download) advance(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = min(d.done+n, d.total)
	d.progress(d.done, d.total)
}

// manifest hashes what was brought, as it lies on disk.
func (d *download) manifest(ctx context.Context) (Manifest, error) {
	out := make([]Summed, len(d.files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, f := range d.files {
		g.Go(func() error {
			sum, err := sumFile(ctx, d.root, f.Path)
			out[i] = Summed{f, sum}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return NewManifest(out), nil
}

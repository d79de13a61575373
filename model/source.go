package model

import (
	"context"
	"errors"
	"io"
)

// A Pin is what a name meant when it was resolved.
type Pin struct {
	// Ref is the immutable name: "models:/fraud/3", "models:/m-…", or for
	// places where bytes may change in place, a name that holds a digest.
	Ref string

	Name    string // registered name; may be empty
	Version string // may be empty

	// Location is where the bytes lie, as a MODEL that a source can open:
	// "mlflow-artifacts:/1/models/m-…/artifacts", "s3://…", a folder.
	Location string

	// Digest is the manifest's digest where resolving already had to read every
	// byte (a folder); otherwise empty.
	Digest string
}

// A File is one file of a model.
type File struct {
	Path string // relative, with forward slashes
	Size int64
}

// A Source is one family of places where models lie. Resolve is asked of the
// source of the ref's scheme; Files and Open of that of the pin's location.
type Source interface {
	// Resolve finds out what ref means now. [serving.NotFound] says it means
	// nothing; [serving.Unavailable] that the place does not answer.
	Resolve(ctx context.Context, ref Ref) (Pin, error)

	// Files lists the pin's files in any order.
	Files(ctx context.Context, pin Pin) ([]File, error)

	// Open reads length bytes of a file from offset, or all that follow when
	// length is negative. A source that cannot begin in the middle returns
	// [ErrWhole] for anything but the whole file.
	Open(ctx context.Context, pin Pin, path string, offset, length int64) (io.ReadCloser, error)
}

// ErrWhole says that a file can be read only from its beginning to its end.
var ErrWhole = errors.New("the file can only be read whole")

// A Drawer keeps small values by key. Keys are any text.
type Drawer interface {
	Get(ctx context.Context, key string) ([]byte, error) // serving.NotFound when absent
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	Keys(ctx context.Context, prefix string) ([]string, error)
}

// Package agent sits beside one engine process: it starts it, proves it, keeps
// it alive, grants places at it, carries requests to it and says how it does.
//
// It is one process per replica and answers on a [link.Server] in the
// replica's folder. It does not know how an engine is spoken to (see [Engine]),
// which endpoint the replica belongs to, or how many replicas there are.
package agent

import (
	"context"
	"fmt"
	"io"
	"time"

	"loadline.dev/loadline/link"
)

// An Engine is one engine process, from its start to its end. It is used for
// one process only; after a crash the agent makes another.
type Engine interface {
	// Start starts the process and returns once the model is loaded, or with
	// the decisive reason why it is not. It returns soon after ctx ends.
	Start(ctx context.Context) error

	// Do carries one request. It is called from many goroutines at once, at
	// most the load line, and returns when the engine no longer works on the
	// request, so that its place is free.
	//
	// When ctx ends, what the engine has not begun is dropped and Do returns
	// ctx's error; what it works on, Do waits for (the agent answers the caller
	// at the deadline and kills an engine that does not come back).
	//
	// What ctx, r and w were may carry another request once Do has returned, so
	// nobody may hold on to them; only r's Body may be read on, and then fails.
	//
	// An error for which errors.Is(err, [link.ErrNotTaken]) holds says that the
	// engine has seen no byte of the request. Any other error means that there
	// is no whole answer; if no head was written the caller gets a 502.
	Do(ctx context.Context, r *Request, w Answerer) error

	// Done is closed when the process has ended, however it ended.
	Done() <-chan struct{}

	// Stop asks the process to end, kills it (with its process group) after
	// grace, and returns when it has ended. It may be called more than once
	// and before Start; grace zero kills at once.
	Stop(grace time.Duration)

	// PID is the process's, or 0 while there is none.
	PID() int
}

// A Reasoner is an [Engine] that can say why its process ended in words of its
// own (a failure frame, say), better than the last lines of its log.
type Reasoner interface {
	// Reason is the decisive line, or "" when there is none.
	Reason() string
}

// A Counter is an [Engine] that tells how requests crossed to it.
type Counter interface {
	// Crossed is how many requests crossed as columns and how many as raw bytes.
	Crossed() (columns, raw uint64)
}

// A Gatherer is an [Engine] that lets requests that wait for it go together. The
// more of them are inside, the less each costs.
type Gatherer interface {
	// Gathers is how many requests may go together; below 2, all go alone.
	Gathers() int

	// Calls counts calls of the model as [link.Counters] does.
	Calls() [len(link.CallSizes)]uint64
}

// A Prober is an [Engine] that can be asked whether it still answers. One that
// lets go of a request at its deadline would otherwise never be seen to hang.
type Prober interface {
	// Healthy asks once, and gives up by itself after some seconds.
	Healthy(ctx context.Context) error
}

// A Request is one request on its way into an engine.
type Request struct {
	Method          string
	Path            string // with its query
	ContentType     string
	ContentEncoding string

	// Header is every field that came, without hop-by-hop ones; the two above
	// are among them.
	Header []link.Field

	// Body is never nil. Size is its length in bytes, -1 when unknown.
	Body io.Reader
	Size int64
}

// Field returns the value of the first header field of that name, or "".
func (r *Request) Field(name string) string {
	for _, f := range r.Header {
		if len(f.Name) == len(name) && equalFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// equalFold compares ASCII letters without case; field names have no others.
func equalFold(a, b string) bool {
	for i := range len(a) {
		x, y := a[i]|0x20, b[i]|0x20
		if x != y || a[i] != b[i] && (x < 'a' || x > 'z') {
			return false
		}
	}
	return true
}

// An Answerer takes the answer to one request: the head once, then the body.
// What is written may wait until Flush or the return of Do, so a streaming
// engine flushes after each event. An error means that nobody listens any more.
type Answerer interface {
	// Head starts the answer. Size is the body's length, -1 when unknown. header
	// is not looked at again after it has returned.
	// Hop-by-hop fields and Content-Length are not to be among header.
	Head(status int, header []link.Field, size int64) error
	Write(p []byte) (int, error)
	Flush() error
}

// ErrEngineGone is for an [Engine] to return from Do when its process ended
// before one byte of the request reached it.
var ErrEngineGone = fmt.Errorf("the engine is gone: %w", link.ErrNotTaken)

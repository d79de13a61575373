// Package link is the wire between a gateway and an agent: many requests,
// framed, on a few long-lived connections, so that they share their writes.
//
// The agent grants places, a gateway spends one with each request it opens, and
// nobody guesses: the sum of places granted and requests in flight never
// exceeds the agent's load line. Every stream has a window in both directions,
// so that one slow reader fills no memory. Any [net.Conn] will do.
//
// It decides nothing about requests. It does not know what they mean, which
// replica they should go to, or whether they may be sent again; it only says
// with certainty when a request was not taken.
package link

import (
	"errors"
	"fmt"
	"time"

	"loadline.dev/loadline/serving"
)

// A Field is one header field. Names keep the letters they came with.
type Field struct{ Name, Value string }

// A Request is the head of a request.
type Request struct {
	Method string
	Path   string // with its query
	Header []Field

	// Timeout is how long the answer may take from here on. A duration, not a
	// time: clocks of two machines differ. Zero is no deadline.
	Timeout time.Duration

	Size int64 // of the body in bytes; -1 when unknown
}

// An Answer is the head of an answer.
type Answer struct {
	Status int
	Header []Field
	Size   int64 // of the body in bytes; -1 when unknown
}

// A Load is what an agent says of itself, with each answer and once a second
// when idle.
type Load struct {
	Sequence uint64 // counts up; the same report over two connections bears the same number
	InFlight int    // requests that hold a place, over all connections
	Waiting  int    // of those, how many have not yet reached the engine
	Line     int    // the load line; zero while the agent takes nothing
	Service  time.Duration
	State    serving.State
	Counters
	Pressure
}

// Pressure is what an engine has felt of its machine lately, in thousandths.
// Zero is none, or not known.
type Pressure struct {
	CPU       uint64 // of all processors
	Memory    uint64 // of what it may have
	IOWait    uint64 // of the time, waiting for disks
	Throttled uint64 // of the time, waiting for its share of processor time
}

// Counters count since the agent started. They only grow.
type Counters struct {
	Answered  uint64 // requests that the engine answered, whatever the status
	NotTaken  uint64 // requests given back untouched
	Broken    uint64 // requests that the engine took and did not answer
	TimedOut  uint64 // requests past their deadline
	Cancelled uint64 // requests whose client left
	Columns   uint64 // requests that crossed to the engine as columns
	Raw       uint64 // requests that crossed as the bytes that came
	Restarts  uint64 // of the engine

	// Beside adds up, over the answered requests, how many were inside when each
	// entered, itself included; Inside adds up the nanoseconds that they were.
	Beside uint64
	Inside uint64

	// Calls counts calls of the model by how many requests were in one: each
	// element has those with at most as many as [CallSizes] says. Only engines
	// that let requests share a call count them.
	Calls [len(CallSizes)]uint64
}

// CallSizes are the bounds of [Counters.Calls].
var CallSizes = [...]int{1, 2, 4, 8, 16, 32, 64}

// Hooks tell the gateway what a connection learns. They are called one at a
// time from the connection's reader and must not block. A nil hook is skipped.
type Hooks struct {
	// Granted says that the places on this connection changed by delta, other
	// than by Open: more were granted, or unused ones went back to the agent.
	// The deltas' sum less the opened requests is what [Conn.Places] says; a
	// drain or the end of the connection takes all places away by it.
	Granted func(delta int)

	// Load is called with each report of the agent.
	Load func(Load)

	// Draining says that the agent takes nothing new; what it has, it finishes.
	Draining func()

	// Relay says that the other side is a gateway too, which says by [Incoming.Given]
	// when it sends a request on. Until then nobody has taken it.
	Relay bool

	// Closed is the last call. All streams have ended by then.
	Closed func(error)
}

// ErrNotTaken says that the engine has not seen one byte of the request: it may
// be sent elsewhere.
var ErrNotTaken = errors.New("not taken")

// ErrNoPlace is what Open returns while no place is held. It is an [ErrNotTaken].
var ErrNoPlace = fmt.Errorf("no place on this replica: %w", ErrNotTaken)

// ErrCancelled is what a stream returns after its own Cancel.
var ErrCancelled = errors.New("cancelled")

// ErrAnswered is what Write returns once the whole answer came although the
// body had not all been sent; the rest of it is not wanted.
var ErrAnswered = errors.New("answered before the body was read")

// A BrokenError says that an answer cannot come, or not the rest of it.
type BrokenError struct {
	// Taken says that the engine may have seen the request.
	Taken bool
	Why   string
}

func (e *BrokenError) Error() string { return e.Why }

// Is makes a broken request that nobody took an [ErrNotTaken].
func (e *BrokenError) Is(target error) bool { return target == ErrNotTaken && !e.Taken }

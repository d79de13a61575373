package serving

import (
	"errors"
	"strings"
)

// A Kind says what the caller can do about an error. It is itself an error so
// that a check reads as a sentence: errors.Is(err, serving.NotFound).
type Kind uint8

const (
	Internal    Kind = iota // a bug or a broken dependency; nothing the caller can do
	Invalid                 // the request can never succeed as written
	NotFound                // no such endpoint, revision, version or model
	Exists                  // the name is taken
	Conflict                // something else is under way, or the record has moved on
	Denied                  // the caller may not do this
	Busy                    // no room now; the same request may succeed later
	Unavailable             // something we depend on does not answer; trying later may help
	TimedOut                // the deadline passed
)

var kindText = [...]string{"internal error", "invalid", "not found", "already exists", "conflict",
	"denied", "busy", "unavailable", "timed out"}

func (k Kind) Error() string { return kindText[k] }

// An Error is a failure with enough context to act on. Its text reads as one
// sentence, outermost action first: "fetch model: iris: not found: EOF".
type Error struct {
	Op      string // what was being attempted: "fetch model"; may be empty
	Subject string // the endpoint, model, file or column concerned; may be empty
	Kind    Kind
	Err     error // the cause; may be nil

	// Fix is the command or change that helps, in the imperative; may be empty.
	// It is not part of Error's text: the surfaces print it on a line of its own.
	Fix string
}

func (e *Error) Error() string {
	var parts []string
	for _, p := range []string{e.Op, e.Subject} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	// The kind is said only where nothing says it better.
	if e.Err == nil || e.Kind == NotFound || e.Kind == Exists {
		parts = append(parts, e.Kind.Error())
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes a Kind usable as the target of [errors.Is].
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// KindOf reports the kind of err, or Internal if it carries none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// FixOf returns the advice that the outermost [Error] with one carries, or "".
func FixOf(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Fix != "" {
			return e.Fix
		}
		err = e.Err
	}
	return ""
}

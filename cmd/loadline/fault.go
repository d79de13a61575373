package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/serving"
)

// Exit codes, as CLI.md promises them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitConflict    = 5
	exitTimedOut    = 6
	exitInterrupted = 130
)

// A fault is an error with all that a person needs: what failed, why, where to
// look, what to do.
type fault struct {
	exit  int
	what  string
	why   string
	where string
	lines []string // the last words of a log
	fix   string
}

func (f *fault) Error() string {
	if f.why == "" {
		return f.what
	}
	return f.what + ": " + f.why
}

func usage(format string, args ...any) error {
	return &fault{exit: exitUsage, what: fmt.Sprintf(format, args...)}
}

// exits is the one table from kinds to exit codes.
var exits = map[serving.Kind]int{
	serving.NotFound: exitNotFound, serving.Denied: exitDenied, serving.Conflict: exitConflict,
	serving.Exists: exitConflict, serving.TimedOut: exitTimedOut,
}

// conclude tells what went wrong and returns the exit code.
func (s *shell) conclude(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	f, ok := errors.AsType[*fault](err)
	if !ok {
		f = &fault{exit: exitFailed, what: err.Error(), fix: serving.FixOf(err)}
		if code, known := exits[serving.KindOf(err)]; known {
			f.exit = code
		}
		if errors.Is(err, context.DeadlineExceeded) {
			f.exit = exitTimedOut
		}
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || f.exit == exitFailed) {
		return exitInterrupted
	}
	if f.what == "" {
		return f.exit
	}
	name := "loadline"
	if cmd != nil {
		name = cmd.CommandPath()
	}
	fmt.Fprintf(s.err, "%s: %s\n", name, clean(f.what))
	if f.exit == exitUsage && f.fix == "" {
		f.fix = name + " --help"
	}
	for _, part := range []struct{ name, text string }{{"why", f.why}, {"where", f.where}} {
		if part.text != "" {
			fmt.Fprintf(s.err, "  %-6s %s\n", part.name, clean(part.text))
		}
	}
	for _, line := range f.lines {
		fmt.Fprintf(s.err, "  | %s\n", clean(line))
	}
	if f.fix != "" {
		fmt.Fprintf(s.err, "  %-6s %s\n", "fix", clean(f.fix))
	}
	return f.exit
}

// clean keeps what others wrote from steering the reader's terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, text)
}

package agent

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Bounds on what an engine's output may cost.
const (
	maxLine = 16 << 10 // bytes of one line; the rest of it is dropped
	maxFile = 8 << 20  // bytes of one log file; there are two
	maxTail = 200      // lines of stderr remembered for the decisive one
)

// A Log keeps what an engine prints: bounded files, one line each with its
// time and stream, nothing in them that a terminal would obey.
type Log struct {
	secrets *strings.Replacer // nil when there are none

	mu   sync.Mutex
	path string
	file *os.File
	size int64
	tail []string // of stderr, since the engine's start; oldest first
	now  func() time.Time
}

// openLog appends to the file at path, beside which path+".1" holds what came
// before. The values of secret variables do not reach it.
func openLog(path string, vars map[string]string) (*Log, error) {
	l := &Log{path: path, now: time.Now}
	var pairs []string
	for k, v := range vars {
		if len(v) >= 6 && secret(k) {
			pairs = append(pairs, v, "***")
		}
	}
	if len(pairs) > 0 {
		l.secrets = strings.NewReplacer(pairs...)
	}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// secret says whether a variable of that name holds what nobody should read.
func secret(name string) bool {
	name = strings.ToUpper(name)
	for _, word := range []string{"TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	at, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, at.Size()
	return nil
}

func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// Stream returns a writer for one of the engine's streams, "out" or "err".
// Each process gets writers of its own.
func (l *Log) Stream(name string) io.Writer { return &stream{log: l, name: name} }

// note writes a line of the agent's own.
func (l *Log) note(format string, args ...any) {
	l.line("agent", escape([]byte(fmt.Sprintf(format, args...))))
}

// forget starts a new tail, for a new process.
func (l *Log) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = nil
}

func (l *Log) line(name, text string) {
	if l.secrets != nil {
		text = l.secrets.Replace(text)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "err" {
		if l.tail = append(l.tail, text); len(l.tail) > 2*maxTail {
			l.tail = append(l.tail[:0], l.tail[maxTail:]...)
		}
	}
	if l.file == nil {
		return
	}
	full := l.now().UTC().Format("2006-01-02T15:04:05.000Z") + " " + name + " " + text + "\n"
	if l.size+int64(len(full)) > maxFile {
		l.turnLocked()
	}
	if l.file == nil {
		return
	}
	// A full disk must not stop the engine: what cannot be kept is lost.
	n, _ := l.file.WriteString(full)
	l.size += int64(n)
}

// turnLocked starts a new file; the one before the last is lost.
func (l *Log) turnLocked() {
	l.file.Close()
	l.file = nil
	if os.Rename(l.path, l.path+".1") != nil {
		_ = os.Remove(l.path) // bounded comes before complete
	}
	_ = l.open()
}

// decisive is the line of stderr that says why a Python process ended: the one
// that a traceback ends with, else the last that is not blank.
func (l *Log) decisive() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, traced, inside := "", "", false
	for _, line := range l.tail {
		switch {
		case strings.TrimSpace(line) == "":
			continue
		case strings.HasPrefix(line, "Traceback (most recent call last)"):
			inside = true
		case inside && !strings.HasPrefix(line, " "):
			traced, inside = line, false
		}
		last = line
	}
	if traced != "" {
		last = traced
	}
	return clip(last, 500)
}

// clip shortens s to n bytes or a little less, at a letter's edge.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// A stream cuts what one process writes into lines.
type stream struct {
	log  *Log
	name string

	mu      sync.Mutex
	partial []byte
	dropped int // bytes of the current line beyond maxLine
}

// Write never fails: an engine must not end because nobody could keep its words.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			s.take(rest)
			break
		}
		s.take(rest[:i])
		rest = rest[i+1:]
		s.emit()
	}
	return len(p), nil
}

func (s *stream) take(p []byte) {
	keep := min(len(p), maxLine-len(s.partial))
	s.partial = append(s.partial, p[:keep]...)
	s.dropped += len(p) - keep
}

func (s *stream) emit() {
	text := escape(bytes.TrimSuffix(s.partial, []byte("\r")))
	if s.dropped > 0 {
		text += fmt.Sprintf("… (%d more bytes)", s.dropped)
	}
	s.partial, s.dropped = s.partial[:0], 0
	s.log.line(s.name, text)
}

// flush writes a last line that has no end.
func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.partial) > 0 {
		s.emit()
	}
}

// escape writes control characters and bytes that are not UTF-8 as \x1b.
func escape(p []byte) string {
	plain := true
	for _, c := range p {
		if c < 0x20 && c != '\t' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return string(p)
	}
	var b strings.Builder
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		switch {
		case r == utf8.RuneError && n == 1, r < 0x20 && r != '\t', r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, p[0])
		case r >= 0x80 && r < 0xa0, r == '\u2028', r == '\u2029', r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069':
			fmt.Fprintf(&b, `\u%04x`, r) // C1 controls, line separators, text direction
		default:
			b.Write(p[:n])
		}
		p = p[n:]
	}
	return b.String()
}

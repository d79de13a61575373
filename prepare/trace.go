package prepare

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// A trace remembers the last that an engine wrote to its standard error: where
// the engine's end gives no reason, its last words may.
type trace struct {
	mu   sync.Mutex
	cmd  *exec.Cmd
	tail []byte
}

const maxTrace = 16 << 10

// follow has cmd's standard error pass through here, on its way to ours.
func (t *trace) follow(cmd *exec.Cmd) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cmd, t.tail = cmd, nil
	cmd.Stderr = io.MultiWriter(os.Stderr, t)
	cmd.WaitDelay = time.Second // whoever it forked may hold the pipe
}

// Write implements io.Writer.
func (t *trace) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tail = append(t.tail, p...)
	if over := len(t.tail) - maxTrace; over > 0 {
		t.tail = append(t.tail[:0], t.tail[over:]...)
	}
	return len(p), nil
}

// explain adds the last words to an error that says no more than that the
// process has ended. It is asked after that.
func (t *trace) explain(err error) string {
	why := err.Error()
	t.mu.Lock()
	ended := ""
	if t.cmd != nil && t.cmd.ProcessState != nil {
		ended = t.cmd.ProcessState.String()
	}
	t.mu.Unlock()
	bare := ended != "" && strings.HasSuffix(why, ended)
	if strings.Contains(why, "ended before") && ended != "" {
		why, bare = why+" ("+ended+")", true
	}
	if words := t.last(); bare && words != "" {
		why += ": " + words
	}
	return why
}

// late is what is known of an engine whose time was up.
func (t *trace) late(err error) string {
	words := t.last()
	if _, detail, is := strings.Cut(err.Error(), "health: "); is && detail != "context deadline exceeded" {
		return ": " + detail
	}
	if words == "" {
		return ""
	}
	return "; its last words: " + words
}

// last is the line that a traceback ends with, else the last one that is not blank.
func (t *trace) last() string {
	t.mu.Lock()
	lines := bytes.Split(t.tail, []byte("\n"))
	t.mu.Unlock()
	last, traced, inside := "", "", false
	for _, line := range lines {
		text := strings.ToValidUTF8(string(line), "\uFFFD")
		switch {
		case strings.TrimSpace(text) == "":
			continue
		case strings.HasPrefix(text, "Traceback (most recent call last)"):
			inside = true
		case inside && !strings.HasPrefix(text, " "):
			traced, inside = text, false
		}
		last = text
	}
	if traced != "" {
		last = traced
	}
	const most = 500
	if len(last) > most {
		last = strings.ToValidUTF8(last[:most], "") + "…"
	}
	return last
}

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLogHoldsNothingThatATerminalObeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "engine.log")
	l, err := openLog(path, map[string]string{"API_TOKEN": "hunter22", "MODE": "plain words"})
	if err != nil {
		t.Fatal(err)
	}
	l.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC) }
	out, errs := l.Stream("out").(*stream), l.Stream("err").(*stream)
	for _, piece := range []string{"a\x1b[31mred", "\xff\n", "tab\there, ünï\r\n", "token hunter22, plain words\n", "\u202egnp.exe\u0085\n"} {
		out.Write([]byte(piece))
	}
	for range 100 {
		errs.Write([]byte(strings.Repeat("x", 1000)))
	}
	errs.flush()
	l.note("killed: %s", "why\n2026 forged")
	l.close()
	errs.Write([]byte("after the end\n"))
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := "2026-01-02T03:04:05.006Z "
	want := at + `out a\x1b[31mred\xff` + "\n" +
		at + "out tab\there, ünï\n" +
		at + "out token ***, plain words\n" +
		at + `out \u202egnp.exe\u0085` + "\n" +
		at + "err " + strings.Repeat("x", maxLine) + "… (83616 more bytes)\n" +
		at + `agent killed: why\x0a2026 forged` + "\n"
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDecisiveLineIsWhatTheTracebackEndsWith(t *testing.T) {
	for sentence, c := range map[string]struct{ text, want string }{
		"nothing was said":       {"", ""},
		"no traceback":           {"one\ntwo\n\n  \n", "two"},
		"words after the trace":  {"Traceback (most recent call last):\n  File \"a\"\n    x\nValueError: no\nbye\n", "ValueError: no"},
		"the last of two chains": {"Traceback (most recent call last):\n  a\nKeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  b\nRuntimeError: 2\n", "RuntimeError: 2"},
		"a trace cut short":      {"hello\nTraceback (most recent call last):\n  File \"a\"\n", `  File "a"`},
	} {
		l := &Log{now: time.Now}
		s := l.Stream("err").(*stream)
		s.Write([]byte(c.text))
		if got := l.decisive(); got != c.want {
			t.Errorf("%s: got %q, want %q", sentence, got, c.want)
		}
	}
}

func TestBackoffGrowsToHalfAMinute(t *testing.T) {
	want := []time.Duration{0, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
		4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second}
	for n, d := range want {
		if got := backoff(n); got != d {
			t.Errorf("after %d failures %v, want %v", n, got, d)
		}
	}
	if got := backoff(1000); got != 30*time.Second {
		t.Errorf("after 1000 failures %v", got)
	}
}

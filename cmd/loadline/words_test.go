package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/rest"
	"loadline.dev/loadline/serving"
)

func TestQuotedTextIsOneWordForAShell(t *testing.T) {
	for _, text := range []string{"", "plain", "it's", `'"$HOME" \ $(id) !x`, "two\nlines"} {
		out, err := exec.Command("/bin/sh", "-c", "printf %s "+quote(text)).Output()
		if err != nil || string(out) != text {
			t.Errorf("%q came through as %q, %v", text, out, err)
		}
	}
}

func TestOthersTextCannotSteerTheTerminal(t *testing.T) {
	if got, want := clean("a\x1b[2Jb\u009bc\rd\x00e\tf\nü"), "a[2Jbcde\tf\nü"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestErrorsTellWhatWhyWhereAndFix(t *testing.T) {
	var talk bytes.Buffer
	s := &shell{err: &talk}
	root := &cobra.Command{Use: "loadline"}
	for claim, c := range map[string]struct {
		err  error
		code int
		says string
	}{
		"a fault in full": {&fault{exit: 5, what: "w", why: "y", where: "h", lines: []string{"l"}, fix: "f"}, 5,
			"loadline: w\n  why    y\n  where  h\n  | l\n  fix    f\n"},
		"usage points to help": {usage("no %s", "x"), 2, "loadline: no x\n  fix    loadline --help\n"},
		"a kind has its code":  {&serving.Error{Op: "get", Kind: serving.NotFound, Fix: "f"}, 3, "loadline: get: not found\n  fix    f\n"},
		"anything else failed": {errors.New("e"), 1, "loadline: e\n"},
		"nothing to say":       {&fault{exit: 130}, 130, ""},
	} {
		talk.Reset()
		if code := s.conclude(t.Context(), root, c.err); code != c.code || talk.String() != c.says {
			t.Errorf("%s: got %d %q, want %d %q", claim, code, talk.String(), c.code, c.says)
		}
	}
}

func TestPhasesAreToldOnceAndWithTheirTime(t *testing.T) {
	var talk bytes.Buffer
	p := newProgress(&shell{err: &talk})
	v := rest.View{Entities: []rest.EntityView{{Version: 2, Phases: []rest.PhaseView{
		{Name: "fetch", State: "done", Seconds: 1.25, Note: "7 files"},
		{Name: "lock", State: "cached", Seconds: 0.01},
		{Name: "environment", State: "running", Started: time.Now(), Seconds: 2, Done: 5, Total: 10},
	}}, {Version: 1, Phases: []rest.PhaseView{{Name: "old", State: "done"}}}}}
	p.entities(v, 2)
	p.entities(v, 2)
	v.Entities[0].Phases[2] = rest.PhaseView{Name: "environment", State: "failed", Started: v.Entities[0].Phases[2].Started, Seconds: 61, Note: "no wheel"}
	p.entities(v, 2)
	want := "fetch            1.2 s  7 files\nlock             10 ms (cached)\nenvironment    1 m 1 s  failed: no wheel\n"
	if talk.String() != want {
		t.Errorf("got\n%s\nwant\n%s", talk.String(), want)
	}
}

func TestBarsNeverLeaveTheirFrame(t *testing.T) {
	for _, ph := range []rest.PhaseView{{Done: 0, Total: 9}, {Done: 9, Total: 9}, {Done: 99, Total: 9}, {Done: 1 << 40, Total: 1 << 41}} {
		if b := bar(ph); strings.Index(b, "]") != 25 {
			t.Errorf("%+v draws %s", ph, b)
		}
	}
}

func TestRowsStayOnOneLine(t *testing.T) {
	var w bytes.Buffer
	new(shell).columns(&w, [][]string{{"A", "B"}, {"a\nb\tc", "d"}})
	if want := "A      B\na b c  d\n"; w.String() != want {
		t.Errorf("got %q, want %q", w.String(), want)
	}
}

func TestWhatCannotBeWrittenIsAnError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	s := &shell{out: full}
	if err := s.print(nil, func(w io.Writer) { io.WriteString(w, "x") }); err == nil {
		t.Error("a full disk looks like success")
	}
}

func TestCtrlCEndsAQuestion(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	silent, _ := io.Pipe()
	if _, err := heard(ctx, func() ([]byte, error) { return io.ReadAll(silent) }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestNarrowTerminalsCutLines(t *testing.T) {
	if got := cut("ab – cdef", 6); got != "ab – …" {
		t.Errorf("got %q", got)
	}
	if got := cut("abc", 0); got != "abc" {
		t.Errorf("without a terminal got %q", got)
	}
}

func TestStreamIsAskedForInTheBody(t *testing.T) {
	for body, want := range map[string]string{
		` {"a": 1} `: `{"stream": true,"a": 1}`,
		`{ }`:        `{"stream": true}`,
		`[1]`:        "",
		`{"a"`:       "",
		``:           "",
	} {
		got, err := asStream([]byte(body))
		if string(got) != want || (err != nil) != (want == "") {
			t.Errorf("%q becomes %q, %v", body, got, err)
		}
	}
}

func TestDurationsReadAsPeopleSayThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		12 * time.Millisecond: "12 ms", 2100 * time.Millisecond: "2.1 s", 190 * time.Second: "3 m 10 s",
	} {
		if got := took(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

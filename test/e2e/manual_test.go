package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// A block is one fenced block of a page.
type block struct {
	label string // what stands behind the fence: "sh", "sh run"
	lines []string
}

func blocks(t *testing.T, page string) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", page))
	if err != nil {
		t.Fatal(err)
	}
	var list []block
	var open *block
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		label, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open == nil:
			open = &block{label: label}
		case fence:
			list, open = append(list, *open), nil
		case open != nil:
			open.lines = append(open.lines, line)
		}
	}
	if open != nil {
		t.Fatalf("%s: a block is not closed", page)
	}
	return list
}

var exitsRE = regexp.MustCompile(`\s+# exits (\d+)$`)

// script makes one shell script of what is marked as runnable. Each line must
// succeed, or exit as its comment says.
func script(list []block) string {
	var s strings.Builder
	s.WriteString("set -u\n")
	for _, b := range list {
		if b.label != "sh run" {
			continue
		}
		for _, line := range b.lines {
			want := "0"
			if m := exitsRE.FindStringSubmatch(line); m != nil {
				line, want = strings.TrimSuffix(line, m[0]), m[1]
			}
			fmt.Fprintf(&s, "echo '+' %s\n{ %s\n} </dev/null; rc=$?\n", shellWord(line), line)
			fmt.Fprintf(&s, "[ $rc = %s ] || { echo \"exit code $rc, want %s\"; exit 1; }\n", want, want)
		}
	}
	return s.String()
}

func shellWord(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// The manual is run as it stands: it cannot say what is not so.
func TestManualRuns(t *testing.T) {
	dir, err := os.MkdirTemp("", "ll-") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := strings.TrimSuffix(strings.SplitN(echo, "-c '", 2)[1], "'")
	if err := os.WriteFile(filepath.Join(dir, "echo.py"), []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	env := manualServer(t, dir)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script(blocks(t, "docs/cli.md")))
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, said := range []string{"one /invocations", "two", `"max": 4`, "custom-2"} {
		if !strings.Contains(string(out), said) {
			t.Errorf("it never says %q:\n%s", said, out)
		}
	}
	membersAreDocumented(t, string(out))
}

// manualServer runs `loadline up`, and returns the environment that finds it.
func manualServer(t *testing.T, dir string) []string {
	t.Helper()
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	host, data := fmt.Sprintf("127.0.0.1:%d", port), filepath.Join(dir, "data")
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "LOADLINE_DATA=" + data, "LOADLINE_LISTEN=" + host, "LOADLINE_HOST=http://" + host}
	up := exec.Command(filepath.Join(bin, "loadline"), "up")
	up.Env, up.Dir = env, dir
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = up.Process.Signal(syscall.SIGTERM)
		_ = up.Wait() // whatever the story left
		reap(dir)
	})
	if err := eventually(30*time.Second, func() error { return ask("http://" + host + "/readyz") }); err != nil {
		t.Fatal(err)
	}
	return env
}

// membersAreDocumented holds the page to the members that -o json really has.
func membersAreDocumented(t *testing.T, out string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	start := strings.Index(out, "\n{\n")
	if start < 0 {
		t.Fatalf("no JSON in\n%s", out)
	}
	var v map[string]any
	if err := json.NewDecoder(strings.NewReader(out[start:])).Decode(&v); err != nil {
		t.Fatal(err)
	}
	delete(v["entities"].([]any)[0].(map[string]any), "env") // the user's own names
	var look func(any)
	look = func(v any) {
		switch x := v.(type) {
		case map[string]any:
			for name, below := range x {
				if name != "env" && !strings.Contains(string(page), "`"+name+"`") {
					t.Errorf("docs/cli.md does not tell of the member %q", name)
				}
				if name != "env" {
					look(below)
				}
			}
		case []any:
			for _, below := range x {
				look(below)
			}
		}
	}
	look(v)
}

var flagRE = regexp.MustCompile(`(^|\s)--?[a-z][a-z-]*`)

// What is not run is at least there: every verb and every flag of every command
// that the pages show.
func TestDocumentedCommandsExist(t *testing.T) {
	checked := 0
	for _, page := range []string{"README.md", "docs/cli.md"} {
		for _, b := range blocks(t, page) {
			for _, line := range b.lines {
				line, _, _ = strings.Cut(line, " #")
				words := strings.Fields(strings.TrimPrefix(line, "bin/"))
				if len(words) < 2 || words[0] != "loadline" || words[1] == "deply" || strings.HasPrefix(words[1], "-") {
					continue
				}
				verb := words[1:2]
				if words[1] == "token" {
					verb = words[1:3]
				}
				help, err := exec.Command(filepath.Join(bin, "loadline"), append([]string{"help"}, verb...)...).CombinedOutput()
				if err != nil {
					t.Errorf("%s: %s: %v", page, line, err)
				}
				for _, flag := range flagRE.FindAllString(quotedRE.ReplaceAllString(line, "''"), -1) {
					if flag = strings.TrimSpace(flag); !strings.Contains(string(help), flag) {
						t.Errorf("%s: %s: there is no %s", page, line, flag)
					}
				}
				checked++
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d commands were found; are the pages read?", checked)
	}
}

var quotedRE = regexp.MustCompile(`'[^']*'|"[^"]*"`)

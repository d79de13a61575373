package pyenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/serving"
)

// uvVersion is what is installed where there is no uv.
const uvVersion = "0.13.8"

// uv finds the program: the one given, else on PATH, beside an interpreter or
// where installers put it, else the one that an earlier call installed, else
// it installs one with the pip of an interpreter.
func (b *Builder) uv(ctx context.Context) (string, error) {
	if b.UV != "" {
		if err := works(ctx, b.UV); err != nil {
			return "", &serving.Error{Op: "start uv", Subject: b.UV, Kind: serving.Invalid, Err: err,
				Fix: "set LOADLINE_UV to a uv program, or unset it"}
		}
		return b.UV, nil
	}
	ours := b.path("tools", "uv-"+uvVersion, "bin", "uv")
	for _, path := range append(uvCandidates(), ours) {
		if works(ctx, path) == nil {
			return path, nil
		}
	}
	if err := b.installUV(ctx); err != nil {
		return "", err
	}
	return ours, nil
}

func uvCandidates() []string {
	var dirs []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) && filepath.Base(dir) != "shims" {
			dirs = append(dirs, dir)
		}
	}
	home, _ := os.UserHomeDir()
	for _, root := range []string{os.Getenv("PYENV_ROOT"), under(home, ".pyenv")} {
		dirs = append(dirs, versions(under(root, "versions"))...)
	}
	dirs = append(dirs, under(home, ".local/bin"), under(home, ".cargo/bin"))
	var found []string
	for _, dir := range dirs {
		path := filepath.Join(dir, "uv")
		if info, err := os.Stat(path); dir != "" && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			found = append(found, path)
		}
	}
	return found
}

func works(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err == nil && !bytes.HasPrefix(out, []byte("uv ")) {
		err = fmt.Errorf("it answers %q to --version", shorten(string(bytes.TrimSpace(out)), 60))
	}
	return err
}

func (b *Builder) installUV(ctx context.Context) error {
	if err := os.MkdirAll(b.path("tmp"), 0o700); err != nil {
		return err
	}
	unlock, err := lockFile(ctx, b.path("tmp", "uv.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	final := b.path("tools", "uv-"+uvVersion)
	if works(ctx, filepath.Join(final, "bin", "uv")) == nil {
		return nil
	}
	b.log().Info("installing uv", "version", uvVersion)
	var last error = errors.New("no interpreter was found to install it with")
	for _, python := range Interpreters(ctx) {
		tmp := b.path("tmp", "uv-"+uvVersion)
		os.RemoveAll(tmp)
		cmd := exec.CommandContext(ctx, python.Path, "-m", "pip", "install", "-q", "--disable-pip-version-check",
			"--no-deps", "--only-binary", ":all:", "--target", tmp, "uv=="+uvVersion)
		out, err := cmd.CombinedOutput()
		if err == nil {
			err = works(ctx, filepath.Join(tmp, "bin", "uv"))
		}
		if err == nil {
			os.RemoveAll(final)
			if err = os.MkdirAll(filepath.Dir(final), 0o700); err == nil {
				err = os.Rename(tmp, final)
			}
			return err
		}
		last = fmt.Errorf("%w: %s", err, lastLine(out))
	}
	return &serving.Error{Op: "install uv", Kind: serving.Unavailable, Err: last,
		Fix: "pip install uv, or set LOADLINE_UV to a uv program"}
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return shorten(redact(lines[len(lines)-1]), 300)
}

// A call is one run of uv.
type call struct {
	args     []string
	dir      string
	cache    string // a package cache of its own; empty is the shared one
	confined bool   // it may run outsiders' code
	read     []string
	write    []string
	mute     bool              // only what it says on stderr counts
	watch    func(line string) // sees each line of its talk; may be nil
}

// run runs uv. Its talk goes to log; a failure carries the decisive lines.
func (b *Builder) run(ctx context.Context, c call, log io.Writer) error {
	uv, err := b.uv(ctx)
	if err != nil {
		return err
	}
	vars := append(inherited(), "TMPDIR="+c.dir)
	if c.cache != "" {
		vars = append(vars, "UV_CACHE_DIR="+c.cache)
	}
	cmd, err := b.command(ctx, c, vars, append([]string{uv}, c.args...))
	if err != nil {
		return err
	}
	talk := &talk{log: log, watch: c.watch}
	cmd.Stderr = talk
	if !c.mute {
		cmd.Stdout = talk
	}
	fmt.Fprintf(log, "$ uv %s\n", redact(strings.Join(c.args, " ")))
	err = runToEnd(cmd)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &uvError{why: talk.decisive(), cause: err}
	}
	return nil
}

// command makes the process of a call.
func (b *Builder) command(ctx context.Context, c call, vars, argv []string) (*exec.Cmd, error) {
	if !c.confined || b.Unconfined {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir, cmd.Env, cmd.SysProcAttr = c.dir, vars, new(syscall.SysProcAttr)
		return cmd, nil
	}
	p := sandbox.Policy{Read: append(c.read, argv[0]), Write: append(c.write, c.dir), Network: sandbox.Open, Dir: c.dir, Vars: map[string]string{}}
	for _, kv := range vars {
		name, value, _ := strings.Cut(kv, "=")
		p.Vars[name] = value
	}
	// Where indexes and certificates are settled, but no password file: build
	// scripts have the network.
	config := or(p.Vars["XDG_CONFIG_HOME"], under(p.Vars["HOME"], ".config"))
	for _, path := range []string{under(config, "uv"), p.Vars["UV_CONFIG_FILE"], p.Vars["SSL_CERT_FILE"], p.Vars["SSL_CERT_DIR"]} {
		if filepath.IsAbs(path) {
			p.Read = append(p.Read, path)
		}
	}
	return sandbox.Command(ctx, p, argv...)
}

// runToEnd runs a command that takes all its children with it when it is
// cancelled, and itself when this process dies.
func runToEnd(cmd *exec.Cmd) error {
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	// The death signal is tied to the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// keptRE has those variables of ours that uv sees: where its files, indexes,
// certificates and proxies are, and no secrets of anything else.
var keptRE = regexp.MustCompile(`^(HOME|USER|LOGNAME|NETRC|XDG_(CACHE|CONFIG|DATA)_HOME|SSL_CERT_(FILE|DIR)|SSL_CLIENT_CERT|` +
	`(?i:https?_proxy|all_proxy|no_proxy)|UV_\w+)$`)

// Of uv's own variables, these would change what is built rather than where
// packages come from.
var droppedRE = regexp.MustCompile(`^UV_(PYTHON\w*|SYSTEM_PYTHON|PROJECT\w*|WORKING_DIR\w*|CONSTRAINT|OVERRIDE|EXCLUDE\w*|NO_BUILD\w*|` +
	`NO_BINARY\w*|COMPILE_BYTECODE|REQUIRE_HASHES|NO_VERIFY_HASHES|VENV_\w+|RESOLUTION|PRERELEASE|BUILD_CONSTRAINT|ENV_FILE|NO_CONFIG|TARGET|PREFIX)$`)

func inherited() []string {
	vars := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "NO_COLOR=1",
		"UV_PYTHON_DOWNLOADS=never", "UV_NO_PROGRESS=1"}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if keptRE.MatchString(name) && !droppedRE.MatchString(name) && name != "UV_NO_PROGRESS" {
			vars = append(vars, kv)
		}
	}
	return vars
}

// A uvError is a failure in uv's words.
type uvError struct {
	why   string
	cause error
}

func (e *uvError) Error() string {
	if e.why == "" {
		return "uv: " + e.cause.Error()
	}
	return e.why
}

func (e *uvError) Unwrap() error { return e.cause }

var networkRE = regexp.MustCompile(`(?i)error sending request|failed to fetch|request failed after|dns error|tcp connect|connection (refused|reset)|timed out|network`)

func isNetwork(err error) bool {
	e, ok := errors.AsType[*uvError](err)
	return ok && networkRE.MatchString(e.why)
}

// says reports whether uv failed with words that hold text.
func says(err error, text string) bool {
	e, ok := errors.AsType[*uvError](err)
	return ok && strings.Contains(e.why, text)
}

// talk passes on what uv says and keeps its last lines. The log must not grow
// without end when a build script talks for ever.
type talk struct {
	mu    sync.Mutex
	log   io.Writer
	watch func(string)
	part  []byte
	lines []string
}

const (
	keptLines = 400
	keptLine  = 4 << 10
)

func (t *talk) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := p; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n')
		if n < 0 {
			t.part = append(t.part, rest[:min(len(rest), max(0, keptLine-len(t.part)))]...)
			break
		}
		t.part = append(t.part, rest[:min(n, max(0, keptLine-len(t.part)))]...)
		t.endLineLocked()
		rest = rest[n+1:]
	}
	return len(p), nil
}

// endLineLocked requires t.mu.
func (t *talk) endLineLocked() {
	line := redact(strings.ToValidUTF8(string(t.part), "\uFFFD"))
	t.part = t.part[:0]
	fmt.Fprintln(t.log, line)
	if len(t.lines) >= keptLines {
		t.lines = slices.Delete(t.lines, 0, keptLines/2)
	}
	t.lines = append(t.lines, line)
	if t.watch != nil {
		t.watch(line)
	}
}

// decisive is what uv says last: from its "error:" on, without advice that
// fits uv's own command line only.
func (t *talk) decisive() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.part) > 0 {
		t.endLineLocked()
	}
	start := -1
	for n, l := range t.lines {
		if strings.HasPrefix(l, "error:") || strings.HasPrefix(strings.TrimSpace(l), "×") {
			start = n
		}
	}
	if start < 0 {
		start = max(0, len(t.lines)-3)
	}
	var out []string
	for _, l := range t.lines[start:] {
		l = strings.TrimSpace(strings.TrimPrefix(l, "error:"))
		if strings.HasPrefix(l, "hint:") {
			break
		}
		if l = strings.TrimSpace(strings.TrimPrefix(l, "cause:")); l != "" {
			out = append(out, l)
		}
	}
	return shorten(strings.Join(out, ": "), 4000)
}

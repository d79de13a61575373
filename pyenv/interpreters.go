package pyenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"loadline.dev/loadline/serving"
)

// oldest is the first minor version of Python 3 that the worker runs on.
const oldest = 8

// An Interpreter is a Python found on this machine.
type Interpreter struct {
	Path    string // absolute, links resolved
	Version string // "3.11.7"
	Minor   string // "3.11"
}

func (i Interpreter) minor() int {
	n, _ := strconv.Atoi(strings.TrimPrefix(i.Minor, "3."))
	return n
}

// Interpreters finds every CPython 3 on PATH, among pyenv's versions and among
// uv's own, best first for each minor version: PATH before the others. It
// never returns a shim, which would be another interpreter in another folder.
func Interpreters(ctx context.Context) []Interpreter {
	return inspect(ctx, candidates())
}

// find returns an interpreter of the minor version, if it can the exact one.
func find(ctx context.Context, minor, exact string) (Interpreter, error) {
	if n, _ := strconv.Atoi(strings.TrimPrefix(minor, "3.")); !strings.HasPrefix(minor, "3.") || n < oldest {
		return Interpreter{}, missing(minor, Interpreters(ctx))
	}
	var likely []string
	for _, path := range candidates() {
		if m := pythonRE.FindStringSubmatch(filepath.Base(path)); m != nil && (m[1] == "" || m[1] == minor) {
			likely = append(likely, path)
		}
	}
	var first *Interpreter
	for _, i := range inspect(ctx, likely) {
		if i.Minor != minor {
			continue
		}
		if i.Version == exact {
			return i, nil
		}
		if first == nil {
			first = &i
		}
	}
	if first != nil {
		return *first, nil
	}
	if ctx.Err() != nil {
		return Interpreter{}, ctx.Err()
	}
	return Interpreter{}, missing(minor, Interpreters(ctx))
}

func missing(minor string, present []Interpreter) error {
	e := &serving.Error{Op: "find interpreter", Kind: serving.Invalid, Fix: "uv python install " + minor}
	var names []string
	for _, i := range present {
		if !slices.Contains(names, i.Version) {
			names = append(names, i.Version)
		}
	}
	there := "none was found"
	if len(names) > 0 {
		there = "present are " + strings.Join(names, ", ")
	}
	n, err := strconv.Atoi(strings.TrimPrefix(minor, "3."))
	if !strings.HasPrefix(minor, "3.") || err != nil || n < oldest {
		e.Err = fmt.Errorf("the model asks for Python %s, which is too old to serve from: 3.%d is the first that can; %s", minor, oldest, there)
		e.Fix = "log the model again from a newer Python"
		return e
	}
	e.Err = fmt.Errorf("the model asks for Python %s, which is not on this machine; %s", minor, there)
	return e
}

var pythonRE = regexp.MustCompile(`^python(?:3|(3\.\d+))$`)

// candidates lists the files that may be interpreters, links resolved, each once.
func candidates() []string {
	var dirs []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		// A shim starts whichever Python the current folder asks for.
		if filepath.IsAbs(dir) && filepath.Base(dir) != "shims" {
			dirs = append(dirs, dir)
		}
	}
	home, _ := os.UserHomeDir()
	for _, root := range []string{os.Getenv("PYENV_ROOT"), under(home, ".pyenv")} {
		dirs = append(dirs, versions(under(root, "versions"))...)
	}
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		data = under(home, ".local/share")
	}
	for _, root := range []string{os.Getenv("UV_PYTHON_INSTALL_DIR"), under(data, "uv/python")} {
		dirs = append(dirs, versions(root)...)
	}
	dirs = append(dirs, "/usr/local/bin", "/usr/bin")

	var found []string
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !pythonRE.MatchString(e.Name()) {
				continue
			}
			real, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
			if err == nil && pythonRE.MatchString(filepath.Base(real)) && !slices.Contains(found, real) {
				found = append(found, real)
			}
		}
	}
	return found
}

func under(root, path string) string {
	if root == "" {
		return ""
	}
	return filepath.Join(root, path)
}

// versions lists the bin folders of the installations below root, newest first.
func versions(root string) []string {
	if root == "" {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(root, "*", "bin"))
	slices.SortFunc(found, func(a, b string) int { return strings.Compare(b, a) })
	return found
}

// inspect asks each file what it is, a few at a time, and keeps the order.
func inspect(ctx context.Context, paths []string) []Interpreter {
	all := make([]Interpreter, len(paths))
	var wg sync.WaitGroup
	turn := make(chan struct{}, 4)
	for n, path := range paths {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			all[n] = ask(ctx, path)
		})
	}
	wg.Wait()
	return slices.DeleteFunc(all, func(i Interpreter) bool { return i.Path == "" })
}

const askScript = `import sys
print(sys.implementation.name, "%d.%d.%d" % sys.version_info[:3])`

// ask returns the zero Interpreter for what is not a CPython 3.
func ask(ctx context.Context, path string) Interpreter {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-I", "-S", "-c", askScript)
	cmd.Env = []string{"LANG=C.UTF-8"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	name, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	parts := strings.Split(version, ".")
	if err != nil || name != "cpython" || len(parts) != 3 || parts[0] != "3" {
		return Interpreter{}
	}
	return Interpreter{Path: path, Version: version, Minor: parts[0] + "." + parts[1]}
}

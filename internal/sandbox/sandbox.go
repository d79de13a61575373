// Package sandbox starts processes that run outsiders' code, holding them to
// a [Policy]: which folders they may read and write, which network they have,
// how much memory, how many processes, and that they can neither signal nor
// trace anything outside.
//
// A process cannot be confined from outside before its first instruction, so
// [Command] starts this very binary again, with a hidden first argument; that
// launcher ([Main]) confines itself and then becomes the wanted program. On
// Linux it uses Landlock, a seccomp filter, cgroups where they are writable,
// and resource limits; elsewhere only resource limits. [Probe] says what this
// machine holds. It decides no policy and supervises nothing: the caller
// starts, waits, kills, and calls [Clean] when the process has ended.
package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"loadline.dev/loadline/serving"
)

// A Network says which sockets a process may use.
type Network string

const (
	// None is the zero value: no sockets but Unix stream sockets of its own.
	None Network = ""
	// Loopback is for engines that speak HTTP: they may listen on
	// [Policy.Ports] and connect nowhere.
	Loopback Network = "loopback"
	// Open leaves the network as it is, but for Unix sockets: a process may make
	// pairs of its own and connect to none.
	Open Network = "open"
)

// A Policy is what a process may do. The zero Policy lets it read the
// system's own programs and libraries, and nothing else.
type Policy struct {
	// Name names the process's control group, so that [Clean] finds it again.
	// It must be unique among those running (a replica's ID) and is needed
	// only with Memory or Processes.
	Name string

	// Read lists files and folders that may be read and executed; a Python
	// environment brings the interpreter that it was made from. Write lists
	// those that may also be changed. Missing ones are passed over.
	Read, Write []string

	Network Network
	Ports   []int // that may be listened on, with [Loopback]

	Memory    int64 // bytes; zero is no limit
	Processes int   // processes and threads, at least 16; zero is no limit
	FileSize  int64 // bytes of the largest file written; zero is no limit
	OpenFiles int64 // zero is no limit

	Dir  string            // working folder
	Vars map[string]string // the whole environment
}

// launchArg is the first argument of a launcher. Its policy comes in the
// environment, where only the same user can read it.
const (
	launchArg = "sandbox-launch"
	launchVar = "LOADLINE_SANDBOX"
)

// Command returns a command that runs argv within p once it is started. Files
// in its ExtraFiles reach the program unchanged. The caller sets
// SysProcAttr.Pdeathsig if it wants the process to die with a thread of its own.
func Command(ctx context.Context, p Policy, argv ...string) (*exec.Cmd, error) {
	if len(argv) == 0 || !filepath.IsAbs(argv[0]) {
		return nil, invalid("the program must be an absolute path, not %q", slices.Concat(argv, []string{""})[0])
	}
	for _, path := range slices.Concat(p.Read, p.Write) {
		if !filepath.IsAbs(path) {
			return nil, invalid("path %q must be absolute", path)
		}
	}
	if (p.Memory > 0 || p.Processes > 0) && !validName(p.Name) {
		return nil, invalid("name %q of a limited process must be a plain file name", p.Name)
	}
	if p.Processes > 0 && p.Processes < 16 {
		return nil, invalid("%d processes are too few: the launcher alone has up to 16 threads", p.Processes)
	}
	p.Read = withInterpreters(p.Read, argv[0])
	group, err := newGroup(p)
	if err != nil {
		return nil, &serving.Error{Op: "sandbox", Subject: p.Name, Kind: serving.Internal, Err: err}
	}
	vars := p.Vars
	p.Vars = nil // they travel as the environment itself
	text, err := json.Marshal(order{Policy: p, Group: group})
	if err != nil {
		return nil, err
	}
	self, err := executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, slices.Concat([]string{launchArg}, argv)...)
	cmd.Dir = p.Dir
	cmd.Env = []string{launchVar + "=" + string(text)}
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		cmd.Env = append(cmd.Env, k+"="+vars[k])
	}
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	return cmd, nil
}

// An order is what a launcher is told.
type order struct {
	Policy Policy
	Group  group
}

// A group is the control groups of a process: folders to join.
type group struct {
	Dirs []string

	// Memory and Processes say which limits the group keeps; resource limits
	// stand in for those it does not.
	Memory, Processes bool
}

// Main turns this process into the program of a [Command] if it was started
// as a launcher, and does not return then. It must be called first in main.
func Main() {
	if len(os.Args) < 3 || os.Args[1] != launchArg || os.Getenv(launchVar) == "" {
		return
	}
	err := launch(os.Args[2:])
	fmt.Fprintf(os.Stderr, "loadline sandbox: %v\n", err)
	os.Exit(126)
}

func launch(argv []string) error {
	var o order
	if err := json.Unmarshal([]byte(os.Getenv(launchVar)), &o); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if err := os.Unsetenv(launchVar); err != nil {
		return err
	}
	env := os.Environ()
	if err := confine(o); err != nil {
		return err
	}
	return fmt.Errorf("start %s: %w", argv[0], syscall.Exec(argv[0], argv, env))
}

// withInterpreters adds, for every Python environment among read, the
// interpreter that it was made from: an environment's python is a symbolic
// link into the standing installation.
func withInterpreters(read []string, program string) []string {
	pythons := []string{program}
	for _, dir := range read {
		pythons = append(pythons, filepath.Join(dir, "bin", "python"))
	}
	out := slices.Concat(read, []string{program})
	for _, python := range pythons {
		real, err := filepath.EvalSymlinks(python)
		if err != nil {
			continue
		}
		prefix := filepath.Dir(filepath.Dir(real))
		out = append(out, real)
		// Only what an interpreter needs: its prefix may be somebody's home.
		if found, _ := filepath.Glob(filepath.Join(prefix, "lib*", "python3*")); len(found) > 0 {
			out = append(out, found...)
			libs, _ := filepath.Glob(filepath.Join(prefix, "lib", "lib*"))
			out = append(out, libs...)
			out = append(out, filepath.Join(prefix, "bin"))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func validName(name string) bool {
	return name != "" && len(name) <= 200 && name[0] != '.' && !strings.ContainsAny(name, "/\x00\n")
}

func invalid(format string, args ...any) error {
	return &serving.Error{Op: "sandbox", Kind: serving.Invalid, Err: fmt.Errorf(format, args...)}
}

// Holds says what this machine can hold a process to.
type Holds struct {
	Network   Hold // no network unless the policy gives it
	Files     Hold // no file outside the policy's folders
	Processes Hold // no signal to others, and a bounded number
	Memory    Hold // a bounded amount, and no other process pays for it
}

// A Hold is one of [Holds].
type Hold struct {
	Held bool
	Why  string // why not, or what it does not cover; may be empty
}

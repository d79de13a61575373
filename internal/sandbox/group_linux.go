package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// parentGroup is the folder below our own control group that holds those of
// the processes we start.
const parentGroup = "loadline"

// A place is where groups of one controller may be made.
type place struct {
	controllers []string // of "memory", "pids"
	dir         string   // our own group's folder
	unified     bool     // cgroup v2
}

// newGroup makes the control groups that p needs, as far as this machine lets us.
func newGroup(p Policy) (group, error) {
	var g group
	if p.Memory <= 0 && p.Processes <= 0 {
		return g, nil
	}
	for _, at := range places() {
		if at.unified && len(g.Dirs) > 0 {
			continue // a process is in one group of version 2 only
		}
		dir := filepath.Join(at.dir, parentGroup, p.Name)
		if err := makeGroup(at, dir); err != nil {
			continue // not ours to make; resource limits stand in
		}
		used := false
		if p.Memory > 0 && slices.Contains(at.controllers, "memory") {
			if err := limitMemory(at, dir, p.Memory); err != nil {
				return g, fmt.Errorf("limit memory: %w", err)
			}
			g.Memory, used = true, true
		}
		if p.Processes > 0 && slices.Contains(at.controllers, "pids") {
			if err := write(dir, "pids.max", int64(p.Processes)); err != nil {
				return g, fmt.Errorf("limit processes: %w", err)
			}
			g.Processes, used = true, true
		}
		if !used {
			_ = os.Remove(dir) // empty and ours
			continue
		}
		g.Dirs = append(g.Dirs, dir)
	}
	return g, nil
}

func makeGroup(at place, dir string) error {
	if at.unified {
		// Children get a controller only if every group above passes it on.
		for _, d := range []string{at.dir, filepath.Dir(dir)} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
			if err := passOn(d, at.controllers); err != nil {
				return err
			}
		}
	}
	return os.MkdirAll(dir, 0o755)
}

func passOn(dir string, controllers []string) error {
	passed, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if slices.Contains(strings.Fields(string(passed)), c) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return err
		}
	}
	return nil
}

func limitMemory(at place, dir string, bytes int64) error {
	if !at.unified {
		if err := write(dir, "memory.limit_in_bytes", bytes); err != nil {
			return err
		}
		return ignoreMissing(write(dir, "memory.memsw.limit_in_bytes", bytes))
	}
	if err := write(dir, "memory.max", bytes); err != nil {
		return err
	}
	if err := ignoreMissing(write(dir, "memory.swap.max", 0)); err != nil {
		return err
	}
	return ignoreMissing(write(dir, "memory.oom.group", 1))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // a kernel without swap accounting has no such file
	}
	return err
}

func write(dir, name string, value int64) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(strconv.FormatInt(value, 10))
	return err
}

// join moves this process into g.
func join(g group) error {
	for _, dir := range g.Dirs {
		if err := write(dir, "cgroup.procs", 0); err != nil {
			return fmt.Errorf("join control group: %w", err)
		}
	}
	return nil
}

// Clean kills whatever a process named name left running in its control
// groups, and removes them. A name that has none is no error.
func Clean(name string) error {
	if !validName(name) {
		return invalid("name %q must be a plain file name", name)
	}
	var all error
	for _, at := range places() {
		all = errors.Join(all, removeGroup(filepath.Join(at.dir, parentGroup, name)))
	}
	return all
}

// Starved says whether the kernel killed a process of name for want of the
// memory that its policy allowed. It must be asked before Clean.
func Starved(name string) bool {
	if !validName(name) {
		return false
	}
	for _, at := range places() {
		for _, file := range []string{"memory.events", "memory.oom_control"} { // of version 2, of version 1
			data, _ := os.ReadFile(filepath.Join(at.dir, parentGroup, name, file))
			for line := range strings.Lines(string(data)) {
				if n, is := strings.CutPrefix(line, "oom_kill "); is && strings.TrimSpace(n) != "0" {
					return true
				}
			}
		}
	}
	return false
}

// removeGroup retries because the kernel lets a killed process go in its own time.
func removeGroup(dir string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if wait > time.Second {
			return fmt.Errorf("remove control group: %w", err)
		}
		for _, pid := range members(dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
		}
		time.Sleep(wait)
	}
}

func members(dir string) []int {
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	var pids []int
	for line := range bytes.Lines(data) {
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// places finds our own groups of the two controllers, version 1 or 2.
func places() []place {
	mounts := groupMounts()
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var out []place
	for line := range strings.Lines(string(data)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		mount, ok := mounts[controllers]
		if !ok {
			continue
		}
		own := ownGroup(mount, path)
		if controllers != "" {
			out = append(out, place{keep(strings.Split(controllers, ",")), own, false})
			continue
		}
		// In version 2 a group that holds processes, as ours does, may have no
		// children with limits; then the one above may, if it was made over to us.
		out = append(out, unifiedPlace(own))
		if own != mount.dir {
			out = append(out, unifiedPlace(filepath.Dir(own)))
		}
	}
	return slices.DeleteFunc(out, func(p place) bool { return len(p.controllers) == 0 })
}

func unifiedPlace(dir string) place {
	have, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers")) // unreadable is none
	return place{keep(strings.Fields(string(have))), dir, true}
}

func keep(controllers []string) []string {
	return slices.DeleteFunc(controllers, func(c string) bool { return c != "memory" && c != "pids" })
}

// A groupMount is a mounted hierarchy: root is the group that shows at dir.
type groupMount struct{ root, dir string }

func ownGroup(m groupMount, path string) string {
	if rel, err := filepath.Rel(m.root, path); err == nil && filepath.IsLocal(rel) {
		dir := filepath.Join(m.dir, rel)
		// A parent's removed group shows in our path with this suffix.
		dir = strings.TrimSuffix(dir, " (deleted)")
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	return m.dir
}

// groupMounts is the hierarchies by their controllers, "" for version 2.
func groupMounts() map[string]groupMount {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	out := map[string]groupMount{}
	for s := bufio.NewScanner(f); s.Scan(); {
		head, tail, _ := strings.Cut(s.Text(), " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if len(h) < 5 || len(t) < 3 {
			continue
		}
		m := groupMount{root: h[3], dir: h[4]}
		switch t[0] {
		case "cgroup2":
			out[""] = m
		case "cgroup":
			if c := keep(strings.Split(t[2], ",")); len(c) > 0 {
				out[controllersOf(strings.Split(t[2], ","))] = m
			}
		}
	}
	return out
}

// controllersOf drops mount options that are not controllers.
func controllersOf(options []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(options), func(o string) bool {
		return o == "rw" || o == "ro" || o == "xattr" || strings.Contains(o, "=")
	}), ",")
}

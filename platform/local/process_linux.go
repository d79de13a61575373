package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A stopper ends everything that waits for processes, at once.
type stopper struct {
	done  chan struct{}
	once  sync.Once
	ended atomic.Bool

	hear, say *os.File // a pipe: poll cannot wait for a channel
}

func newStopper() (*stopper, error) {
	hear, say, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &stopper{done: make(chan struct{}), hear: hear, say: say}, nil
}

func (s *stopper) stop() {
	s.once.Do(func() {
		s.ended.Store(true)
		close(s.done)
		s.say.Close()
	})
}

// close frees what stop needed; nobody waits any more.
func (s *stopper) close() { s.hear.Close() }

func (s *stopper) stopped() bool { return s.ended.Load() }

// awaitExit waits until a process has ended, child or not, and says whether it
// did: false means that the stopper came first.
func awaitExit(pid int, end *stopper) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		// No such process, or a kernel without pidfd; the latter is older than
		// anything Landlock runs on, so the process is taken as ended only if so.
		return awaitByAsking(pid, end)
	}
	defer unix.Close(fd)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(end.hear.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return awaitByAsking(pid, end)
		}
		if fds[0].Revents != 0 {
			return true
		}
		if end.stopped() {
			return false
		}
	}
}

// birthOf names the moment a living process was born: boot and tick. A zombie
// does not count as living.
func birthOf(pid int) (string, error) {
	fields, err := statOf(pid)
	if err != nil {
		return "", err
	}
	if fields[statState] == "Z" || fields[statState] == "X" {
		return "", os.ErrProcessDone
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(boot)) + "/" + fields[statBirth], nil
}

// Fields of /proc/PID/stat behind the command's name.
const (
	statState   = 0
	statSession = 3
	statBirth   = 19
)

func statOf(pid int) ([]string, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil, err
	}
	// The name may hold blanks and brackets of its own.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) <= statBirth {
		return nil, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fields, nil
}

// killSession ends what is left of the session that an agent led: servers of
// an engine that have moved out of the death signal's reach. Only processes
// whose variables name the replica's folder are meant, so that a session's
// number that was given away again harms nobody.
func killSession(leader int, birth, dir string) {
	if leader <= 1 || birth == "" || dir == "" {
		return
	}
	if now, err := birthOf(leader); err == nil && now != birth {
		return // the number belongs to somebody else by now
	}
	eachProcess(func(pid int) {
		fields, err := statOf(pid)
		if err != nil || pid == leader || fields[statSession] != strconv.Itoa(leader) {
			return
		}
		vars, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		if err == nil && bytes.Contains(vars, []byte(dir)) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
}

// killByCommand ends processes that were started by just this command: an agent
// whose supervisor was killed before it could record it.
func killByCommand(argv []string) {
	want := strings.Join(argv, "\x00") + "\x00"
	eachProcess(func(pid int) {
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err == nil && string(line) == want {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
}

func eachProcess(visit func(pid int)) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid > 1 && pid != os.Getpid() {
			visit(pid)
		}
	}
}

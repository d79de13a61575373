//go:build !linux

package local

import (
	"os"
	"os/exec"
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
}

func newStopper() (*stopper, error) { return &stopper{done: make(chan struct{})}, nil }

func (s *stopper) stop() {
	s.once.Do(func() {
		s.ended.Store(true)
		close(s.done)
	})
}

// close frees what stop needed; nobody waits any more.
func (s *stopper) close() {}

func (s *stopper) stopped() bool { return s.ended.Load() }

// awaitExit waits until a process has ended, child or not, and says whether it
// did: false means that the stopper came first.
func awaitExit(pid int, end *stopper) bool { return awaitByAsking(pid, end) }

// birthOf names the moment a living process was born, as ps tells it.
func birthOf(pid int) (string, error) {
	out, err := exec.Command("ps", "-o", "state=,lstart=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return "", err
	}
	state, birth, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if strings.HasPrefix(state, "Z") || birth == "" {
		return "", os.ErrProcessDone
	}
	return strings.TrimSpace(birth), nil
}

// killSession ends what is left of the process group that an agent led.
func killSession(leader int, birth, dir string) {
	if leader <= 1 || birth == "" || dir == "" {
		return
	}
	if now, err := birthOf(leader); err == nil && now != birth {
		return // the number belongs to somebody else by now
	}
	unix.Kill(-leader, unix.SIGKILL)
}

// killByCommand ends processes that were started by just this command: an agent
// whose supervisor was killed before it could record it.
func killByCommand(argv []string) {
	out, err := exec.Command("ps", "-axo", "pid=,command=").Output()
	if err != nil {
		return
	}
	want := strings.Join(argv, " ")
	for line := range strings.Lines(string(out)) {
		number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(number)
		if err == nil && pid > 1 && pid != os.Getpid() && strings.TrimSpace(command) == want {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

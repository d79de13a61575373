package local

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"loadline.dev/loadline/serving"
)

// Names within a replica's folder.
const (
	specName    = "spec.json"
	stateName   = "state.json"
	processName = "process.json"
	socketName  = "agent.sock"
	engineLog   = "engine.log"
	agentLog    = "agent.log"
)

// A replica is one agent process and its folder.
type replica struct {
	id, dir string
	entity  string
	rev     serving.Revision
	pid     int
	birth   string      // when the process was born, in the kernel's words; with pid it names it for ever
	process *os.Process // nil when it never started
	gone    <-chan struct{}
	status  func() string // how it ended, once gone

	seen    serving.Replica
	written os.FileInfo // of the state last read
	readyAt time.Time   // when it was first seen ready
	adopted bool        // started by an earlier supervisor
	leaving bool        // told to finish and go
	killAt  time.Time   // when patience ends
	dead    bool        // ended without being told

	vouched bool      // it has a credential for the link
	renewAt time.Time // of that
}

// A record of a process, written right after it was started, lets the next
// supervisor tell it from another that got its number.
type record struct {
	PID     int
	Birth   string
	Started time.Time // of the replica; finer than any file's time
}

func newID() string {
	var id [5]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// spawn starts an agent in a folder of its own. The replica is never nil.
func (p *Platform) spawn(g *group) (*replica, error) {
	now := time.Now()
	id := newID()
	r := &replica{id: id, dir: filepath.Join(p.replicas(), id), entity: g.assignment.Entity, rev: g.rev,
		seen: serving.Replica{State: serving.Starting, Started: now, Since: now}}
	a := g.assignment
	a.Replica, a.Revision = id, g.rev
	if err := writeFolder(r.dir, a); err != nil {
		return r, fmt.Errorf("replica folder: %w", err)
	}
	r.vouched = p.Secured
	if err := p.vouch(r, now); err != nil {
		return r, err
	}
	if err := p.startProcess(r); err != nil {
		return r, err
	}
	p.Log.Info("replica starts", "endpoint", a.Endpoint, "replica", id, "pid", r.pid)
	return r, nil
}

func writeFolder(dir string, a serving.Assignment) error {
	for _, d := range []string{dir, filepath.Join(dir, "work")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(dir, specName), a)
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, text)
}

// writeFile puts a file in place whole: whoever reads it reads all of it.
func writeFile(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// startProcess starts the agent as the leader of a session, so that neither a
// Ctrl-C nor the end of this process reaches it.
func (p *Platform) startProcess(r *replica) error {
	log, err := os.OpenFile(filepath.Join(r.dir, agentLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	argv := p.command(r.dir)
	r.process, err = os.StartProcess(argv[0], argv, &os.ProcAttr{Dir: r.dir, Env: p.vars(r.dir),
		Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	r.pid = r.process.Pid
	r.watchChild(p)
	if r.birth, err = birthOf(r.pid); err == nil {
		err = writeJSON(filepath.Join(r.dir, processName), record{r.pid, r.birth, r.seen.Started})
	}
	if err != nil {
		r.kill() // without its record no later supervisor would know it
		return fmt.Errorf("record agent: %w", err)
	}
	return nil
}

func (p *Platform) command(dir string) []string { return append(slices.Clone(p.Agent), dir) }

// inherited are the variables that an agent gets; tokens and the like stay here.
var inherited = []string{"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "GODEBUG", "GOMAXPROCS", "GOTRACEBACK", "GOCOVERDIR"}

// vars are an agent's. They name its folder, so that what it starts can be told
// from other processes.
func (p *Platform) vars(dir string) []string {
	list := []string{"LOADLINE_REPLICA=" + dir}
	for _, name := range inherited {
		if value, set := os.LookupEnv(name); set {
			list = append(list, name+"="+value)
		}
	}
	for name, value := range p.Vars {
		list = append(list, name+"="+value)
	}
	return list
}

// watchChild reaps a process that this one started.
func (r *replica) watchChild(p *Platform) {
	gone, how := make(chan struct{}), "ended"
	r.gone, r.status = gone, func() string { return how }
	process := r.process
	p.work.Go(func() {
		if !awaitExit(process.Pid, p.end) {
			return // released: the next supervisor takes over
		}
		if state, err := process.Wait(); err == nil {
			how = state.String()
		}
		close(gone)
		p.hurry()
	})
}

// watchStranger hears of the end of a process that an earlier one started.
func (r *replica) watchStranger(p *Platform) {
	gone := make(chan struct{})
	r.gone, r.status = gone, func() string { return "ended" }
	pid := r.pid
	p.work.Go(func() {
		if awaitExit(pid, p.end) {
			close(gone)
			p.hurry()
		}
	})
}

func (r *replica) ended() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

// readState takes in what the agent wrote, if it did since.
func (r *replica) readState() {
	path := filepath.Join(r.dir, stateName)
	info, err := os.Stat(path)
	// The clock of a file system is coarse: two writes may bear the same time,
	// but they are two files.
	if err != nil || r.written != nil && os.SameFile(info, r.written) && info.ModTime().Equal(r.written.ModTime()) {
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	var said serving.Replica
	if json.Unmarshal(text, &said) != nil || said.State == "" {
		return // the next look reads it again
	}
	r.written = info
	said.Started = r.seen.Started
	r.seen = said
}

// shown is a replica as others see it.
func (r *replica) shown(g *group) serving.Replica {
	s := r.seen
	s.ID, s.Revision, s.PID = r.id, r.rev, r.pid
	s.Addr = cmp.Or(s.Addr, filepath.Join(r.dir, socketName))
	if s.Since.Before(s.Started) {
		s.Since = s.Started
	}
	if r.leaving {
		s.State = serving.Draining
	}
	if r.dead {
		s.Restarts, s.Engine = g.failures, 0
	}
	return s
}

// leave tells a replica to finish what it has and go.
func (r *replica) leave(patience time.Time) {
	switch {
	case r.dead:
	case r.leaving && patience.After(r.killAt): // it has less already
	case r.leaving:
		r.killAt = patience
	default:
		r.leaving = true
		r.terminate(patience)
	}
}

func (r *replica) terminate(patience time.Time) {
	r.killAt = patience
	if err := r.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.killAt = time.Now() // whoever cannot be told is ended
	}
}

func (r *replica) kill() {
	_ = r.process.Signal(syscall.SIGKILL) // one that ended already is what is wanted
	killSession(r.pid, r.birth, r.dir)
}

// lastWords says how an agent ended that left no reason of its own.
func (r *replica) lastWords() string {
	how := "its agent " + strings.TrimSpace(r.status())
	text, err := os.ReadFile(filepath.Join(r.dir, agentLog))
	if err != nil {
		return how
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	if last := string(lines[len(lines)-1]); last != "" {
		return how + ": " + last[:min(len(last), 300)]
	}
	return how
}

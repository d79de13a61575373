// Package pyworker is the agent's end of the Python worker: it starts one
// worker process on a socket pair, hands requests over as frames, and turns
// the answers back into HTTP.
//
// A JSON body that fits the model's signature crosses as typed columns (see
// [scoring]), everything else as the bytes that came. It does not isolate the
// process, capture what it prints or decide when to kill it; the agent does,
// through the command it supplies and through Stop.
package pyworker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/scoring"
	"loadline.dev/loadline/serving"
)

// Config says how to start a worker and what to let through to it.
type Config struct {
	// Command makes the worker's command, ready to start but for the socket:
	// ExtraFiles must be empty, and LOADLINE_FD=3 is added to Env.
	Command func() (*exec.Cmd, error)

	// Spawn starts the command; nil is its own Start. (A death signal needs a
	// thread that lives as long as the child, so the agent brings its own.)
	Spawn func(*exec.Cmd) error

	MaxBody int64 // bytes of a request body, inflated; zero is [DefaultMaxBody]
	Strict  bool  // refuse what MLflow would alter silently
}

// DefaultMaxBody bounds a request body when nothing else is said.
const DefaultMaxBody = 16 << 20

// An Engine is one worker process. It implements [agent.Engine].
type Engine struct {
	config Config
	cmd    *exec.Cmd
	conn   *net.UnixConn
	hello  hello
	reader *scoring.Reader
	ended  chan struct{} // closed when the process has ended
	loaded chan error    // receives once: the model is loaded, or why not

	columns, raw, texts atomic.Uint64
	gather              gathering

	mu     sync.Mutex
	calls  map[uint64]*call // nil once the socket is broken
	next   uint64
	reason string
}

// hello is what a worker says of itself and its model once it is loaded.
type hello struct {
	Protocol  int    `json:"protocol"`
	Python    string `json:"python"`
	MLflow    string `json:"mlflow"`
	Inputs    string `json:"inputs"` // MLflow's JSON text of the input schema; empty without one
	Params    string `json:"params"` // the same of the params schema
	TypeHints bool   `json:"type_hints"`
	Together  struct {
		Sizes []int  `json:"sizes"` // in rows, of calls that answer each row as alone
		Why   string `json:"why"`
	} `json:"together"`
}

var (
	_ agent.Engine   = (*Engine)(nil)
	_ agent.Reasoner = (*Engine)(nil)
	_ agent.Counter  = (*Engine)(nil)
	_ agent.Gatherer = (*Engine)(nil)
)

// New returns an engine that has not been started.
func New(c Config) *Engine {
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.Spawn == nil {
		c.Spawn = (*exec.Cmd).Start
	}
	return &Engine{config: c, ended: make(chan struct{}), loaded: make(chan error, 1), calls: map[uint64]*call{}}
}

// Start implements [agent.Engine].
func (e *Engine) Start(ctx context.Context) error {
	cmd, err := e.config.Command()
	if err != nil {
		return err
	}
	if err := e.spawn(cmd); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	select {
	case err = <-e.loaded:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		e.Stop(0)
		return err
	}
	return nil
}

// spawn starts the process with one end of a new socket pair as its fd 3.
func (e *Engine) spawn(cmd *exec.Cmd) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(cmd.Env, "LOADLINE_FD=3")
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A group of its own, so that what the model forked dies with it.
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid
	if err := e.config.Spawn(cmd); err != nil {
		ours.Close()
		return err
	}
	e.mu.Lock()
	e.cmd, e.conn = cmd, ours
	e.mu.Unlock()
	go e.wait()
	return nil
}

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "agent")
	defer mine.Close()
	conn, err := net.FileConn(mine)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// wait reads until the socket breaks, then waits for the process, which is
// no use without its socket, and lets everyone know.
func (e *Engine) wait() {
	readErr := e.read()
	e.breakOff()
	e.conn.Close()
	patience := 5 * time.Second // to write its last words
	if readErr != nil {
		patience = 0
	}
	settle := time.AfterFunc(patience, e.kill)
	waitErr := e.cmd.Wait()
	settle.Stop()
	e.mu.Lock()
	if e.reason == "" && readErr != nil {
		e.reason = readErr.Error()
	}
	why := e.reason
	e.mu.Unlock()
	if why == "" && waitErr != nil {
		why = waitErr.Error()
	}
	if why == "" {
		why = "the worker ended before the model was loaded"
	}
	select {
	case e.loaded <- &serving.Error{Op: "load model", Kind: serving.Invalid, Err: errors.New(why)}:
	default:
	}
	close(e.ended)
}

// read hands frames to those who wait for them. It returns nil at the end.
func (e *Engine) read() error {
	r := bufio.NewReaderSize(e.conn, 64<<10)
	for {
		f, err := readFrame(r)
		if err != nil {
			if _, isOp := errors.AsType[*net.OpError](err); isOp || err.Error() == "EOF" {
				return nil // closed by either side: the process's own end says more
			}
			return err
		}
		switch f.kind {
		case kindHello:
			if err := e.greet(f.payload); err != nil {
				return err
			}
		case kindFailed:
			var failed struct {
				Line string `json:"line"`
			}
			if json.Unmarshal(f.payload, &failed) == nil {
				e.mu.Lock()
				e.reason = failed.Line
				e.mu.Unlock()
			}
		default:
			e.mu.Lock()
			c := e.calls[f.id]
			e.mu.Unlock()
			if c == nil {
				return fmt.Errorf("the worker answered request %d, which does not exist", f.id)
			}
			if f.kind.last() {
				c.flight.end() // first: the worker has nothing to do now
			}
			c.push(f)
		}
	}
}

func (e *Engine) greet(payload []byte) error {
	var h hello
	if err := json.Unmarshal(payload, &h); err != nil {
		return fmt.Errorf("the worker's greeting: %w", err)
	}
	if h.Protocol != protocol {
		return fmt.Errorf("the worker speaks protocol %d, this agent %d", h.Protocol, protocol)
	}
	if err := e.gather.gatherUpTo(h.Together.Sizes, h.Together.Why); err != nil {
		return err
	}
	e.hello = h
	e.reader = scoring.NewReader(h.Inputs, h.Params, h.TypeHints)
	select {
	case e.loaded <- nil:
		return nil
	default:
		return errors.New("the worker greeted twice")
	}
}

// breakOff ends all calls and lets no new one begin.
func (e *Engine) breakOff() {
	e.mu.Lock()
	calls := e.calls
	e.calls = nil
	e.mu.Unlock()
	for _, c := range calls {
		c.broken()
	}
}

// Done implements [agent.Engine].
func (e *Engine) Done() <-chan struct{} { return e.ended }

// PID implements [agent.Engine].
func (e *Engine) PID() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cmd == nil || e.cmd.Process == nil {
		return 0
	}
	select {
	case <-e.ended:
		return 0
	default:
		return e.cmd.Process.Pid
	}
}

// Reason implements [agent.Reasoner].
func (e *Engine) Reason() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reason
}

// Crossed implements [agent.Counter].
func (e *Engine) Crossed() (columns, raw uint64) { return e.columns.Load(), e.raw.Load() }

// Stats counts how requests and answers crossed since the start.
type Stats struct {
	Columns uint64 // requests that went as columns
	Raw     uint64 // requests that went as the bytes that came
	Texts   uint64 // of the former, those whose answer came back as MLflow's JSON text

	Calls [len(link.CallSizes)]uint64 // see [link.Counters]
}

// Shared is how many calls had more than one request in them.
func (s Stats) Shared() uint64 {
	var n uint64
	for _, calls := range s.Calls[1:] {
		n += calls
	}
	return n
}

// Stats returns the counts so far.
func (e *Engine) Stats() Stats {
	return Stats{Columns: e.columns.Load(), Raw: e.raw.Load(), Texts: e.texts.Load(), Calls: e.Calls()}
}

// Stop implements [agent.Engine]. The worker sees its socket close, finishes
// the request it is at, and ends.
func (e *Engine) Stop(grace time.Duration) {
	e.mu.Lock()
	conn := e.conn
	e.mu.Unlock()
	if conn == nil {
		return
	}
	if grace > 0 {
		_ = conn.CloseWrite()
		select {
		case <-e.ended:
			return
		case <-time.After(grace):
		}
	}
	e.kill()
	<-e.ended
}

// kill ends the process and its group. The process is not reaped before
// ended is closed, so the number cannot be another's.
func (e *Engine) kill() {
	select {
	case <-e.ended:
		return
	default:
	}
	pid := e.cmd.Process.Pid
	if syscall.Kill(-pid, syscall.SIGKILL) != nil {
		_ = e.cmd.Process.Kill()
	}
}

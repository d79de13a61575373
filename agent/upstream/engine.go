// Package upstream is the agent's end of an engine that speaks HTTP/1.1 on a
// loopback port: MLflow's own server, or whatever command the user gave.
//
// It starts the process on a free port, asks its health path until it is
// loaded, and carries requests to it and answers back, both streamed. The
// engine is an outsider: an answer that two readers could understand
// differently is refused, and its connection is not used again. It does not
// isolate the process or keep its output; the agent does, through the command
// it supplies.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// Config says how to start an engine and what to let through to it.
type Config struct {
	// Command makes the engine's command, which is to listen on port.
	Command func(port int) (*exec.Cmd, error)

	// Spawn starts a command; nil is its own Start.
	Spawn func(*exec.Cmd) error

	Health string // path that answers 2xx once the engine is loaded

	// Raw lets any method and path through, and takes a closed connection for
	// the way to tell the engine that a client has left. Otherwise only MLflow's
	// scoring routes pass, and an abandoned request is waited for.
	Raw bool
}

// An Engine is one engine process. It implements [agent.Engine].
type Engine struct {
	config Config
	done   chan struct{}

	mu    sync.Mutex
	proc  *process // nil before Start
	conns pool
}

var (
	_ agent.Engine = (*Engine)(nil)
	_ agent.Prober = (*Engine)(nil)
)

// New returns an engine that has not been started.
func New(c Config) *Engine {
	if c.Spawn == nil {
		c.Spawn = (*exec.Cmd).Start
	}
	return &Engine{config: c, done: make(chan struct{})}
}

// A process is one try at starting the command.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// kill ends the process and its group. It is not reaped before ended is
// closed, so the number cannot be another's.
func (p *process) kill(s syscall.Signal) {
	if p.over() {
		return
	}
	if syscall.Kill(-p.cmd.Process.Pid, s) != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// Start implements [agent.Engine]. Where somebody else took the port in the
// meantime, it tries again on another.
func (e *Engine) Start(ctx context.Context) error {
	for try := 1; ; try++ {
		port, err := reserve()
		if err != nil {
			return err
		}
		err = e.attempt(ctx, port.number)
		if err == nil {
			go func() {
				<-e.proc.ended
				e.conns.close()
				port.release()
				close(e.done)
			}()
			return nil
		}
		taken := e.proc != nil && e.proc.over() && listens(port.number)
		port.release()
		if taken && try < 3 && ctx.Err() == nil {
			continue
		}
		if e.proc != nil {
			e.proc.kill(syscall.SIGKILL)
			<-e.proc.ended
			close(e.done)
		}
		if taken {
			err = fmt.Errorf("port %d was taken by somebody else: %w", port.number, err)
		}
		return err
	}
}

func (e *Engine) attempt(ctx context.Context, port int) error {
	cmd, err := e.config.Command(port)
	if err != nil {
		return err
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid
	if err := e.config.Spawn(cmd); err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the agent looks at how it ended
		close(p.ended)
	}()
	e.mu.Lock()
	e.proc = p
	e.mu.Unlock()
	e.conns.open(port)
	return e.await(ctx, p, port)
}

// await asks the health path until it answers well.
func (e *Engine) await(ctx context.Context, p *process, port int) error {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // nobody answers for a dead process
		select {
		case <-p.ended:
			cancel()
		case <-asking.Done():
		}
	}()
	wait := 10 * time.Millisecond
	var last error // before ctx ended
	for {
		err := e.Healthy(asking)
		if ctx.Err() != nil && last != nil {
			err = last
		}
		if err == nil && !p.over() {
			return nil
		}
		select {
		case <-p.ended:
			return errors.New("the engine ended before it was healthy")
		case <-ctx.Done():
			if errors.Is(err, syscall.ECONNREFUSED) {
				err = fmt.Errorf("nothing listens on 127.0.0.1:%d, the port it was given in $PORT", port)
			}
			return fmt.Errorf("health: %w", err)
		case <-time.After(wait):
			last = err
			wait = min(wait*3/2, 250*time.Millisecond)
		}
	}
}

// Healthy implements [agent.Prober].
func (e *Engine) Healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var w verdict
	r := &agent.Request{Method: "GET", Path: e.config.Health, Body: strings.NewReader("")}
	if err := e.exchange(ctx, r, &w, true); err != nil {
		return err
	}
	if w.status < 200 || w.status > 299 {
		return fmt.Errorf("GET %s answers %d", e.config.Health, w.status)
	}
	return nil
}

// A verdict is an answer of which only the status counts.
type verdict struct{ status int }

func (v *verdict) Head(status int, _ []link.Field, _ int64) error {
	v.status = status
	return nil
}
func (v *verdict) Write(p []byte) (int, error) { return len(p), nil }
func (v *verdict) Flush() error                { return nil }

// Done implements [agent.Engine].
func (e *Engine) Done() <-chan struct{} { return e.done }

// PID implements [agent.Engine].
func (e *Engine) PID() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.proc == nil || e.proc.over() {
		return 0
	}
	return e.proc.cmd.Process.Pid
}

// Stop implements [agent.Engine]: a terminating signal first, where there is time.
func (e *Engine) Stop(grace time.Duration) {
	e.mu.Lock()
	p := e.proc
	e.mu.Unlock()
	if p == nil {
		return
	}
	if grace > 0 {
		p.kill(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(grace):
		}
	}
	p.kill(syscall.SIGKILL)
	<-p.ended
}

// Do implements [agent.Engine].
func (e *Engine) Do(ctx context.Context, r *agent.Request, w agent.Answerer) error {
	if !e.config.Raw {
		if status, body, allow := route(r); status != 0 {
			return refuse(w, status, body, allow)
		}
	}
	if !token(r.Method) || !fits(r.Path) {
		return refuse(w, 400, `{"detail":"Bad Request"}`, "")
	}
	return e.exchange(ctx, r, w, e.config.Raw)
}

// route says how to refuse what is not one of MLflow's scoring routes, in the
// words of its server; zero lets it through.
func route(r *agent.Request) (status int, body, allow string) {
	path, _, _ := strings.Cut(r.Path, "?")
	switch path {
	case "/invocations":
		allow = "POST"
	case "/ping", "/health", "/version":
		allow = "GET"
	default:
		return 404, `{"detail":"Not Found"}`, ""
	}
	if r.Method != allow {
		return 405, `{"detail":"Method Not Allowed"}`, allow
	}
	return 0, "", ""
}

func refuse(w agent.Answerer, status int, body, allow string) error {
	header := []link.Field{{Name: "Content-Type", Value: "application/json"}}
	if allow != "" {
		header = append(header, link.Field{Name: "Allow", Value: allow})
	}
	if err := w.Head(status, header, int64(len(body))); err != nil {
		return err
	}
	_, err := w.Write([]byte(body))
	return err
}

// gone is a request of which the engine has seen nothing.
func gone(err error) error {
	return &serving.Error{Op: "reach engine", Kind: serving.Unavailable, Err: errors.Join(agent.ErrEngineGone, err)}
}

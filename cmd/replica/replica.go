// Package replica is the whole program of one replica: an agent, the engines
// that it knows and the sandbox around them, put together. The small binary
// beside each replica (cmd/agent) and the big one's role of the same name run
// the same code.
package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/agent/native"
	"loadline.dev/loadline/agent/pyworker"
	"loadline.dev/loadline/agent/upstream"
	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/serving"
)

// Options say which replica it is.
type Options struct {
	Dir   string    // its folder, absolute
	Owner int       // above zero: it drains once that process is not its parent any more
	Log   io.Writer // where its log goes

	// Listen opens what gateways connect to; nil is a Unix socket in Dir.
	Listen func() (net.Listener, error)
}

// Run is the life of a replica: until ctx ends, or it was asked to drain by a
// signal (see [agent.Signals]) and has.
func Run(ctx context.Context, o Options) error {
	ctx, drain, stop := agent.Signals(ctx)
	defer stop()
	if o.Owner > 0 {
		go leaveWith(ctx, o.Owner)
	}
	return agent.Run(ctx, agent.Options{
		Dir: o.Dir, Engine: newEngine, Drain: drain, Listen: o.Listen,
		Command: func(a serving.Assignment, argv []string, vars map[string]string, ports []int) (*exec.Cmd, error) {
			return engineCommand(o.Dir, a, argv, vars, ports)
		},
		Ended: clearGroup,
		Log:   slog.New(slog.NewTextHandler(o.Log, nil)),
	})
}

// leaveWith asks this process to drain once its parent is gone: a model that was
// served in the foreground must not outlive a server that was killed.
func leaveWith(ctx context.Context, owner int) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for syscall.Getppid() == owner {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM) // ourselves: cannot be refused
}

// newEngine makes the engine that speaks an assignment's protocol.
func newEngine(l *agent.Launch) agent.Engine {
	recipe := l.Assignment.Recipe
	python := func() agent.Engine {
		return pyworker.New(pyworker.Config{
			Command: func() (*exec.Cmd, error) { return l.Command(0) },
			Spawn:   l.Spawn, MaxBody: recipe.Limits.Body, Strict: recipe.Strict,
		})
	}
	switch recipe.Launch.Protocol {
	case serving.Worker:
		return python()
	case serving.Onnx:
		return native.New(native.Config{Native: *recipe.Launch.Native, Reserve: python, MaxBody: recipe.Limits.Body, Strict: recipe.Strict})
	}
	return upstream.New(upstream.Config{Command: l.Command, Spawn: l.Spawn, Health: recipe.Launch.Health, Raw: recipe.Launch.Raw})
}

// Bounds of one replica where its recipe sets none.
const (
	defaultProcesses = 512 // threads count, and numeric libraries start many
	defaultFileSize  = 4 << 30
	defaultOpenFiles = 4096
)

// engineCommand confines an engine: it reads the system, its environment and
// its model, and writes its own work folder.
func engineCommand(dir string, a serving.Assignment, argv []string, vars map[string]string, ports []int) (*exec.Cmd, error) {
	work := filepath.Join(dir, "work")
	if !a.Sandbox {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = work, []string{}
		for k, v := range vars {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		cmd.SysProcAttr = new(syscall.SysProcAttr)
		return cmd, nil
	}
	r := a.Recipe
	p := sandbox.Policy{
		Name: a.Replica, Write: []string{work}, Dir: work, Vars: vars, Ports: ports,
		Memory: cmp.Or(r.Limits.Memory, mostMemory()), Processes: cmp.Or(r.Limits.Processes, defaultProcesses),
		FileSize: defaultFileSize, OpenFiles: defaultOpenFiles,
	}
	switch {
	case r.Egress:
		p.Network = sandbox.Open
	case len(ports) > 0:
		p.Network = sandbox.Loopback
	}
	for _, path := range slices.Concat([]string{r.Model.Dir, r.Env.Dir}, r.Launch.Reads, argv[1:]) {
		if filepath.IsAbs(path) && exists(path) { // the worker's zipapp is among the arguments
			p.Read = append(p.Read, path)
		}
	}
	return sandbox.Command(context.Background(), p, argv...)
}

// mostMemory is what one replica may take at most: it must not be able to take
// the machine down with it.
func mostMemory() int64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit) / 5 * 4
}

// clearGroup removes what an engine left, and says if want of memory ended it.
func clearGroup(a serving.Assignment) (why string) {
	if sandbox.Starved(a.Replica) {
		limit := cmp.Or(a.Recipe.Limits.Memory, mostMemory())
		why = fmt.Sprintf("out of memory: it may have %d MiB; loadline up --memory allows another amount", limit>>20)
	}
	if err := sandbox.Clean(a.Replica); err != nil {
		slog.Error("clean up after an engine", "replica", a.Replica, "why", err)
	}
	return why
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

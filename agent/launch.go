package agent

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"loadline.dev/loadline/serving"
)

// A Launch is one start of an engine process: what an [Engine] needs to make
// its process, and what the agent must know of it afterwards.
type Launch struct {
	Assignment serving.Assignment

	agent *agent

	mu   sync.Mutex
	cmd  *exec.Cmd // the last that was started
	taps []*tap
	flow sync.WaitGroup // of the taps
}

// A tap carries one stream of a process into the log.
type tap struct {
	cmd         *exec.Cmd
	read, write *os.File
	into        *stream
}

// Command makes the engine's command, confined, with its output going to the
// log. port is what stands for {port} and in PORT; zero when there is none.
// The caller starts it with Spawn and waits for it.
func (l *Launch) Command(port int) (*exec.Cmd, error) {
	recipe := l.Assignment.Recipe.Launch
	fill := strings.NewReplacer("{port}", strconv.Itoa(port), "{dir}", l.agent.Dir)
	argv := make([]string, len(recipe.Argv))
	for i, arg := range recipe.Argv {
		argv[i] = fill.Replace(arg)
	}
	vars := map[string]string{}
	for k, v := range recipe.Vars {
		vars[k] = fill.Replace(v)
	}
	work := filepath.Join(l.agent.Dir, workDir)
	maps.Copy(vars, map[string]string{"HOME": work, "TMPDIR": work})
	var ports []int
	if port != 0 {
		vars["PORT"] = strconv.Itoa(port)
		ports = []int{port}
	}
	cmd, err := l.agent.Options.Command(l.Assignment, argv, vars, ports)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	// A group of its own, so that what the engine forked dies with it.
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid
	out, err := l.tap(cmd, "out")
	if err != nil {
		return nil, err
	}
	errs, err := l.tap(cmd, "err")
	if err != nil {
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, out, errs
	return cmd, nil
}

// tap makes a pipe into the log. The process gets the file itself, so that its
// end is not held up by whoever inherited it.
func (l *Launch) tap(cmd *exec.Cmd, name string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taps = append(l.taps, &tap{cmd, r, w, &stream{log: l.agent.output, name: name}})
	return w, nil
}

// Spawn starts a command of Command so that it dies with the agent.
func (l *Launch) Spawn(cmd *exec.Cmd) error {
	err := l.agent.cradle.spawn(cmd)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.taps {
		if t.cmd != cmd {
			continue
		}
		t.write.Close()
		l.flow.Go(func() {
			_, _ = io.Copy(t.into, t.read)
			t.into.flush()
		})
	}
	if err != nil {
		return err
	}
	l.cmd = cmd
	if err := l.agent.record.set(func(r *serving.Replica) { r.Engine = cmd.Process.Pid }); err != nil {
		l.agent.Log.Error("write state", "why", err)
	}
	return nil
}

// clear ends what the process left behind in its group, and the log's part in it.
func (l *Launch) clear() {
	l.mu.Lock()
	if l.cmd != nil {
		_ = syscall.Kill(-l.cmd.Process.Pid, syscall.SIGKILL)
	}
	taps := l.taps
	l.mu.Unlock()
	// Somebody who left the group may hold a pipe open for ever.
	late := time.AfterFunc(time.Second, func() {
		for _, t := range taps {
			t.read.Close()
		}
	})
	l.flow.Wait()
	late.Stop()
	for _, t := range taps {
		t.read.Close()
		t.write.Close()
	}
}

// exit says how the process ended, after it has.
func (l *Launch) exit() (status syscall.WaitStatus, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cmd == nil || l.cmd.ProcessState == nil {
		return 0, false
	}
	status, known = l.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status, known
}

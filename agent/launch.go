package agent

import (
	"fmt"
	"maps"
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

	// Spawn starts a command of Command so that it dies with the agent.
	Spawn func(*exec.Cmd) error

	dir     string
	command func(a serving.Assignment, argv []string, vars map[string]string, ports []int) (*exec.Cmd, error)
	out     *stream
	err     *stream

	mu  sync.Mutex
	cmd *exec.Cmd // the last that was made
}

// Command makes the engine's command, confined, with its output going to the
// log. port is what stands for {port} and in PORT; zero when there is none.
// The caller starts it with Spawn and waits for it.
func (l *Launch) Command(port int) (*exec.Cmd, error) {
	recipe := l.Assignment.Recipe.Launch
	fill := strings.NewReplacer("{port}", strconv.Itoa(port), "{dir}", l.dir)
	argv := make([]string, len(recipe.Argv))
	for i, arg := range recipe.Argv {
		argv[i] = fill.Replace(arg)
	}
	vars := map[string]string{}
	for k, v := range recipe.Vars {
		vars[k] = fill.Replace(v)
	}
	work := filepath.Join(l.dir, workDir)
	maps.Copy(vars, map[string]string{"HOME": work, "TMPDIR": work})
	var ports []int
	if port != 0 {
		vars["PORT"] = strconv.Itoa(port)
		ports = []int{port}
	}
	cmd, err := l.command(l.Assignment, argv, vars, ports)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, l.out, l.err
	cmd.WaitDelay = 2 * time.Second // a grandchild may hold the pipes open
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	// A group of its own, so that what the engine forked dies with it.
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid
	l.mu.Lock()
	l.cmd = cmd
	l.mu.Unlock()
	return cmd, nil
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

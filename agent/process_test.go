//go:build linux

package agent_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/serving"
)

// spawnAgent starts an agent process and waits for its engine to be ready.
func spawnAgent(t *testing.T) (cmd *exec.Cmd, engine int) {
	t.Helper()
	dir := t.TempDir()
	data, _ := json.Marshal(serving.Assignment{Replica: "r1", Recipe: serving.Recipe{
		Launch: serving.Launch{Protocol: serving.Worker, Argv: []string{"/bin/sh", "-c", "sleep 1000 & wait"}}}})
	if err := os.WriteFile(filepath.Join(dir, "spec.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(self)
	cmd.Env = append(os.Environ(), "AGENT_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, dir: dir}
	return cmd, s.ready().Engine
}

// parent reads from /proc whose child a process is; 0 once it is gone.
func parent(pid int) int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	found, zombie := 0, false
	for s := bufio.NewScanner(f); s.Scan(); {
		fmt.Sscanf(s.Text(), "PPid:\t%d", &found)
		zombie = zombie || strings.HasPrefix(s.Text(), "State:\tZ")
	}
	if zombie {
		return 0
	}
	return found
}

// (Its children are no business of the death signal: the platform clears the
// replica's group when it finds the agent dead.)
func TestEngineDiesWithItsAgent(t *testing.T) {
	cmd, engine := spawnAgent(t)
	defer syscall.Kill(-engine, syscall.SIGKILL)
	if got := parent(engine); got != cmd.Process.Pid {
		t.Errorf("the engine's parent is %d, not the agent", got)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for end := time.Now().Add(5 * time.Second); parent(engine) != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			syscall.Kill(engine, syscall.SIGKILL)
			t.Fatal("the engine outlives its agent")
		}
	}
}

func TestTerminatedAgentDrainsAndExitsWell(t *testing.T) {
	cmd, engine := spawnAgent(t)
	group, err := syscall.Getpgid(engine)
	if err != nil || group != engine {
		t.Errorf("the engine is in group %d, %v; want one of its own", group, err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	for end := time.Now().Add(5 * time.Second); !errors.Is(syscall.Kill(-engine, 0), syscall.ESRCH); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("something of the engine's group lives on")
		}
	}
}

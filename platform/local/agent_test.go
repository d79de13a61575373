package local

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/serving"
)

// The test binary is also the agent and the supervisor of its tests.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case "be-agent":
			beAgent(os.Args[2])
			return
		case "be-supervisor":
			beSupervisor(os.Args[2])
			return
		}
	}
	os.Exit(m.Run())
}

// beAgent does what a recipe's Engine says: behave, crash, give up, linger when
// told to leave, or have a child of its own.
func beAgent(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, specName))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var a serving.Assignment
	if err := json.Unmarshal(text, &a); err != nil {
		os.Exit(1)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	say := func(s serving.State, why string) {
		r := serving.Replica{ID: a.Replica, Revision: a.Revision, State: s, PID: os.Getpid(), Why: why,
			Addr: filepath.Join(dir, socketName), Started: time.Now(), Since: time.Now()}
		if err := writeJSON(filepath.Join(dir, stateName), r); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.WriteFile(filepath.Join(dir, engineLog), []byte("engine of "+a.Replica+" speaks\n"), 0o600)
	switch a.Recipe.Engine {
	case "crash":
		fmt.Fprintln(os.Stderr, "Traceback")
		fmt.Fprintln(os.Stderr, "ImportError: no module named nothing")
		os.Exit(1)
	case "give-up":
		say(serving.Failed, "ValueError: bad pickle")
		return
	case "with-child":
		child := exec.Command("sleep", "1000")
		if err := child.Start(); err != nil {
			os.Exit(1)
		}
		os.WriteFile(filepath.Join(dir, "child"), fmt.Append(nil, child.Process.Pid), 0o600)
	case "secretive":
		os.WriteFile(filepath.Join(dir, "vars"), fmt.Append(nil, os.Environ()), 0o600)
	}
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		os.Exit(1)
	}
	defer l.Close()
	say(serving.Starting, "")
	say(serving.Ready, "")
	<-told
	if a.Recipe.Engine == "stubborn" {
		<-make(chan int)
	}
	say(serving.Draining, "")
}

// beSupervisor runs two replicas in a data folder until it is killed.
func beSupervisor(dir string) {
	p, err := New(Config{Dir: dir, Agent: agentCommand(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, digest := range []string{"kept", "dying"} {
		rev := serving.Revision{Endpoint: "e1", Digest: digest}
		if err := p.Apply(context.Background(), rev, assignment(rev, "with-child"), 1); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	for {
		all, _ := p.Replicas(context.Background(), "")
		ready := 0
		for _, r := range all {
			if r.State == serving.Ready {
				ready++
			}
		}
		if ready == 2 {
			fmt.Println("ready")
			select {}
		}
		time.Sleep(lookOften)
	}
}

func agentCommand() []string { return []string{os.Args[0], "be-agent"} }

func assignment(rev serving.Revision, engine string) serving.Assignment {
	return serving.Assignment{Endpoint: "iris", Entity: "m", Revision: rev,
		Recipe: serving.Recipe{Digest: rev.Digest, Engine: engine, Limits: serving.Limits{Request: time.Second}}}
}

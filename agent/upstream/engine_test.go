package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/agent"
)

// playEngine is what the test binary does when it is started as an engine.
func playEngine(mode string) {
	switch mode {
	case "exit":
		os.Exit(3)
	case "deaf": // listens nowhere, and on SIGTERM goes on
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Hour)
	case "late":
		time.Sleep(150 * time.Millisecond)
	}
	begun := time.Now()
	err := http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/health":
			fmt.Fprint(w, r.Method, " ", r.URL)
		case mode == "sick", time.Since(begun) < 100*time.Millisecond:
			w.WriteHeader(503)
		}
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func start(t *testing.T, mode string, limit time.Duration) (*Engine, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{Raw: true, Health: "/health", Command: func(port int) (*exec.Cmd, error) {
		cmd := exec.Command(self)
		cmd.Env = []string{"UPSTREAM_TEST_ENGINE=" + mode, "PORT=" + strconv.Itoa(port)}
		return cmd, nil
	}})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err = e.Start(ctx)
	t.Cleanup(func() { e.Stop(0) })
	return e, err
}

func TestEngineIsReadyOnceItIsHealthy(t *testing.T) {
	e, err := start(t, "late", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	w := &recorder{}
	err = e.Do(t.Context(), &agent.Request{Method: "PUT", Path: "/any/path?q", Body: strings.NewReader("")}, w)
	if got := w.body.String(); err != nil || w.status != 200 || got != "PUT /any/path?q" {
		t.Errorf("got %d %q, %v", w.status, got, err)
	}
	pid := e.PID()
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("PID %d: %v", pid, err)
	}
	e.Stop(time.Second)
	<-e.Done()
	if e.PID() != 0 || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		t.Error("it lives on")
	}
}

func TestEngineThatDoesNotGetReadySaysWhatWasSeen(t *testing.T) {
	for mode, want := range map[string]string{
		"deaf": "nothing listens on 127.0.0.1:",
		"sick": "GET /health answers 503",
		"exit": "the engine ended before it was healthy",
	} {
		t.Run(mode, func(t *testing.T) {
			limit := 700 * time.Millisecond
			if mode == "sick" { // which must get as far as listening
				limit = 3 * time.Second
			}
			e, err := start(t, mode, limit)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			<-e.Done()
		})
	}
}

func TestStubbornEngineIsKilledAfterItsGrace(t *testing.T) {
	e, err := start(t, "sound", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(e.PID(), syscall.SIGSTOP) // does not even see the signal
	begun := time.Now()
	e.Stop(100 * time.Millisecond)
	if took := time.Since(begun); took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("stopped after %v", took)
	}
}

// A port that somebody took between the choice and the engine's start is
// exchanged for another.
func TestTakenPortIsExchanged(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var thief net.Listener
	tries := 0
	e := New(Config{Raw: true, Health: "/health", Command: func(port int) (*exec.Cmd, error) {
		if tries++; tries == 1 {
			if thief, err = net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
				return nil, err
			}
		}
		cmd := exec.Command(self)
		cmd.Env = []string{"UPSTREAM_TEST_ENGINE=sound", "PORT=" + strconv.Itoa(port)}
		return cmd, nil
	}})
	if err := e.Start(t.Context()); err != nil {
		t.Error(err)
	}
	if tries != 2 {
		t.Errorf("%d tries, want 2", tries)
	}
	e.Stop(0)
	<-e.Done()
	thief.Close()
}

func TestReservedPortIsNobodyElses(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		p, err := reserve()
		if err != nil {
			t.Fatal(err)
		}
		defer p.release()
		if seen[p.number] {
			t.Errorf("port %d was given twice", p.number)
		}
		seen[p.number] = true
	}
}

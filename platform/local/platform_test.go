package local

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/platform/platformtest"
	"loadline.dev/loadline/serving"
)

const patience = 20 * time.Second

// dataDir is short: a socket's path has to fit.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ll")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(t *testing.T, dir string) *Platform {
	t.Helper()
	p, err := New(Config{Dir: dir, Agent: agentCommand(), Log: slog.New(slog.DiscardHandler),
		Vars: map[string]string{"GORACE": "atexit_sleep_ms=0"}}) // agents built with -race would take a second to end
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(time.Second) })
	return p
}

func apply(t *testing.T, p *Platform, digest, engine string, size int) {
	t.Helper()
	rev := serving.Revision{Endpoint: "e1", Digest: digest}
	if err := p.Apply(t.Context(), rev, assignment(rev, engine), size); err != nil {
		t.Fatal(err)
	}
}

// until waits for what is seen of endpoint e1 to be enough.
func until(t *testing.T, p *Platform, what string, enough func([]serving.Replica) bool) []serving.Replica {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	news := p.Changes(ctx)
	for {
		all, err := p.Replicas(ctx, "e1")
		if err != nil {
			t.Fatal(err)
		}
		if enough(all) {
			return all
		}
		if _, open := <-news; !open {
			t.Fatalf("not %s within %v: %+v", what, patience, all)
		}
	}
}

func ready(n int) func([]serving.Replica) bool {
	return func(all []serving.Replica) bool {
		return len(all) == n && !slices.ContainsFunc(all, func(r serving.Replica) bool { return r.State != serving.Ready })
	}
}

func TestPlatformPasses(t *testing.T) {
	t.Parallel()
	platformtest.Run(t, func(t *testing.T) platformtest.Bench {
		return platformtest.Bench{Platform: open(t, dataDir(t)), Patience: patience,
			Recipe: func(digest string) serving.Recipe { return serving.Recipe{Digest: digest, Engine: "good"} },
			Kill: func(t *testing.T, r serving.Replica) {
				if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}}
	})
}

func TestCrashingAgentIsRetriedEverLaterAndSaysWhy(t *testing.T) {
	t.Parallel()
	p := open(t, dataDir(t))
	apply(t, p, "d", "crash", 1)
	all := until(t, p, "died twice", func(all []serving.Replica) bool { return len(all) == 1 && all[0].Restarts == 2 })
	if all[0].State != serving.Backoff || !strings.HasSuffix(all[0].Why, "ImportError: no module named nothing") {
		t.Errorf("seen is %+v", all[0])
	}
	p.mu.Lock()
	for _, g := range p.groups {
		if wait := time.Until(g.retryAt); wait < time.Second || wait > 2*time.Second {
			t.Errorf("after two deaths the next start is in %v, want about 2 s", wait)
		}
	}
	p.mu.Unlock()
	for failures, want := range map[int]time.Duration{0: 0, 1: time.Second, 3: 4 * time.Second, 7: time.Minute, 1000: time.Minute} {
		if got := backoff(failures); got != want {
			t.Errorf("back-off after %d failures is %v, want %v", failures, got, want)
		}
	}
}

func TestReplicaThatGaveUpIsFailedWithItsReason(t *testing.T) {
	p := open(t, dataDir(t))
	apply(t, p, "d", "give-up", 1)
	all := until(t, p, "failed", func(all []serving.Replica) bool { return len(all) == 1 && all[0].State == serving.Failed })
	if all[0].Why != "ValueError: bad pickle" {
		t.Errorf("seen is %+v", all[0])
	}
	apply(t, p, "d", "", 0)
	until(t, p, "gone", func(all []serving.Replica) bool { return len(all) == 0 })
	log, err := p.Logs(t.Context(), control.LogQuery{EndpointID: "e1", Entity: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(log); !strings.Contains(string(text), "speaks") {
		t.Errorf("of the replica that is gone the log is %q", text)
	}
}

func TestStubbornReplicaIsKilledAfterItsLongestRequest(t *testing.T) {
	t.Parallel()
	p := open(t, dataDir(t))
	apply(t, p, "d", "stubborn", 1)
	all := until(t, p, "ready", ready(1))
	began := time.Now()
	apply(t, p, "d", "", 0)
	until(t, p, "gone", func(all []serving.Replica) bool { return len(all) == 0 })
	if took := time.Since(began); took < time.Second+drainMargin {
		t.Errorf("it was killed after %v", took)
	}
	if err := syscall.Kill(all[0].PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("its process: %v", err)
	}
}

func TestReplicasFolderIsItsOwnAndItsSecretsStayOut(t *testing.T) {
	t.Setenv("LOADLINE_TOKEN", "secret")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	dir := dataDir(t)
	p := open(t, dir)
	apply(t, p, "d", "secretive", 1)
	all := until(t, p, "ready", ready(1))
	folder := filepath.Join(dir, "replicas", all[0].ID)
	for _, path := range []string{folder, filepath.Join(folder, "work"), filepath.Join(dir, "replicas")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v, want 0700", path, info, err)
		}
	}
	if vars := string(read(t, filepath.Join(folder, "vars"))); strings.Contains(vars, "secret") {
		t.Errorf("the agent inherited %s", vars)
	}
	if session, err := unix.Getsid(all[0].PID); err != nil || session != all[0].PID {
		t.Errorf("the agent is in session %d, %v, want one of its own", session, err)
	}
}

func TestStopEndsEveryReplicaAndReleaseNone(t *testing.T) {
	dir := dataDir(t)
	p := open(t, dir)
	apply(t, p, "d", "with-child", 2)
	all := until(t, p, "ready", ready(2))
	p.Release()
	for _, r := range all {
		if _, err := birthOf(r.PID); err != nil {
			t.Fatalf("replica %s ended with its supervision: %v", r.ID, err)
		}
	}
	children := []int{childOf(t, dir, all[0]), childOf(t, dir, all[1])}
	again := open(t, dir)
	if seen := until(t, again, "ready", ready(2)); seen[0].PID != all[0].PID || seen[0].ID != all[0].ID {
		t.Errorf("adopted are %+v, want %+v", seen, all)
	}
	again.Stop(patience)
	for _, pid := range append(children, all[0].PID, all[1].PID) {
		awaitDeath(t, pid)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "replicas")); len(left) > 0 {
		t.Errorf("folders are left: %v", left)
	}
}

func childOf(t *testing.T, dir string, r serving.Replica) int {
	t.Helper()
	pid, err := strconv.Atoi(string(read(t, filepath.Join(dir, "replicas", r.ID, "child"))))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// awaitDeath waits for a process that is not ours to be reaped.
func awaitDeath(t *testing.T, pid int) {
	t.Helper()
	end, err := newStopper()
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, end.stop)
	defer timer.Stop()
	if !awaitExit(pid, end) {
		t.Errorf("process %d is still there", pid)
	}
}

// The supervisor is killed; while nobody supervises, one replica dies too. The
// next supervisor adopts the other with its pid, and replaces the dead one.
func TestKilledSupervisorsReplicasAreAdopted(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	up := exec.Command(os.Args[0], "be-supervisor", dir)
	out, err := up.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the supervisor says %q, %v", line, err)
	}
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	up.Wait()

	pids := map[string]int{}
	folders, _ := filepath.Glob(filepath.Join(dir, "replicas", "*"))
	var orphan int
	for _, folder := range folders {
		var a serving.Assignment
		var was record
		if err := errors.Join(readJSON(filepath.Join(folder, specName), &a), readJSON(filepath.Join(folder, processName), &was)); err != nil {
			t.Fatal(err)
		}
		if pids[a.Revision.Digest] = was.PID; a.Revision.Digest == "dying" {
			orphan = childOf(t, dir, serving.Replica{ID: filepath.Base(folder)})
		}
	}
	if err := syscall.Kill(pids["dying"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitDeath(t, pids["dying"])

	p := open(t, dir)
	all, err := p.Replicas(t.Context(), "e1")
	if err != nil || len(all) != 1 || all[0].State != serving.Ready || all[0].PID != pids["kept"] {
		t.Fatalf("adopted are %+v, %v, want pid %d ready at once", all, err, pids["kept"])
	}
	awaitDeath(t, orphan)
	apply(t, p, "kept", "with-child", 1)
	apply(t, p, "dying", "good", 1)
	all = until(t, p, "ready", ready(2))
	if !slices.ContainsFunc(all, func(r serving.Replica) bool { return r.PID == pids["kept"] }) {
		t.Errorf("the adopted replica was restarted: %+v", all)
	}
	if err := syscall.Kill(pids["kept"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, p, "replaced", func(all []serving.Replica) bool {
		return ready(2)(all) && !slices.ContainsFunc(all, func(r serving.Replica) bool { return r.PID == pids["kept"] })
	})
}

// A number that another process has by now is not taken for the replica.
func TestStrangerWithTheSameNumberIsNotAdoptedOrHarmed(t *testing.T) {
	dir := dataDir(t)
	stranger := exec.Command("sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stranger.Process.Kill(); stranger.Wait() })
	folder := filepath.Join(dir, "replicas", "0123456789")
	rev := serving.Revision{Endpoint: "e1", Digest: "d"}
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writeFolder(folder, assignment(rev, "good")),
		writeJSON(filepath.Join(folder, processName), record{stranger.Process.Pid, "earlier", time.Now()})); err != nil {
		t.Fatal(err)
	}
	p := open(t, dir)
	if all, err := p.Replicas(t.Context(), ""); err != nil || len(all) > 0 {
		t.Errorf("adopted are %+v, %v", all, err)
	}
	if _, err := birthOf(stranger.Process.Pid); err != nil {
		t.Errorf("the stranger was harmed: %v", err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}

// An agent whose supervisor was killed before it could record it is found by
// its folder.
func TestUnrecordedAgentIsReaped(t *testing.T) {
	dir := dataDir(t)
	folder := filepath.Join(dir, "replicas", "0123456789")
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFolder(folder, assignment(serving.Revision{Endpoint: "e1", Digest: "d"}, "good")); err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(os.Args[0], "be-agent", folder)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if err := agent.Wait(); err == nil {
		t.Error("the agent ended by itself")
	}
}

func TestLogsAreFollowedAcrossReplicas(t *testing.T) {
	p := open(t, dataDir(t))
	apply(t, p, "d", "good", 1)
	first := until(t, p, "ready", ready(1))[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, err := p.Logs(ctx, control.LogQuery{EndpointID: "e1", Entity: "m", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	hear := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("the log ended before %q", want)
	}
	hear("engine of " + first.ID + " speaks")
	syscall.Kill(first.PID, syscall.SIGKILL)
	second := until(t, p, "replaced", func(all []serving.Replica) bool { return ready(1)(all) && all[0].ID != first.ID })[0]
	hear("engine of " + second.ID + " speaks")
	cancel()
	for lines.Scan() { // it ends
	}
	if _, err := p.Logs(t.Context(), control.LogQuery{EndpointID: "../..", Entity: "*"}); !errors.Is(err, serving.NotFound) {
		t.Errorf("logs of a pattern: %v", err)
	}
}

func TestDataFolderWithTooLongAPathIsRefused(t *testing.T) {
	_, err := New(Config{Dir: "/tmp/" + strings.Repeat("x", 100), Agent: agentCommand(), Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, serving.Invalid) || serving.FixOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

// A session's number alone condemns nobody: only processes whose variables name
// the replica's folder are what an engine left behind.
func TestOnlyWhatNamesTheFolderIsEndedWithASession(t *testing.T) {
	leader := exec.Command("/bin/sh", "-c", `LOADLINE_REPLICA=/data/replicas/mine sh -c 'echo mine $$; exec sleep 1000' &
		sh -c 'echo other $$; exec sleep 1000' & wait; wait`)
	leader.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := leader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	pids := map[string]int{}
	for lines := bufio.NewScanner(out); len(pids) < 2 && lines.Scan(); {
		whose, number, _ := strings.Cut(lines.Text(), " ")
		if pids[whose], err = strconv.Atoi(number); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		leader.Process.Kill()
		leader.Wait()
	})
	birth, err := birthOf(leader.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	killSession(leader.Process.Pid, birth, "/data/replicas/mine")
	awaitDeath(t, pids["mine"])
	if _, err := birthOf(pids["other"]); err != nil {
		t.Errorf("a bystander of the session was ended: %v", err)
	}
}

package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/serving"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

// A cell is a sandbox to try: its own folder, and a neighbour's beside it.
type cell struct {
	own, other string
	policy     sandbox.Policy
	python     string
}

func newCell(t *testing.T) cell {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := cell{own: filepath.Join(dir, "own"), other: filepath.Join(dir, "other"), python: findPython(t)}
	for _, d := range []string{c.own, c.other} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.other, "token"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.policy = sandbox.Policy{
		Write: []string{c.own}, Dir: c.own,
		Vars: map[string]string{"HOME": c.own, "TMPDIR": c.own, "PATH": "/usr/bin:/bin", "OTHER": c.other},
	}
	return c
}

func findPython(t *testing.T) string {
	t.Helper()
	python := os.Getenv("LOADLINE_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	out, err := exec.Command(python, "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Fatalf("these tests need a python3: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// run returns what argv printed, and how it ended.
func (c cell) run(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	if strings.HasSuffix(argv[0], "python") || argv[0] == c.python {
		c.policy.Read = append(c.policy.Read, filepath.Dir(filepath.Dir(c.python)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, err := sandbox.Command(ctx, c.policy, argv...)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%v did not end: %s", argv, out.String())
	}
	return out.String(), err
}

func (c cell) sh(t *testing.T, script string) (string, error) {
	t.Helper()
	return c.run(t, "/bin/sh", "-c", script)
}

func (c cell) py(t *testing.T, script string) (string, error) {
	t.Helper()
	return c.run(t, c.python, "-c", script)
}

func needs(t *testing.T, held sandbox.Hold) {
	t.Helper()
	if !held.Held {
		t.Skipf("this machine does not hold it: %s", held.Why)
	}
}

// needsSignals is needs for signals alone, which hold without a bound on the
// number of processes.
func needsSignals(t *testing.T) {
	t.Helper()
	if held := sandbox.Probe().Processes; !strings.HasPrefix(held.Why, "signals are held in") {
		needs(t, held)
	}
}

func TestOwnFolderIsWritable(t *testing.T) {
	c := newCell(t)
	out, err := c.sh(t, `mkdir -p a/b && echo hello > a/b/f && mv a/b/f a/f && cat a/f && ls a && rm a/f; echo x > /dev/null; pwd`)
	if err != nil || out != "hello\nb\nf\n"+c.own+"\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestPythonWorks(t *testing.T) {
	c := newCell(t)
	out, err := c.py(t, `
import ssl, ctypes, hashlib, subprocess, threading, tempfile, socket, os, json, sqlite3, asyncio, multiprocessing.connection
a, b = socket.socketpair(); a.sendall(b"hi"); assert b.recv(2) == b"hi"
t = threading.Thread(target=lambda: None); t.start(); t.join()
assert subprocess.run(["/bin/echo", "x"], capture_output=True).stdout == b"x\n"
with tempfile.NamedTemporaryFile() as f: f.write(b"x")
asyncio.run(asyncio.sleep(0))
assert os.cpu_count() and open("/proc/self/status").read() and os.path.expanduser("~")
os.kill(os.getpid(), 0)
print("fine")`)
	if err != nil || out != "fine\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestFilesElsewhereAreOutOfReach(t *testing.T) {
	needs(t, sandbox.Probe().Files)
	c := newCell(t)
	for name, script := range map[string]string{
		"write beside":          `open(os.environ["OTHER"] + "/x", "w")`,
		"write in /tmp":         `open("/tmp/loadline-sandbox-test", "w")`,
		"write in /usr":         `open("/usr/loadline-sandbox-test", "w")`,
		"make a folder":         `os.mkdir(os.environ["OTHER"] + "/d")`,
		"read the neighbour":    `open(os.environ["OTHER"] + "/token").read()`,
		"list the neighbour":    `os.listdir(os.environ["OTHER"])`,
		"remove the neighbour":  `os.remove(os.environ["OTHER"] + "/token")`,
		"cut the neighbour":     `os.truncate(os.environ["OTHER"] + "/token", 0)`,
		"move the neighbour":    `os.rename(os.environ["OTHER"] + "/token", "t")`,
		"link the neighbour":    `os.link(os.environ["OTHER"] + "/token", "t")`,
		"through a symlink":     `os.symlink(os.environ["OTHER"], "s"); open("s/token")`,
		"read /etc/shadow":      `open("/etc/shadow").read()`,
		"another's environment": `open(f"/proc/{os.getppid()}/environ").read()`,
		"another's memory":      `open(f"/proc/{os.getppid()}/mem", "rb").read(1)`,
		"another's files":       `os.readlink(f"/proc/{os.getppid()}/fd/0")`,
		"kernel settings":       `open("/proc/sys/kernel/hostname", "w").write("x")`,
		"control groups":        `open("/sys/fs/cgroup/cgroup.procs", "w")`,
		"the disk":              `os.mknod("dev", 0o600 | stat.S_IFBLK, os.makedev(8, 0)); open("dev")`,
		"another root":          `os.chroot(".")`,
	} {
		t.Run(name, func(t *testing.T) {
			out, err := c.py(t, "import os, stat\n"+
				"try:\n    "+script+"\n    print('reached')\n"+
				"except OSError as e: print('refused', e.errno)")
			if err != nil || !strings.HasPrefix(out, "refused") {
				t.Errorf("got %q, %v", out, err)
			}
		})
	}
	if data, err := os.ReadFile(filepath.Join(c.other, "token")); err != nil || string(data) != "secret" {
		t.Errorf("the neighbour's token is now %q, %v", data, err)
	}
}

// Where the machine lets us, shared memory works and is the process's own;
// elsewhere it is out of reach.
func TestSharedMemoryIsPrivate(t *testing.T) {
	needs(t, sandbox.Probe().Files)
	const name = "/dev/shm/loadline-sandbox-test"
	if err := os.WriteFile(name, []byte("outside"), 0o666); err != nil {
		t.Skip("no shared memory here")
	}
	defer os.Remove(name)
	c := newCell(t)
	out, err := c.py(t, `
import multiprocessing, os
print(os.listdir("/dev/shm") if os.access("/dev/shm", os.R_OK) else [])
open("`+name+`", "w").write("inside")
with multiprocessing.Lock(): print("locked")`)
	if worked := err == nil && out == "[]\nlocked\n"; !worked && !strings.Contains(out, "PermissionError") {
		t.Errorf("got %q, %v", out, err)
	}
	if data, err := os.ReadFile(name); err != nil || string(data) != "outside" {
		t.Errorf("outside it is now %q, %v", data, err)
	}
	t.Logf("%q", out)
}

func TestWhatMayBeReadMayNotBeWritten(t *testing.T) {
	needs(t, sandbox.Probe().Files)
	c := newCell(t)
	c.policy.Read = []string{c.other}
	out, err := c.sh(t, `cat $OTHER/token; echo no > $OTHER/token || echo refused`)
	if err != nil || !strings.HasPrefix(out, "secret") || !strings.HasSuffix(out, "refused\n") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestNothingOutsideIsSignalled(t *testing.T) {
	needsSignals(t)
	c := newCell(t)
	out, err := c.py(t, `
import os, signal
for pid in (os.getppid(), 1, -1):
    try:
        os.kill(pid, 0)
        print("reached", pid)
    except OSError as e: print("refused")`)
	// To -1 goes what may be signalled, which is the process itself: the call succeeds or finds nobody.
	if err != nil || !strings.HasPrefix(out, "refused\nrefused\n") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestKillingEverybodyReachesNobodyElse(t *testing.T) {
	needsSignals(t)
	bystander := exec.Command("/bin/sleep", "60")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = bystander.Process.Kill()
		_ = bystander.Wait()
	}()
	c := newCell(t)
	c.policy.Vars["VICTIM"] = fmt.Sprint(bystander.Process.Pid)
	out, _ := c.sh(t, `kill -9 $VICTIM $PPID; echo still here`)
	if !strings.Contains(out, "still here") {
		t.Errorf("got %q", out)
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a bystander was killed: %v", err)
	}
}

func TestNoNetworkIsNone(t *testing.T) {
	needs(t, sandbox.Probe().Network)
	c := newCell(t)
	refused := networkTries(t, c)
	if want := "tcp udp v6 raw netlink packet vsock alg mptcp unixgram connect"; refused != want {
		t.Errorf("refused: %s; want %s", refused, want)
	}
}

// networkTries lists which ways out are refused.
func networkTries(t *testing.T, c cell) string {
	t.Helper()
	outside, err := net.Listen("unix", filepath.Join(c.other, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	out, err := c.py(t, `
import os
from socket import *
def connect():
    s = socket(AF_UNIX); s.connect(os.environ["OTHER"] + "/s")
tries = {
    "tcp": lambda: socket(AF_INET, SOCK_STREAM), "udp": lambda: socket(AF_INET, SOCK_DGRAM), "v6": lambda: socket(AF_INET6, SOCK_STREAM),
    "raw": lambda: socket(AF_INET, SOCK_RAW, 1), "netlink": lambda: socket(16, SOCK_RAW), "packet": lambda: socket(17, SOCK_RAW),
    "vsock": lambda: socket(40, SOCK_STREAM), "alg": lambda: socket(38, SOCK_SEQPACKET), "mptcp": lambda: socket(AF_INET, SOCK_STREAM, 262),
    "unixgram": lambda: socket(AF_UNIX, SOCK_DGRAM), "connect": connect,
}
refused = []
for name, try_ in tries.items():
    try: try_()
    except OSError as e: refused.append(name)
print(*refused)`)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(out)
}

func TestLoopbackListensOnItsPortsOnly(t *testing.T) {
	needs(t, sandbox.Probe().Network)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	taken := free.Addr().(*net.TCPAddr).Port
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := second.Addr().(*net.TCPAddr).Port
	second.Close()

	c := newCell(t)
	c.policy.Network, c.policy.Ports = sandbox.Loopback, []int{port}
	c.policy.Vars["OURS"], c.policy.Vars["THEIRS"] = fmt.Sprint(port), fmt.Sprint(taken)
	out, err := c.py(t, `
import os
from socket import *
ours, theirs = int(os.environ["OURS"]), int(os.environ["THEIRS"])
def listen(port):
    s = socket(AF_INET, SOCK_STREAM); s.bind(("127.0.0.1", port)); s.listen()
def fast():
    socket(AF_INET, SOCK_STREAM).sendto(b"x", 0x20000000, ("127.0.0.1", theirs))
for name, f in {"ours": lambda: listen(ours), "any": lambda: listen(0), "other": lambda: listen(theirs + 1 if theirs + 1 != ours else theirs + 2),
        "connect": lambda: create_connection(("127.0.0.1", theirs)), "fast": fast}.items():
    try:
        f(); print(name, "yes")
    except PermissionError: print(name, "no")`)
	if want := "ours yes\nany no\nother no\nconnect no\nfast no\n"; err != nil || out != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
	if refused := networkTries(t, c); refused != "udp raw netlink packet vsock alg mptcp unixgram connect" {
		t.Errorf("refused: %s", refused)
	}
}

func TestOpenNetworkConnects(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := newCell(t)
	c.policy.Network = sandbox.Open
	c.policy.Vars["PORT"] = fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	out, err := c.py(t, `import os, socket; socket.create_connection(("localhost", int(os.environ["PORT"]))); socket.socket(socket.AF_INET, socket.SOCK_DGRAM); print("in")`)
	if err != nil || out != "in\n" {
		t.Errorf("got %q, %v", out, err)
	}
	// Other replicas' agents listen on Unix sockets: a pair of one's own is all there is.
	out, err = c.py(t, `import socket
a, b = socket.socketpair(); a.send(b"x"); print(b.recv(1).decode())
try: socket.socket(socket.AF_UNIX); print("made")
except OSError: print("refused")`)
	if err != nil || out != "x\nrefused\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	c := newCell(t)
	c.policy.Name, c.policy.Memory = "test-memory-"+fmt.Sprint(os.Getpid()), 128<<20
	defer clean(t, c.policy.Name)
	out, err := c.py(t, `b = bytearray(32 << 20); print("little"); import sys; sys.stdout.flush(); b = bytearray(1 << 30); print("much")`)
	if err == nil || !strings.HasPrefix(out, "little\n") || strings.Contains(out, "much") {
		t.Errorf("got %q, %v", out, err)
	}
	if sandbox.Probe().Memory.Held && !sandbox.Starved(c.policy.Name) {
		t.Error("that it ran out of memory cannot be told")
	}
}

func TestWhoHadMemoryEnoughIsNotCalledStarved(t *testing.T) {
	c := newCell(t)
	c.policy.Name, c.policy.Memory = "test-enough-"+fmt.Sprint(os.Getpid()), 128<<20
	defer clean(t, c.policy.Name)
	if out, err := c.sh(t, "kill -9 $$"); err == nil || sandbox.Starved(c.policy.Name) {
		t.Errorf("got %q, %v", out, err)
	}
	if sandbox.Starved("nobody-of-that-name") || sandbox.Starved("../x") {
		t.Error("strangers are called starved")
	}
}

func TestProcessesAreBounded(t *testing.T) {
	needs(t, sandbox.Probe().Processes)
	c := newCell(t)
	c.policy.Name, c.policy.Processes = "test-pids-"+fmt.Sprint(os.Getpid()), 20
	defer clean(t, c.policy.Name)
	out, err := c.py(t, `
import os, time
n = 0
try:
    while n < 200:
        if os.fork() == 0:
            os.close(1); os.close(2); time.sleep(60); os._exit(0)
        n += 1
except BlockingIOError: pass
print(n < 20, flush=True)
os._exit(0)`)
	if err != nil || out != "True\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// clean also proves that what was left running is ended.
func clean(t *testing.T, name string) {
	t.Helper()
	if err := sandbox.Clean(name); err != nil {
		t.Error(err)
	}
	left, _ := filepath.Glob("/sys/fs/cgroup/*/loadline/" + name)
	if deeper, _ := filepath.Glob("/sys/fs/cgroup/*/*/*/loadline/" + name); len(left)+len(deeper) > 0 {
		t.Errorf("control groups are left: %v %v", left, deeper)
	}
}

func TestFilesAreBounded(t *testing.T) {
	c := newCell(t)
	c.policy.FileSize, c.policy.OpenFiles = 1<<20, 32
	out, err := c.py(t, `
import resource
try:
    with open("big", "wb") as f: f.write(bytes(2 << 20))
except OSError as e: print("large refused")
try:
    keep = [open("/dev/null") for _ in range(100)]
except OSError as e: print("many refused")
try: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
except ValueError: print("more refused")
print(resource.getrlimit(resource.RLIMIT_CORE))`)
	if want := "large refused\nmany refused\nmore refused\n(0, 0)\n"; err != nil || out != want {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestPrivilegesAreGone(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("capabilities are Linux's")
	}
	c := newCell(t)
	out, err := c.sh(t, `grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t\n'`)
	if err != nil || !strings.HasPrefix(out, "CapPrm:0000000000000000CapEff:0000000000000000") || !strings.Contains(out, "NoNewPrivs:1Seccomp:2") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestEnvironmentIsOnlyTheWanted(t *testing.T) {
	t.Setenv("SECRET_OF_THE_SERVER", "x")
	c := newCell(t)
	c.policy.Vars = map[string]string{"A": "1=2", "B": ""}
	out, err := c.run(t, "/usr/bin/env")
	if err != nil || out != "A=1=2\nB=\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestInheritedFilesArrive(t *testing.T) {
	c := newCell(t)
	cmd, err := sandbox.Command(t.Context(), c.policy, "/bin/sh", "-c", "echo through >&3")
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	buf := make([]byte, 20)
	if n, _ := r.Read(buf); string(buf[:n]) != "through\n" {
		t.Errorf("got %q", buf[:n])
	}
}

// The launcher changes credentials on its way, which may clear a death signal.
func TestDeathSignalSurvivesTheLauncher(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("death signals are Linux's")
	}
	c := newCell(t)
	cmd, err := sandbox.Command(t.Context(), c.policy, "/bin/sh", "-c", "echo up; exec sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	withDeathSignal(cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started, release, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		onThreadThatEnds(func() {
			started <- cmd.Start()
			<-release
		})
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	close(release)
	<-ended
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the process outlived its thread: %v", err)
	}
}

func TestAMissingProgramSaysSo(t *testing.T) {
	c := newCell(t)
	out, err := c.run(t, "/usr/bin/no-such-program")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 126 || !strings.Contains(out, "start /usr/bin/no-such-program") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestBadPoliciesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		policy sandbox.Policy
		argv   []string
	}{
		"no program":       {},
		"relative program": {argv: []string{"sh"}},
		"relative path":    {policy: sandbox.Policy{Read: []string{"x"}}, argv: []string{"/bin/sh"}},
		"no name":          {policy: sandbox.Policy{Memory: 1}, argv: []string{"/bin/sh"}},
		"name climbs":      {policy: sandbox.Policy{Memory: 1, Name: "../x"}, argv: []string{"/bin/sh"}},
	} {
		if _, err := sandbox.Command(t.Context(), c.policy, c.argv...); !errors.Is(err, serving.Invalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAnAgedKernelIsSaid(t *testing.T) {
	for name, hold := range map[string]sandbox.Hold{"files": sandbox.Probe().Files, "network": sandbox.Probe().Network,
		"processes": sandbox.Probe().Processes, "memory": sandbox.Probe().Memory} {
		if !hold.Held && hold.Why == "" {
			t.Errorf("%s is not held, and nothing says why", name)
		}
		t.Logf("%s: %+v", name, hold)
	}
}

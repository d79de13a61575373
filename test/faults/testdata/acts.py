"""What a bad model does, by name. Each act says what became of it, so that a
test can read from the model's own answer what was refused. Standard library
only: it runs inside MLflow models and inside engines of a few lines."""

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time


def act(order):
    """order is {"do": NAME, …}; what comes back is JSON."""
    return ACTS[order["do"]](order)


def outcome(attempt):
    try:
        got = attempt()
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))
    except ValueError as e:  # resource's word for EPERM
        return str(e)
    return "did it: %r" % (got,)


def write(path):
    with open(path, "a") as f:
        f.write("here I was")
    return path


def read(path):
    if os.path.isdir(path):
        return os.listdir(path)
    with open(path, "rb") as f:
        return f.read(64)


def connect(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(3)
        s.connect(address if isinstance(address, str) else tuple(address))
        return address


def send(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return s.sendto(b"x", tuple(address))


def listen(address):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(tuple(address))
        s.listen()
        return address


def kill(pid, number):
    os.kill(pid, number)
    return pid


def trace(pid):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) != 0:  # PTRACE_ATTACH
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return pid


def escape(order):
    """Tries every way out; the answer maps each to what became of it."""
    seen = {}
    for path in order["read"]:
        seen["read " + path] = outcome(lambda: read(path))
    for path in order["write"]:
        seen["write " + path] = outcome(lambda: write(path))
        seen["link " + path] = outcome(lambda: os.link(os.path.join(os.getcwd(), "own"), path + ".link"))
        seen["move " + path] = outcome(lambda: os.rename(os.path.join(os.getcwd(), "own"), path + ".moved"))
    for path in order["remove"]:
        seen["remove " + path] = outcome(lambda: os.remove(path))
        seen["rename " + path] = outcome(lambda: os.rename(path, path + ".away"))
    for pid in order["pids"] + [os.getppid()]:
        for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            seen["signal %d to %d" % (number, pid)] = outcome(lambda: kill(pid, number))
        seen["ptrace %d" % pid] = outcome(lambda: trace(pid))
        for what in ("mem", "environ", "maps", "root/etc/passwd", "cwd/spec.json", "fd/3"):
            seen["read /proc/%d/%s" % (pid, what)] = outcome(lambda: read("/proc/%d/%s" % (pid, what)))
        seen["priority of %d" % pid] = outcome(lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
        seen["limits of %d" % pid] = outcome(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (16, 16)))
    for address in order["connect"]:
        seen["connect %s" % address] = outcome(lambda: connect(address))
    for address in order["send"]:
        seen["send %s" % address] = outcome(lambda: send(address))
    for address in order["listen"]:
        seen["listen %s" % address] = outcome(lambda: listen(address))
    seen["raw socket"] = outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close())
    seen["unshare"] = outcome(unshare)
    seen["raise limits"] = outcome(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
    return seen


def unshare():
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) != 0:  # CLONE_NEWUSER
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return "a user namespace"


def own(order):
    """What a model may do: write its work folder, which is HOME and TMPDIR."""
    import tempfile
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"x")
        temporary = f.name
    return {
        "cwd": outcome(lambda: write(os.path.join(os.getcwd(), "own"))),
        "home": outcome(lambda: write(os.path.join(os.environ["HOME"], "own"))),
        "tmpdir": outcome(lambda: write(os.path.join(os.environ["TMPDIR"], "own"))),
        "temporary": temporary,
        "child": subprocess.check_output(["/bin/echo", "hello"]).decode(),
        "env": sorted(os.environ),
        "pid": os.getpid(),
    }


def fork(order):
    """Forks until it is refused, and once more from every child."""
    children, refused = [], ""
    while len(children) < order["most"]:
        try:
            pid = os.fork()
        except OSError as e:
            refused = errno.errorcode[e.errno]
            break
        if pid == 0:
            os.setsid()  # nobody's group
            time.sleep(600)
            os._exit(0)
        children.append(pid)
    if order.get("stay"):
        return {"refused": refused, "children": len(children)}
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    return {"refused": refused, "children": len(children)}


def allocate(order):
    heap = []
    while True:
        heap.append(b"x" * (64 << 20))


def huge_file(order):
    path = os.path.join(os.getcwd(), "huge")
    f = os.open(path, os.O_CREAT | os.O_WRONLY)
    told = outcome(lambda: os.ftruncate(f, order["bytes"]))
    wrote = outcome(lambda: os.pwrite(f, b"x", order["bytes"]))
    os.close(f)
    os.remove(path)
    return {"truncate": told, "write": wrote}


def open_files(order):
    files, refused = [], ""
    try:
        while len(files) < order["most"]:
            files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as e:
        refused = errno.errorcode[e.errno]
    for f in files:
        os.close(f)
    return {"refused": refused, "files": len(files)}


def chatter(order):
    """Prints what no log should have to bear."""
    line = b"y" * (1 << 20) + b"\n"
    for _ in range(order.get("megabytes", 0)):
        sys.stdout.buffer.write(line)
    long = b"z" * (1 << 20)
    for _ in range(order.get("long", 0)):
        sys.stdout.buffer.write(long)
    sys.stdout.buffer.write(b"\nbad \xff\xfe bytes\n\x1b[2J\x1b]0;owned\x07 and colours \x1b[31mred\nthe last line\n")
    sys.stdout.flush()
    return "said it"


def sleep(order):
    time.sleep(order["seconds"])
    return "slept"


def deaf(order):
    """Sleeps where no exception reaches it."""
    until = time.monotonic() + order["seconds"]
    while time.monotonic() < until:
        try:
            time.sleep(1)
        except BaseException:
            pass
    return "slept"


def die(order):
    print("I end myself", file=sys.stderr, flush=True)
    os._exit(order.get("status", 1))


def die_in_replica(order):
    """Passes its trial, and ends itself wherever it is to serve."""
    if "/replicas/" in os.getcwd():
        raise ValueError("not in this house")


def crash(order):
    os.kill(os.getpid(), signal.SIGSEGV)


def threads(order):
    """Starts threads until it is refused."""
    stop, made, refused = threading.Event(), [], ""
    try:
        while len(made) < order["most"]:
            t = threading.Thread(target=stop.wait, daemon=True)
            t.start()
            made.append(t)
    except RuntimeError as e:
        refused = str(e)
    stop.set()
    for t in made:
        t.join()
    return {"refused": refused, "threads": len(made)}


def shout(order):
    """Raises what a model should not."""
    raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "memory": MemoryError("no more"),
           "recursion": RecursionError("too deep"), "value": ValueError("the decisive line")}[order["what"]]


def tell(order):
    """Does what is ordered and prints what came of it, for who cannot be answered."""
    told = act(order["order"])
    for what in sorted(told):
        print("told: %s: %s" % (what, told[what]), file=sys.stderr)
    sys.stderr.flush()


ACTS = {f.__name__: f for f in (escape, own, fork, allocate, huge_file, open_files, chatter, sleep, deaf, die, crash, threads, shout, tell, die_in_replica)}

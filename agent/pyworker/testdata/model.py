"""A worker without MLflow whose answers its tests choose: model.py WORKER.pyz.

The body's first word says what to do. Frames, queue and socket are the real ones.
"""

import os
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, sys.argv[1])
from loadline_worker import frames, main, serve

HELLO = b'{"protocol": 1, "python": "3", "mlflow": "9.9", "inputs": "", "params": "", "type_hints": false}'


def text(wire, ident, body):
    wire.write(frames.TEXT, ident, struct.pack("<HH", 200, 10), b"text/plain", body)


def answer(request, wire):
    body, _ = main.split_raw(request.payload)
    word, _, rest = body.decode().partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
        text(wire, request.ident, b"slept")
    elif word == "wait":  # for a file to appear, having said so with another
        open(rest + ".begun", "x").close()
        while not os.path.exists(rest):
            time.sleep(0.005)
        text(wire, request.ident, b"waited")
    elif word == "exit":
        print("about to leave", flush=True)
        os._exit(7)
    elif word == "hang":
        time.sleep(3600)
    elif word == "garbage":
        wire._sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n and so on")
        time.sleep(3600)
    elif word == "stranger":
        text(wire, 999999, b"who?")
    elif word == "rude":
        # What models do: print, close what they do not know, fork, run programs.
        print("rude", flush=True)
        os.write(1, b"\xff\xfe\x00 bytes\n")
        os.closerange(3, 200)
        child = os.fork()
        if child == 0:
            try:
                text(wire, request.ident, b"from the child")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        inherited = subprocess.check_output([sys.executable, "-c", (
            "import os, stat\n"
            "print(sum(stat.S_ISSOCK(os.fstat(int(fd)).st_mode) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)))"
        )], close_fds=False)
        text(wire, request.ident, b"sockets inherited: " + inherited.strip())
    elif word == "stream":
        wire.write(frames.HEAD, request.ident, struct.pack("<HH", 200, 17), b"text/event-stream")
        count = 0
        while not request.cancelled and count < int(rest):
            wire.write(frames.PIECE, request.ident, b"x" * 1000)
            count += 1
        sys.stderr.write("streamed %d\n" % count)
        wire.write(frames.END, request.ident)
    elif word == "broken":
        wire.write(frames.TABLE, request.ident, b"\x01\xff\xff\xff\xff")
    else:
        text(wire, request.ident, body)


if __name__ == "__main__":
    wire = frames.Wire(main.take_socket())
    if sys.argv[2:] == ["--slow"]:
        time.sleep(3600)
    if sys.argv[2:] == ["--fail"]:
        wire.write(frames.FAILED, 0, b'{"line": "ValueError: no such model"}')
        sys.exit(1)
    if sys.argv[2:] == ["--die"]:
        os._exit(3)
    if sys.argv[2:] == ["--old"]:
        wire.write(frames.HELLO, 0, HELLO.replace(b'"protocol": 1', b'"protocol": 0'))
        time.sleep(3600)
    wire.write(frames.HELLO, 0, HELLO)
    serve.serve(wire, answer)

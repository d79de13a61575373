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

HELLO = b'{"protocol": 2, "python": "3", "mlflow": "9.9", "inputs": "", "params": "", "type_hints": false}'
# A model with one number, whose calls answer up to four rows each as alone.
GATHERS = HELLO.replace(
    b'"inputs": ""', b'"inputs": "[{\\"name\\": \\"x\\", \\"type\\": \\"double\\"}]", "together": {"sizes": [2, 3, 4], "why": "tried"}'
)


def text(wire, ident, body):
    wire.write(frames.TEXT, ident, struct.pack("<HH", 200, 10), b"text/plain", body)


def numbers(request, wire):
    """Twice each number. Of a negative one nothing is known, and 666 is the end."""
    at = 4 + struct.unpack_from("<I", request.payload)[0]
    (rows,) = struct.unpack_from("<I", request.payload, at)
    values = struct.unpack_from("<%dd" % rows, request.payload, -(-(at + 8) // 8) * 8)
    if 666 in values:
        os._exit(7)
    if min(values) >= 0:
        wire.write(frames.TABLE, request.ident, struct.pack("<BIIc%dd" % rows, 1, rows, 1, b"d", *(2 * v for v in values)))
    elif request.kind == frames.TOGETHER:
        wire.write(frames.ALONE, request.ident)
    else:
        wire.write(frames.TEXT, request.ident, struct.pack("<HH", 400, 10), b"text/plain", b"negative")


def answer(request, wire):
    if request.kind != frames.RAW:
        return numbers(request, wire)
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
        wire.write(frames.HELLO, 0, HELLO.replace(b'"protocol": 2', b'"protocol": 0'))
        time.sleep(3600)
    wire.write(frames.HELLO, 0, GATHERS if sys.argv[2:] == ["--gathers"] else HELLO)
    serve.serve(wire, answer)

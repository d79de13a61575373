"""The worker process: take the socket, load the model, answer until it closes."""

import argparse
import faulthandler
import fcntl
import json
import os
import platform
import resource
import socket
import struct
import sys
import traceback

from . import frames, lean, serve


def take_socket():
    """The agent's socket, moved where a model is least likely to hit it.

    Models print, close descriptors from 3 up, and fork. A high number, close on
    exec and closed in forked children keep the frames whole.
    """
    fd = int(os.environ.pop("LOADLINE_FD"))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    floor = 900 if soft == resource.RLIM_INFINITY else max(10, min(900, soft - 10))
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)
    os.close(fd)
    sock = socket.socket(fileno=high)
    sock.setblocking(True)
    os.register_at_fork(after_in_child=sock.close)
    return sock


def start_again(sock):
    """Become a fresh worker that puts nothing off, if how to is known."""
    command = getattr(sys, "orig_argv", None) or [sys.executable] + ["-I"] * sys.flags.isolated + sys.argv
    if not os.path.exists(sys.argv[0]):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    sock.set_inheritable(True)
    os.environ["LOADLINE_FD"] = str(sock.fileno())
    os.environ["LOADLINE_WORKER_EAGER"] = "1"
    os.execv(sys.executable, [sys.executable] + command[1:])


def decisive(e):
    """The line of an exception that says why: its type and the first line of its text."""
    lines = traceback.format_exception_only(type(e), e)
    # A SyntaxError shows its place first; its last line is the reason.
    text = lines[-1] if isinstance(e, SyntaxError) else "".join(lines)
    first = next((line.strip() for line in text.splitlines() if line.strip()), repr(type(e)))
    return first[:2000]


def answer_with(model):
    """How one request becomes frames."""

    def answer(request, wire):
        if request.kind == frames.RAW:
            body, content_type = split_raw(request.payload)
            result = model.raw(body, content_type, lambda: request.cancelled)
            if hasattr(result, "events"):
                send_stream(wire, request.ident, result)
            else:
                send(wire, request.ident, result)
        elif request.kind == frames.TOGETHER:
            result = model.together(request.payload)
            wire.write(frames.ALONE if result is None else frames.TABLE, request.ident, *(result or ()))
        else:
            result = model.columns(request.payload)
            if type(result) is list:
                wire.write(frames.TABLE, request.ident, *result)
            else:
                send(wire, request.ident, result)

    return answer


def split_raw(payload):
    (length,) = struct.unpack_from("<I", payload)
    if length == frames.NONE:
        return bytes(payload[4:]), None
    return bytes(payload[4 + length :]), payload[4 : 4 + length].decode("latin-1")


def send(wire, ident, result):
    media = result.media.encode("latin-1")
    wire.write(frames.TEXT, ident, struct.pack("<HH", result.status, len(media)), media, result.body)


def send_stream(wire, ident, stream):
    media = stream.media.encode("latin-1")
    wire.write(frames.HEAD, ident, struct.pack("<HH", stream.status, len(media)), media)
    for event in stream.events():
        wire.write(frames.PIECE, ident, event)
    wire.write(frames.END, ident)


def hello(model):
    import mlflow

    from . import together

    metadata = model.model.metadata
    params = metadata.get_params_schema() if hasattr(metadata, "get_params_schema") else None
    sizes, why = together.prove(model)
    hints = getattr(metadata, "_is_signature_from_type_hint", None)
    return {
        "protocol": frames.PROTOCOL,
        "python": platform.python_version(),
        "mlflow": mlflow.__version__,
        "inputs": model.schema.to_json() if model.schema is not None else "",
        "params": params.to_json() if params is not None else "",
        "type_hints": bool(hints and hints()),
        "streams": model.streams,
        "together": {"sizes": sizes, "why": why},
    }


def main():
    parser = argparse.ArgumentParser(prog="loadline-worker")
    parser.add_argument("--model", required=True, help="folder of the MLflow model")
    args = parser.parse_args()
    faulthandler.enable()
    sock = take_socket()
    wire = frames.Wire(sock)
    try:
        if lean.wanted():
            lean.install()
        from . import invoke

        model = invoke.Model(args.model)
        greeting = hello(model)
        if lean.wanted():
            lean.settle()
    except BaseException as e:  # noqa: B902 a model may call sys.exit while loading
        if lean.wanted() and not isinstance(e, (KeyboardInterrupt, MemoryError)):
            # Whether it is the model's fault shows when nothing is put off.
            print("Not loaded (%s). Once more, with every import at once." % decisive(e), file=sys.stderr)
            start_again(sock)
        traceback.print_exc()
        wire.write(frames.FAILED, 0, json.dumps({"line": decisive(e)}).encode())
        return 1
    wire.write(frames.HELLO, 0, json.dumps(greeting).encode())
    serve.serve(wire, answer_with(model))
    sys.stdout.flush()
    return 0

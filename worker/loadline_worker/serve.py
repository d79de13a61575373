"""Who predicts when: one thread reads frames, the main thread answers them.

A request that was cancelled before its turn is dropped and never meets the
model; one that has begun runs to its end, because Python cannot be stopped
from outside without killing the process. The agent decides about that.
"""

import collections
import threading

from . import frames


class Request:
    __slots__ = ("kind", "ident", "payload", "cancelled")

    def __init__(self, kind, ident, payload):
        self.kind = kind
        self.ident = ident
        self.payload = payload
        self.cancelled = False


class Line:
    """Requests in the order they came. Closed when the agent is gone."""

    def __init__(self):
        self._ready = threading.Condition(threading.Lock())
        self._waiting = collections.OrderedDict()
        self._running = {}
        self._closed = False

    def put(self, request):
        with self._ready:
            self._waiting[request.ident] = request
            self._ready.notify()

    def take(self):
        """The next request, which is running from now on; None at the end."""
        with self._ready:
            while not self._waiting:
                if self._closed:
                    return None
                self._ready.wait()
            _, request = self._waiting.popitem(last=False)
            self._running[request.ident] = request
            return request

    def done(self, request):
        with self._ready:
            self._running.pop(request.ident, None)

    def cancel(self, ident):
        """True when the request had not begun and is dropped now."""
        with self._ready:
            if self._waiting.pop(ident, None) is not None:
                return True
            running = self._running.get(ident)
            if running is not None:
                running.cancelled = True  # a stream looks at it between pieces
            return False

    def close(self):
        """Let nothing more begin. Returns those that had not begun."""
        with self._ready:
            dropped = list(self._waiting)
            self._waiting.clear()
            for request in self._running.values():
                request.cancelled = True
            self._closed = True
            self._ready.notify_all()
            return dropped


def read_frames(wire, line):
    """Fill the line until the agent closes the socket. Runs in a thread of its own."""
    try:
        while True:
            frame = wire.read()
            if frame is None:
                return
            kind, ident, payload = frame
            if kind in (frames.RAW, frames.COLUMNS, frames.TOGETHER):
                line.put(Request(kind, ident, payload))
            elif kind == frames.CANCEL:
                if line.cancel(ident):
                    wire.write(frames.DROPPED, ident)
            else:
                raise frames.Corrupt("a frame of the unknown kind %d" % kind)
    finally:
        for ident in line.close():
            try:
                wire.write(frames.DROPPED, ident)
            except OSError:
                break  # the agent has left altogether


def serve(wire, answer):
    """Answer requests until the agent closes the socket.

    answer(request, wire) must not raise for anything a request or a model does.
    """
    line = Line()
    trouble = []

    def read():
        try:
            read_frames(wire, line)
        except (frames.Corrupt, OSError) as e:
            trouble.append(e)

    threading.Thread(target=read, name="loadline-reader", daemon=True).start()
    while True:
        request = line.take()
        if request is None:
            break
        try:
            answer(request, wire)
        finally:
            line.done(request)
    if trouble:
        raise trouble[0]

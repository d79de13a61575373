"""Frames on the socket between agent and worker.

A frame is {u32 payload length, u32 kind, u64 request id}, little-endian, then
the payload. agent/pyworker/frames.go is the other end; change both together.
"""

import struct
import threading

PROTOCOL = 2

# agent to worker
RAW = 1  # u32 length of the content type or NONE, content type, body
COLUMNS = 2  # see columns.py
CANCEL = 3  # no payload
TOGETHER = 4  # as COLUMNS, the rows of several requests; TABLE or ALONE is the answer

# worker to agent
HELLO = 16  # JSON, once, when the model is loaded
FAILED = 17  # JSON, once, instead of HELLO
DROPPED = 18  # the cancelled request never began
TEXT = 19  # u16 status, u16 length of the media type, media type, body
TABLE = 20  # see columns.py
HEAD = 21  # as TEXT without a body; PIECE and END follow
PIECE = 22  # more of the body
END = 23  # no payload
ALONE = 24  # no payload: these rows have to be asked request by request

NONE = 0xFFFFFFFF
MAX_PAYLOAD = 1 << 30  # a longer frame is a broken peer

_HEADER = struct.Struct("<IIQ")


class Corrupt(Exception):
    """What came is not a frame, so nothing that follows can be trusted."""


class Wire:
    """One end of the socket. One thread reads; any thread may write."""

    def __init__(self, sock):
        self._sock = sock
        self._lock = threading.Lock()
        # Small frames are read many at a time, large payloads without a copy.
        self._buf = memoryview(bytearray(64 << 10))
        self._start = self._end = 0

    def read(self):
        """The next (kind, id, payload), or None when the peer has closed."""
        header = self._exactly(_HEADER.size, end_allowed=True)
        if header is None:
            return None
        length, kind, ident = _HEADER.unpack(header)
        if length > MAX_PAYLOAD:
            raise Corrupt("a frame of %d bytes, at most %d are allowed" % (length, MAX_PAYLOAD))
        return kind, ident, self._exactly(length)

    def _exactly(self, n, end_allowed=False):
        out = bytearray(n)
        view = memoryview(out)
        have = min(n, self._end - self._start)
        view[:have] = self._buf[self._start : self._start + have]
        self._start += have
        while have < n:
            if n - have >= len(self._buf):
                got = self._sock.recv_into(view[have:])
                have += got
            else:
                got = self._sock.recv_into(self._buf)
                take = min(n - have, got)
                view[have : have + take] = self._buf[:take]
                self._start, self._end = take, got
                have += take
            if not got:
                if end_allowed and have == 0:
                    return None
                raise Corrupt("the agent closed the socket inside a frame")
        return out

    def write(self, kind, ident, *parts):
        """Send one frame whose payload is the parts, one after the other."""
        views = [memoryview(p).cast("B") for p in parts if len(p)]
        length = sum(len(v) for v in views)
        if length > MAX_PAYLOAD:
            raise ValueError("a payload of %d bytes, at most %d are allowed" % (length, MAX_PAYLOAD))
        views.insert(0, memoryview(_HEADER.pack(length, kind, ident)))
        with self._lock:
            while views:
                # The kernel takes at most 1024 pieces a call.
                sent = self._sock.sendmsg(views[:512])
                while views and sent >= len(views[0]):
                    sent -= len(views.pop(0))
                if sent:
                    views[0] = views[0][sent:]

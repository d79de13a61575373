"""An engine whose answers no two readers would understand alike. The body of a
POST names the lie; after it the engine tries to slip in a second answer."""

import os
import socket
import threading

SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Smuggled: yes\r\n\r\nSMUGGLED"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def lies(name):
    """The bytes of an answer, in pieces."""
    if name == "two lengths":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\nok" + SMUGGLED
    elif name == "length and chunks":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + SMUGGLED
    elif name == "endless head":
        yield b"HTTP/1.1 200 OK\r\n"
        for i in range(1 << 20):
            yield b"X-%d: more\r\n" % i
    elif name == "huge field":
        yield b"HTTP/1.1 200 OK\r\nX-Huge: " + b"a" * (1 << 20) + b"\r\nContent-Length: 2\r\n\r\nok"
    elif name == "storm of interims":
        for _ in range(1000):
            yield b"HTTP/1.1 102 Processing\r\n\r\n"
        yield OK
    elif name == "switch":
        yield b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: mine\r\nConnection: Upgrade\r\n\r\n" + SMUGGLED
    elif name == "status 99":
        yield b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok"
    elif name == "status 1000":
        yield b"HTTP/1.1 1000 Odd\r\nContent-Length: 2\r\n\r\nok"
    elif name == "HTTP/0.9":
        yield b"just text, no head\n"
    elif name == "negative length":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"
    elif name == "length too large":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok"
    elif name == "garbage for a chunk":
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n" + SMUGGLED
    elif name == "short body":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort"
    elif name == "long body":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + SMUGGLED
    elif name == "nothing":
        return
    elif name == "bare line feed in a field":
        yield b"HTTP/1.1 200 OK\r\nX-A: one\nX-B: two\r\nContent-Length: 2\r\n\r\nok"
    elif name == "folded field":
        yield b"HTTP/1.1 200 OK\r\nX-A: one\r\n Content-Length: 40\r\nContent-Length: 2\r\n\r\nok" + SMUGGLED
    elif name == "odd coding":
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    elif name == "hop by hop":
        yield (b"HTTP/1.1 200 OK\r\nConnection: X-Secret, close\r\nX-Secret: yes\r\nKeep-Alive: timeout=1\r\nProxy-Authenticate: Basic\r\n"
               b"Set-Cookie: a=b\r\nLocation: http://elsewhere.example/\r\nContent-Length: 2\r\n\r\nok")
    else:
        yield OK


def serve(c):
    with c:
        buffered = b""
        while True:
            while b"\r\n\r\n" not in buffered:
                more = c.recv(65536)
                if not more:
                    return
                buffered += more
            head, _, buffered = buffered.partition(b"\r\n\r\n")
            size = 0
            for line in head.split(b"\r\n")[1:]:
                k, _, v = line.partition(b":")
                if k.lower() == b"content-length":
                    size = int(v)
            while len(buffered) < size:
                buffered += c.recv(65536)
            body, buffered = buffered[:size], buffered[size:]
            name = body.decode() if head.startswith(b"POST") else "health"
            try:
                for piece in lies(name):
                    c.sendall(piece)
            except OSError:
                return
            if name in ("short body", "nothing", "HTTP/0.9"):
                return


listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=64)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()

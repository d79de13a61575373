"""An engine of somebody's own that does what it is asked, as puppet.py does:
the body of a POST is an order. It needs no model and no packages."""

import http.server
import json
import os
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import acts  # noqa: E402


class Brute(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.say(b"ok")

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.say(json.dumps({"answer": acts.act(order), "greeting": os.environ.get("GREETING")}).encode())

    def log_message(self, *args):
        pass


acts.act(json.loads(os.environ.get("AT_LOAD", '{"do": "sleep", "seconds": 0}')))
threading.stack_size(1 << 18)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Brute).serve_forever()

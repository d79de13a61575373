"""The line of requests and the two threads. No MLflow needed."""

import os
import socket
import subprocess
import sys
import threading
import unittest

from loadline_worker import frames, main, serve


class Agent:
    """The other end, with serve running in a thread."""

    def __init__(self, answer):
        ours, theirs = socket.socketpair()
        self.sock = ours
        self.wire = frames.Wire(ours)
        worker = frames.Wire(theirs)
        self.trouble = None

        def run():
            try:
                serve.serve(worker, answer)
            except (frames.Corrupt, OSError) as e:
                self.trouble = e
            theirs.close()

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def leave(self):
        self.sock.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


class ServeTest(unittest.TestCase):
    def test_answers_come_in_order(self):
        agent = Agent(lambda request, wire: wire.write(frames.TEXT, request.ident, request.payload))
        for i in range(20):
            agent.wire.write(frames.RAW, i, b"%d" % i)
        for i in range(20):
            self.assertEqual(agent.wire.read(), (frames.TEXT, i, bytearray(b"%d" % i)))
        agent.leave()
        self.assertIsNone(agent.trouble)

    def test_a_cancelled_request_never_begins(self):
        begun, gate = threading.Event(), threading.Event()
        seen = []

        def answer(request, wire):
            seen.append(request.ident)
            begun.set()
            gate.wait(10)
            wire.write(frames.TEXT, request.ident, b"%d" % request.cancelled)

        agent = Agent(answer)
        agent.wire.write(frames.RAW, 1, b"")
        begun.wait(10)
        agent.wire.write(frames.RAW, 2, b"")
        agent.wire.write(frames.RAW, 3, b"")
        agent.wire.write(frames.CANCEL, 2)
        agent.wire.write(frames.CANCEL, 99)
        self.assertEqual(agent.wire.read()[:2], (frames.DROPPED, 2))
        agent.wire.write(frames.CANCEL, 1)
        agent.wire.write(frames.CANCEL, 3)
        self.assertEqual(agent.wire.read()[:2], (frames.DROPPED, 3))
        gate.set()
        self.assertEqual(agent.wire.read(), (frames.TEXT, 1, bytearray(b"1")))
        agent.leave()
        self.assertEqual(seen, [1])

    def test_what_waits_is_given_back_when_the_agent_stops_writing(self):
        begun, gate = threading.Event(), threading.Event()

        def answer(request, wire):
            begun.set()
            gate.wait(10)
            wire.write(frames.TEXT, request.ident, b"done")

        agent = Agent(answer)
        agent.wire.write(frames.RAW, 1, b"")
        begun.wait(10)
        agent.wire.write(frames.RAW, 2, b"")
        agent.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(agent.wire.read()[:2], (frames.DROPPED, 2))
        gate.set()
        self.assertEqual(agent.wire.read()[:2], (frames.TEXT, 1))
        self.assertIsNone(agent.wire.read())
        agent.leave()

    def test_an_unknown_frame_ends_it(self):
        agent = Agent(lambda request, wire: None)
        agent.wire.write(77, 1, b"")
        agent.thread.join(10)
        self.assertIsInstance(agent.trouble, frames.Corrupt)
        agent.leave()


class MainTest(unittest.TestCase):
    def test_the_decisive_line_is_one_line(self):
        try:
            exec("x = = 1")
        except SyntaxError as e:
            self.assertTrue(main.decisive(e).startswith("SyntaxError: invalid syntax"))
        self.assertEqual(main.decisive(ValueError("a\nb")), "ValueError: a")
        self.assertEqual(main.decisive(ModuleNotFoundError("No module named 'x'")), "ModuleNotFoundError: No module named 'x'")
        self.assertEqual(len(main.decisive(ValueError("x" * 10000))), 2000)

    def test_raw_payloads_are_split(self):
        self.assertEqual(main.split_raw(bytearray(b"\x03\0\0\0a/bbody")), (b"body", "a/b"))
        self.assertEqual(main.split_raw(bytearray(b"\xff\xff\xff\xffbody")), (b"body", None))

    def test_without_mlflow_the_reason_reaches_the_agent(self):
        ours, theirs = socket.socketpair()
        code = "import sys; sys.modules['mlflow'] = None; from loadline_worker.main import main; sys.exit(main())"
        child = subprocess.Popen(
            [sys.executable, "-c", code, "--model", "/nowhere"], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE,
            env=dict(os.environ, LOADLINE_FD=str(theirs.fileno()), PYTHONPATH=os.pathsep.join(sys.path)))
        theirs.close()
        kind, ident, payload = frames.Wire(ours).read()
        self.assertEqual((kind, ident), (frames.FAILED, 0))
        self.assertIn(b"mlflow", payload)
        self.assertIn(b"Traceback", child.communicate()[1])
        self.assertEqual(child.returncode, 1)
        ours.close()


if __name__ == "__main__":
    unittest.main()

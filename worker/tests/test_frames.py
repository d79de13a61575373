"""Frames over a real socket pair. No MLflow needed."""

import random
import socket
import struct
import threading
import unittest

from loadline_worker import frames


def pair():
    a, b = socket.socketpair()
    return frames.Wire(a), frames.Wire(b), a, b


class FramesTest(unittest.TestCase):
    def test_what_is_written_is_read(self):
        left, right, a, b = pair()
        dice = random.Random(1)
        sent = [(dice.randrange(1, 30), dice.randrange(2**64), dice.randbytes(dice.choice([0, 1, 15, 70000, 300000])) if hasattr(dice, "randbytes")
                 else bytes(dice.choice([0, 1, 15, 70000, 300000]))) for _ in range(60)]

        def write():
            for kind, ident, payload in sent:
                cut = len(payload) // 3
                left.write(kind, ident, payload[:cut], bytearray(payload[cut:]))
            a.close()

        writer = threading.Thread(target=write)
        writer.start()
        got = []
        while True:
            frame = right.read()
            if frame is None:
                break
            got.append((frame[0], frame[1], bytes(frame[2])))
        writer.join()
        b.close()
        self.assertEqual(got, sent)

    def test_many_parts_are_one_frame(self):
        left, right, a, b = pair()
        parts = [b"x" * (i % 3) for i in range(3000)]
        left.write(5, 7, *parts)
        self.assertEqual(bytes(right.read()[2]), b"".join(parts))
        a.close(), b.close()

    def test_an_end_inside_a_frame_is_corrupt(self):
        header = struct.pack("<IIQ", 10, 1, 1)
        for cut in [header[:5], header, header + b"abc"]:
            left, right, a, b = pair()
            a.sendall(cut)
            a.close()
            with self.assertRaises(frames.Corrupt):
                right.read()
            b.close()

    def test_a_length_beyond_the_bound_is_corrupt(self):
        left, right, a, b = pair()
        a.sendall(struct.pack("<IIQ", frames.MAX_PAYLOAD + 1, 1, 1))
        with self.assertRaises(frames.Corrupt):
            right.read()
        a.close(), b.close()

    def test_frames_of_several_writers_do_not_mix(self):
        left, right, a, b = pair()

        def write(ident):
            for _ in range(50):
                left.write(1, ident, bytes([ident]) * 50000)

        writers = [threading.Thread(target=write, args=(i,)) for i in range(1, 5)]
        for w in writers:
            w.start()
        for _ in range(200):
            kind, ident, payload = right.read()
            self.assertEqual(set(payload), {ident})
        for w in writers:
            w.join()
        a.close(), b.close()


if __name__ == "__main__":
    unittest.main()

"""Answers as tables. Needs numpy and pandas, which a plain Python has not."""

import unittest

try:
    import numpy as np
    import pandas as pd
except ImportError:
    np = None
else:
    from loadline_worker import columns


@unittest.skipIf(np is None, "needs numpy and pandas")
class EncodeTest(unittest.TestCase):
    def bytes(self, answer):
        parts = columns.encode(answer)
        return None if parts is None else b"".join(bytes(p) for p in parts)

    def test_what_crosses_as_buffers(self):
        head = b"\x01\x02\0\0\0\x01\0\0\0"
        self.assertEqual(self.bytes(np.array([1, 2], "int8")), head + b"b\x01\x02")
        self.assertEqual(self.bytes([True, False]), head + b"?\x01\0")
        self.assertEqual(self.bytes(np.array(["a", "bc"])), head + b"s\x01\0\0\0\x02\0\0\0abc")
        self.assertEqual(self.bytes(["a", "bc"]), head + b"s\x01\0\0\0\x02\0\0\0abc")
        self.assertEqual(self.bytes(np.array([[1], [2]], "uint8")), b"\x02\x02\0\0\0\x01\0\0\0B\x01\x02")
        self.assertEqual(self.bytes(pd.Series([1, 2], dtype="int8")), b"\x03\x02\0\0\0\x01\0\0\0\x01\0\0\x000b\x01\x02")
        self.assertEqual(self.bytes(np.arange(4, dtype="int8")[::-2]), head + b"b\x03\x01")

    def test_what_goes_as_text(self):
        twice = pd.DataFrame(np.ones((1, 2)), columns=["a", "a"])
        for answer in [None, 1, "x", {}, {"a": 1}, [1, "a"], [2**70], [], (1,), [[1]], ["\ud800"], np.array(1.0), np.ones((1, 1, 1)), np.array([1j]),
                       np.array([1.0, 2.0], "float16"), np.array([1], ">i4"), np.ma.array([1.0], mask=[1]), np.array([1, "a"], object), twice,
                       pd.DataFrame(index=[1]), pd.DataFrame({1.5: [1]}), pd.Series(pd.array([1], dtype="Int64")), np.array(["2024-01-02"], "datetime64[D]"),
                       pd.DataFrame({True: [1]})]:
            self.assertIsNone(self.bytes(answer), repr(answer))


if __name__ == "__main__":
    unittest.main()

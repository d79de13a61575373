"""Imports that wait. No MLflow needed."""

import importlib
import os
import sys
import tempfile
import threading
import unittest

from loadline_worker import lean

SOURCES = {
    "gather/__init__.py": "ran = True\nfrom .inner import value\n",
    "gather/inner.py": "value = 7\n",
    "gather/late.py": "import time\ntime.sleep(0.05)\nvalue = 8\ndef f(x):\n    return x + 1\nclass C:\n    pass\n",
    "circle/__init__.py": "from . import a, b\n",
    "circle/a.py": "class A: pass\nfrom circle.b import B\n",
    "circle/b.py": "from circle.a import A\nclass B(A): pass\n",
    "broken.py": "raise ImportError('no such thing')\n",
    "taker.py": "from gather.late import f, C\nclass D(C): pass\n",
    "texts.py": "names = ['a', 'b']\nloud = len(names)\n",
    "sklearn/__init__.py": '"""Module."""\n',
    "sklearn/doc.py": 'def f():\n    """Doc."""\n    return "kept"\n\n'
    'def g():\n    "same"\n    return "same"\n\nh = lambda: "text"\n\nclass K:\n    """Class."""\n    def m(self):\n        """Method."""\n',
}
ADDED = {"gather": "", "gather.late": "f C", "circle": "", "broken": "", "texts": ""}


class LeanTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        for name, text in SOURCES.items():
            path = os.path.join(self.folder.name, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as f:
                f.write(text)
        self.before = set(sys.modules), dict(lean.DEFERRED), set(lean._LISTS)
        self.hidden = {n: sys.modules.pop(n) for n in list(sys.modules) if n.partition(".")[0] == "sklearn"}
        lean.DEFERRED.update({k: frozenset(v.split()) for k, v in ADDED.items()})
        sys.path.insert(0, self.folder.name)
        importlib.invalidate_caches()
        lean.install()

    def tearDown(self):
        sys.meta_path.remove(lean._Finder)
        sys.path.remove(self.folder.name)
        for name in set(sys.modules) - self.before[0]:
            del sys.modules[name]
        sys.modules.update(self.hidden)
        lean.DEFERRED.clear()
        lean.DEFERRED.update(self.before[1])
        lean._LISTS.clear()
        lean._LISTS.update(self.before[2])
        self.folder.cleanup()

    def waits(self, name):
        return type(sys.modules[name]) is lean._Deferred

    def test_a_module_runs_at_the_first_look(self):
        import gather

        self.assertTrue(self.waits("gather"))
        self.assertEqual(gather.value, 7)
        self.assertFalse(self.waits("gather"))
        self.assertTrue(gather.ran)

    def test_what_lies_inside_runs_its_package_first_and_itself_once(self):
        import gather
        from gather import inner

        self.assertFalse(self.waits("gather"))
        self.assertIs(inner, sys.modules["gather.inner"])
        self.assertEqual(gather.value, inner.value)

    def test_imports_in_a_circle_keep_their_order(self):
        import circle  # noqa: F401
        from circle.b import B  # run before its package, this fails

        self.assertEqual(B.__mro__[1].__name__, "A")
        self.assertFalse(self.waits("circle"))

    def test_a_module_that_waits_can_be_reloaded(self):
        import gather

        self.assertIs(importlib.reload(gather), gather)
        self.assertEqual(gather.value, 7)

    def test_names_taken_at_the_top_of_a_module_wait_too(self):
        import taker

        # Subclassing needs the real thing, so it runs; what was taken acts like it.
        self.assertFalse(self.waits("gather.late"))
        late = sys.modules["gather.late"]
        self.assertEqual(taker.f(1), 2)
        self.assertTrue(issubclass(taker.D, late.C))
        self.assertTrue(isinstance(late.C(), taker.C))
        self.assertIsInstance(taker.C(), late.C)

    def test_names_taken_inside_a_function_are_real(self):
        from gather.late import f

        self.assertIs(f, sys.modules["gather.late"].f)

    def test_a_failure_comes_when_it_is_looked_at_and_each_time(self):
        import broken

        for _ in range(2):
            with self.assertRaises(ImportError):
                broken.anything
        with self.assertRaises(ImportError):
            import missing_altogether  # noqa: F401

    def test_threads_wait_for_a_module_that_runs(self):
        import gather.late

        seen = []
        threads = [threading.Thread(target=lambda: seen.append(gather.late.value)) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(seen, [8] * 4)

    def test_an_attribute_that_is_set_stays(self):
        import gather

        gather.value = 9
        self.assertTrue(gather.ran)
        self.assertEqual(gather.value, 9)

    def test_lists_come_from_a_child(self):
        lean._LISTS.add("texts")
        import texts

        self.assertEqual(texts.names, ["a", "b"])
        self.assertTrue(self.waits("texts"))
        self.assertEqual(texts.loud, 2)
        self.assertFalse(self.waits("texts"))

    def test_documentation_goes_and_nothing_else(self):
        from sklearn import doc

        self.assertEqual((doc.f.__doc__, doc.f()), ("", "kept"))
        self.assertEqual(doc.g(), "same")
        self.assertEqual(doc.h(), "text")
        self.assertEqual((doc.K.__doc__, doc.K.m.__doc__), ("", ""))

    def test_settling_leaves_everything_in_working_order(self):
        lean.settle()
        self.assertEqual(sum(range(10)), 45)

"""Imports that wait until somebody looks inside, and what else keeps a replica small.

`import mlflow` alone brings in the evaluation of LLMs and an HTTP gateway, and
loading a scikit-learn model half of SciPy; a replica that only loads and
predicts touches little of it. The modules in DEFERRED are found when they are
imported, as ever (one that is missing fails as ever), and run at the first
look inside. Whoever needs one gets the real one, at that moment.

Nothing here may change an answer. A model that fails to load this way is
loaded again without it (main.py), and LOADLINE_WORKER_EAGER=1 turns it off.
"""

import ctypes
import gc
import importlib
import importlib.machinery
import json
import os
import re
import select
import signal
import sys
import types
import warnings
from importlib import _bootstrap

# What an importer takes from each of them by name without needing it yet:
# functions (and classes) that are only called, looked into or subclassed.
DEFERRED = {
    "mlflow.genai": "",
    "mlflow.genai.datasets": "",
    "mlflow.gateway": "",
    "mlflow.store._unity_catalog": "",
    "mlflow.utils.doctor": "doctor",
    "narwhals": "",
    "narwhals.stable": "",
    "narwhals.stable.v2": "",
    "numpy.f2py": "",
    "numpy.testing": "",
    "scipy.integrate": "trapezoid",
    "scipy.interpolate": "BSpline",
    "scipy.ndimage": "",
    "scipy.optimize": "fmin_l_bfgs_b linear_sum_assignment linprog minimize minimize_scalar newton",
    "scipy.optimize._linesearch": "line_search_wolfe1 line_search_wolfe2 scalar_search_wolfe1",
    "scipy.spatial": "",
    "scipy.spatial.distance": "cdist pdist squareform",
    "scipy.stats": "chi2 gmean kendalltau rankdata spearmanr",
    "skops.io._trusted_types": "",
}
DEFERRED = {name: frozenset(taken.split()) for name, taken in DEFERRED.items()}

# What MLflow itself takes from inside a deferred package, and what runs without
# that package having run. For all else the package runs first: in another order
# imports that go round in a circle would break.
_ALONE = {"mlflow.genai.datasets.databricks_evaluation_dataset_source"}

# Lists of names that take importing all of scikit-learn to make.
_LISTS = {"skops.io._trusted_types"}

# Packages whose documentation nobody reads in a replica.
_MUTE = {"lightgbm", "mlflow", "narwhals", "pandas", "scipy", "sklearn", "skops", "xgboost"}
# These may hand their documentation to an LLM.
_SPEAK = ("mlflow.genai", "mlflow.gateway", "mlflow.types")

# What the import system itself asks of a module that need not have run.
_KNOWN = frozenset(
    ("__spec__", "__name__", "__loader__", "__package__", "__path__", "__file__", "__cached__", "__class__")
)
_plain = types.ModuleType.__getattribute__
_lists = {}


def wanted():
    return os.environ.get("LOADLINE_WORKER_EAGER", "") in ("", "0")


def install():
    sys.meta_path.insert(0, _Finder)


class _Deferred(types.ModuleType):
    """A module that has been found and has not run."""

    def __getattribute__(self, name):
        if name in _KNOWN:
            return _plain(self, name)
        full = _plain(self, "__name__")
        if full in _LISTS and name[:2] != "__":
            if full not in _lists:
                _lists[full] = _ask_child(self)
            if name in _lists[full]:
                return list(_lists[full][name])
        inner = full + "." + name
        if inner in DEFERRED:
            return importlib.import_module(inner)
        if name in DEFERRED[full] and _importing(sys._getframe(1)):
            return _Later(self, name)
        _run(self)
        return getattr(self, name)

    def __setattr__(self, name, value):
        # The import system hangs modules into their package.
        if name[:2] != "__" and not isinstance(value, types.ModuleType):
            _run(self)
        types.ModuleType.__setattr__(self, name, value)

    def __delattr__(self, name):
        _run(self)
        delattr(self, name)

    def __dir__(self):
        _run(self)
        return dir(self)


class _Running(types.ModuleType):
    """A module while it runs: other threads wait for what it does not have yet."""

    def __getattr__(self, name):
        try:
            with _bootstrap._ModuleLockManager(_plain(self, "__name__")):
                pass
        except _bootstrap._DeadlockError:
            pass
        return _plain(self, name)


class _Later:
    """Something of a deferred module, fetched when it is used."""

    __slots__ = ("_home", "_name")

    def __init__(self, home, name):
        object.__setattr__(self, "_home", home)
        object.__setattr__(self, "_name", name)

    def __call__(self, *args, **kwargs):
        return _real(self)(*args, **kwargs)

    def __getattribute__(self, name):
        if name == "__mro_entries__":
            return object.__getattribute__(self, name)
        return getattr(_real(self), name)

    def __setattr__(self, name, value):
        setattr(_real(self), name, value)

    def __instancecheck__(self, instance):
        return isinstance(instance, _real(self))

    def __subclasscheck__(self, subclass):
        return issubclass(subclass, _real(self))

    def __mro_entries__(self, bases):
        return (_real(self),)

    def __reduce_ex__(self, protocol):
        return _real, (self,)

    def __repr__(self):
        return repr(_real(self))

    def __eq__(self, other):
        return _real(self) == (_real(other) if type(other) is _Later else other)

    def __hash__(self):
        return hash(_real(self))


def _real(later):
    home = object.__getattribute__(later, "_home")
    return getattr(home, object.__getattribute__(later, "_name"))


def _importing(frame):
    """Whether this is the import system, or the top level of a module."""
    return frame.f_code.co_name == "<module>" or frame.f_code.co_filename.startswith("<frozen importlib")


def _run(module):
    spec = _plain(module, "__spec__")
    package = sys.modules.get(spec.name.rpartition(".")[0])
    if type(package) is _Deferred:
        _run(package)
    with _bootstrap._ModuleLockManager(spec.name):
        if type(module) is not _Deferred:
            return
        waiting = spec.loader
        if type(waiting) is not _Waiting:  # it is being reloaded, and will run
            module.__class__ = types.ModuleType
            return
        spec.loader = waiting.real
        module.__loader__ = waiting.real
        module.__class__ = _Running
        spec._initializing = True
        try:
            spec.loader.exec_module(module)
        except BaseException:
            spec.loader = waiting
            module.__class__ = _Deferred
            raise
        finally:
            spec._initializing = False
        if type(module) is _Running:
            module.__class__ = types.ModuleType


class _Waiting:
    """The loader of a module that is not to run yet."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__class__ = _Deferred


class _There:
    """The loader of a module that its package has loaded in the meantime."""

    def __init__(self, module):
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        module.__spec__ = self.spec


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if target is not None:
            return None
        above = name.rpartition(".")[0]
        deferred = name in DEFERRED
        if not deferred and type(sys.modules.get(above)) is _Deferred and name not in _ALONE:
            _run(sys.modules[above])
            if name in sys.modules:
                return importlib.machinery.ModuleSpec(name, _There(sys.modules[name]))
        mute = name.partition(".")[0] in _MUTE and not name.startswith(_SPEAK)
        if not deferred and not mute:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return spec
        if mute:
            spec.loader = _Mute(spec.loader.name, spec.loader.path)
        if deferred:
            spec.loader = _Waiting(spec.loader)
        return spec


class _Mute(importlib.machinery.SourceFileLoader):
    """Loads a module without its documentation: a tenth of all that is in memory."""

    def get_code(self, fullname):
        code = super().get_code(fullname)
        return code and _mute(code)


# A function's documentation is its first constant, unless the compiler put
# another there; from 3.14 on a flag says so.
_FUNCTION, _DOCUMENTED = 0x3, 0x4000000 if sys.version_info >= (3, 14) else 0
_opcodes = {}


def _patterns():
    import opcode

    load = b"[" + b"".join(b"\\x%02x" % op for op in sorted(opcode.hasconst)) + b"]"
    _opcodes["first"] = re.compile(b"(?:..)*?" + load + b"\\x00", re.S)
    _opcodes["load"] = opcode.opmap["LOAD_CONST"]
    _opcodes["store"] = opcode.opmap["STORE_NAME"]
    return _opcodes


def _mute(code):
    ops = _opcodes or _patterns()
    consts = None
    for i, const in enumerate(code.co_consts):
        if type(const) is types.CodeType:
            muted = _mute(const)
            if muted is not const:
                consts = consts or list(code.co_consts)
                consts[i] = muted
    at = None
    if code.co_flags & _FUNCTION == _FUNCTION:
        documented = code.co_consts and type(code.co_consts[0]) is str and code.co_name[:1] != "<"
        if documented and code.co_flags & _DOCUMENTED == _DOCUMENTED and not ops["first"].match(code.co_code):
            at = 0
    elif code.co_names[:2] == ("__name__", "__module__"):
        at = _class_doc(code, ops)
    if at is not None:
        consts = consts or list(code.co_consts)
        consts[at] = ""  # not None: some assert that there is any
    return code if consts is None else code.replace(co_consts=tuple(consts))


def _class_doc(code, ops):
    """Which constant a class body stores as __doc__ first thing, if any."""
    if "__doc__" not in code.co_names[:6]:
        return None
    doc, text = code.co_names.index("__doc__"), code.co_code
    for i in range(0, min(len(text) - 2, 60), 2):
        if text[i] == ops["load"] and text[i + 2] == ops["store"] and text[i + 3] == doc:
            at = text[i + 1]
            # A text that is used elsewhere too stays.
            used = sum(1 for k in range(0, len(text), 2) if text[k] == ops["load"] and text[k + 1] == at)
            return at if used == 1 and type(code.co_consts[at]) is str else None
    return None


def _ask_child(module):
    """The lists of texts that a module makes, made by a child, which takes what
    that needs away with it. Empty when that does not work: then it runs here."""
    if "_child" in _lists or not hasattr(os, "fork"):
        return {}
    try:
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pid = os.fork()
    except OSError:
        return {}
    if pid == 0:
        try:
            _lists["_child"] = True
            os.close(read)
            _run(module)
            lists = {k: v for k, v in vars(module).items() if type(v) is list and all(type(x) is str for x in v)}
            with os.fdopen(write, "wb") as out:
                out.write(json.dumps(lists).encode())
        finally:
            os._exit(0)
    os.close(write)
    answer = bytearray()
    try:
        while select.select([read], [], [], 60)[0]:
            piece = os.read(read, 1 << 16)
            if not piece:
                break
            answer += piece
    finally:
        os.close(read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    try:
        return json.loads(answer)
    except ValueError:
        return {}


def settle():
    """Give back what only loading needed. To be called when the model is loaded."""
    gc.collect()
    gc.freeze()  # what lives now lives on; later collections need not look at it
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # a C library without it: nothing but a saving is lost

"""Which models are a library's through and through.

A model of scikit-learn may hold the user's own classes and functions, which may
count their calls, look at all rows together, or throw dice. Only where every
object that belongs to the model is a library's own is it known what a call does.
"""

import collections
import types

import numpy as np

# Where MLflow's wrappers live, and their classes must.
LOADERS = ("mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost")

_ROOTS = frozenset(
    ("builtins", "catboost", "_catboost", "collections", "ctypes", "datetime", "enum", "functools", "lightgbm", "mlflow", "numpy",
     "pandas", "scipy", "sklearn", "xgboost")
)

# These throw dice, or call what they were given.
_UNKNOWN = frozenset(
    ("BernoulliRBM", "DummyClassifier", "Generator", "IterativeImputer", "RandomState")
)

MAX_OBJECTS = 200_000

_PLAIN = frozenset((int, float, complex, bool, str, bytes, bytearray, type(None), slice, range, type(Ellipsis)))


def library(model):
    """Whether a PyFuncModel holds nothing but its library's own objects."""
    try:
        loader = model.loader_module
        wrapper = model._model_impl
    except Exception:
        return False
    if loader not in LOADERS or type(wrapper).__module__.split(".")[0] not in _ROOTS:
        return False
    return only_known(wrapper)


def only_known(top):
    seen = {}  # held, so that no number is given twice
    rest = collections.deque([top])
    while rest:
        x = rest.pop()
        if type(x) in _PLAIN or id(x) in seen:
            continue
        if len(seen) >= MAX_OBJECTS or not _allowed(x):
            return False
        seen[id(x)] = x
        rest.extend(_inside(x))
    return True


def _allowed(x):
    kind = x if isinstance(x, type) else type(x)
    if isinstance(x, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        home = getattr(x, "__module__", None) or "builtins"
        return home.split(".")[0] in _ROOTS
    if isinstance(x, types.ModuleType):
        return x.__name__.split(".")[0] in _ROOTS
    if kind.__name__ == "FunctionTransformer" and getattr(x, "func", None) is not None:
        return False
    return kind.__module__.split(".")[0] in _ROOTS and kind.__name__ not in _UNKNOWN


def _inside(x):
    kind = type(x)
    if isinstance(x, (type, types.ModuleType, types.BuiltinFunctionType)):
        return
    if isinstance(x, types.FunctionType):
        for cell in x.__closure__ or ():
            yield cell.cell_contents
        return
    if isinstance(x, types.MethodType):
        yield x.__self__
        return
    if isinstance(x, dict):
        yield from x.keys()
        yield from x.values()
    elif isinstance(x, (list, tuple, set, frozenset, collections.deque)):
        yield from x
    elif isinstance(x, np.ndarray):
        if x.dtype == object:
            yield from x.ravel().tolist()
    elif kind.__module__.split(".")[0] == "functools":
        yield x.func
        yield from x.args
        yield from x.keywords.values()
    elif kind.__module__.split(".")[0] == "pandas":
        return  # data
    inner = getattr(x, "__dict__", None)
    if type(inner) is dict:
        yield from inner.values()
    for klass in kind.__mro__:
        for name in _slots(klass):
            if hasattr(x, name):
                yield getattr(x, name)


def _slots(klass):
    slots = klass.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else [s for s in slots if s not in ("__dict__", "__weakref__")]

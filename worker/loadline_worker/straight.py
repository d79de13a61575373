"""The short way from columns to the model.

MLflow checks and casts every column of every request, with pandas, though
columns that crossed as typed buffers have their types already. Here the frame
that the model is to get is built at once. That it is the same frame is not
believed but tried, for each layout of columns before its first use: a model
that only keeps what it is given is asked the long way and the short way, with
made-up rows, and both frames must agree in columns, dtypes, blocks, index and
every bit of every value. Where they do not, or MLflow cannot be asked so, the
long way stays.

Models of libraries (see known.py) are then called directly; a request at which
one fails is asked again the long way, so that the refusal is MLflow's. For all
others only the check of the schema is left out, and MLflow's own functions
still stand around the model, in its stack traces too.
"""

import copy
import inspect

import numpy as np
import pandas as pd

from . import columns, known

MAX_LAYOUTS = 64  # how many are tried; clients choose the order of columns


class Straight:
    """The short way for one model. ask_long(model, data, params) is the long one."""

    NOTHING = object()

    def __init__(self, model, schema, decoder, ask_long):
        self._decoder = decoder
        self._ask_long = ask_long
        self._tried = 0
        self._names = []
        self._library = False
        self._call = None
        self._probe = None
        self.usual = None  # the plan of the layout that most bodies have
        if schema is None or schema.is_tensor_spec() or not schema.has_input_names():
            return
        try:
            self._names = list(schema.input_names())
            self._probe = _Probe(model)
            self._enforcement = _Enforcement()
        except Exception:
            self._probe = None  # an MLflow that is built otherwise
            return
        self._library = known.library(model)
        self._predict = model._predict_fn
        letters = [columns.LETTERS.get(str(t)) for t in _types(schema)]
        if all(letters):
            head = columns.head(columns.FRAME, False, list(zip(letters, self._names)))
            self.usual = decoder.plan(head)
            self.way(self.usual)

    @property
    def library(self):
        """Whether the model is a library's, and called directly."""
        return self._library

    def way(self, plan):
        """How to build the frame of a layout, or False."""
        if plan.way is None:
            plan.way = False
            if self._probe is not None and self._tried < MAX_LAYOUTS:
                self._tried += 1
                plan.way = self._prove(plan)
        return plan.way

    def frame(self, payload):
        """The frame that the model is to get, or None."""
        plan, rows, size, at = self._decoder.open(payload)
        way = plan.way
        if way is None:
            way = self.way(plan)
        return way(payload, rows, at) if way and not size else None

    def predict(self, frame):
        """What a library's model answers. It may fail in any way."""
        return self._predict(frame, **copy.deepcopy(self._call))

    def ask(self, model, payload):
        """The model's answer, as MLflow's functions got it; NOTHING where the long way is to be gone."""
        frame = self.frame(payload)
        if frame is None:
            return self.NOTHING
        if not self._library:
            return self._ask_long(model, _Columns(self._decoder, payload, frame), None)
        try:
            return self.predict(frame)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: B902 the long way ends in it as well
            return self.NOTHING

    def _prove(self, plan):
        way = self._build(plan)
        if way is None:
            return False
        try:
            for payload in _samples(plan):
                data, _ = self._decoder.decode(payload)
                long, call = self._probe.given(self._ask_long, data)
                _, rows, _, at = self._decoder.open(payload)
                short = way(payload, rows, at)
                seen, _ = self._probe.given(self._ask_long, _Columns(self._decoder, payload, short))
                if seen is not short or not same(long, way(payload, rows, at)):
                    return False
                if self._call is None:
                    self._call = call
                if call != self._call:
                    return False
        except Exception:
            return False
        return way

    def _build(self, plan):
        names = {name for _, name in plan.fields}
        order = [name for name in self._names if name in names]
        letters = {letter for letter, _ in plan.fields}
        if len(order) != len(plan.fields) or plan.form not in (columns.FRAME, columns.ARRAYS, columns.ROWS, columns.SCALARS):
            return None
        if len(letters) == 1 and "s" not in letters:
            return _block_way(plan, order)
        if "s" in letters and plan.form not in (columns.FRAME, columns.ARRAYS):
            return None
        return self._column_way(plan, order)

    def _column_way(self, plan, order):
        values_of, string = self._decoder.values, self._decoder.string

        def way(payload, rows, at):
            values, index = values_of(payload, plan, rows, at)
            if plan.form == columns.ARRAYS:
                values = {n: np.array(v, string) if type(v) is list else v for n, v in values.items()}
            return pd.DataFrame({name: values[name] for name in order}, index=index)

        return way


def _block_way(plan, order):
    """Columns of one type are one block of a frame, and lie like that in the payload."""
    dtype = np.dtype(plan.fields[0][0])
    sent = [name for _, name in plan.fields]
    turn = None if sent == order else [sent.index(name) for name in order]
    labels = pd.DataFrame({name: np.zeros(1) for name in order}).columns
    count, width = len(order), dtype.itemsize

    def way(payload, rows, at):
        index = None
        at = -(-at // 8) * 8
        if plan.has_index:
            index = np.frombuffer(payload, "<i8", rows, at)
            at += 8 * rows
        block = np.ndarray((count, rows), dtype, payload, at, (-(-rows * width // 8) * 8, width))
        block = block.copy() if turn is None else block[turn]
        return pd.DataFrame(block.T, index=index, columns=labels.view(), copy=False)

    return way


class _Columns:
    """A request on its way through MLflow's functions: its frame, and how it
    would have looked in their messages."""

    __slots__ = ("_decoder", "_payload", "frame")

    def __init__(self, decoder, payload, frame):
        self._decoder = decoder
        self._payload = payload
        self.frame = frame

    def __str__(self):
        return str(self._decoder.decode(self._payload)[0])

    __repr__ = __str__


class _Enforcement:
    """Lets a _Columns through MLflow's check of the schema as its frame."""

    def __init__(self):
        import mlflow.pyfunc

        enforce = mlflow.pyfunc._enforce_schema
        if getattr(enforce, "loadline", False):
            return

        def _enforce_schema(pf_input, *args, **kwargs):
            if type(pf_input) is _Columns:
                return pf_input.frame
            return enforce(pf_input, *args, **kwargs)

        _enforce_schema.loadline = True
        mlflow.pyfunc._enforce_schema = _enforce_schema


class _Probe:
    """A model with the signature of another that keeps what it is given."""

    def __init__(self, model):
        from mlflow.pyfunc import PyFuncModel

        hinted = getattr(model.metadata, "_is_type_hint_from_example", None)
        if type(model) is not PyFuncModel or hinted and hinted():
            raise TypeError("not a model as MLflow loads them")
        self.predict = _Taker(inspect.signature(model._predict_fn))
        self._model = PyFuncModel(model_meta=model.metadata, model_impl=self, predict_fn="predict")

    def given(self, ask, data):
        """(the frame, the other arguments) that the model is called with."""
        self.predict.calls = []
        ask(self._model, data, None)
        ((args, kwargs),) = self.predict.calls
        (frame,) = args
        return frame, kwargs


class _Taker:
    def __init__(self, signature):
        self.__signature__ = signature
        self.calls = []

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return [0]


def _types(schema):
    from mlflow.types import DataType

    for t in schema.input_types():
        yield t.name if isinstance(t, DataType) else None


def same(a, b):
    """Whether a model could not tell two frames apart."""
    if type(a) is not pd.DataFrame or type(b) is not pd.DataFrame:
        return False
    if not (_same_index(a.columns, b.columns) and _same_index(a.index, b.index)) or a.attrs != b.attrs:
        return False
    ours, theirs = a._mgr.blocks, b._mgr.blocks
    return len(ours) == len(theirs) and all(map(_same_block, ours, theirs))


def _same_index(a, b):
    if type(a) is not type(b) or a.dtype != b.dtype or a.names != b.names:
        return False
    if isinstance(a, pd.RangeIndex):
        return (a.start, a.stop, a.step) == (b.start, b.stop, b.step)
    return a.tolist() == b.tolist()


def _same_block(a, b):
    x, y = a.values, b.values
    if type(x) is not type(y) or x.dtype != y.dtype or x.shape != y.shape:
        return False
    if a.mgr_locs.as_array.tolist() != b.mgr_locs.as_array.tolist():
        return False
    if isinstance(x, np.ndarray):
        flags = ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE", "ALIGNED")
        if any(x.flags[f] != y.flags[f] for f in flags):
            return False
        if x.dtype != object:
            return x.tobytes() == y.tobytes()
    return _spelt(x) == _spelt(y)


def _spelt(values):
    return [(type(v), repr(v)) for v in np.asarray(values, dtype=object).ravel().tolist()]


_EDGES = {
    "d": [float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 1.7e308, 1.0, 0.0],
    "f": [float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38, 1.0, 0.0],
    "q": [2**63 - 1, -(2**63), 2**53 + 1, 0, 1, -1],
    "i": [2**31 - 1, -(2**31), 0, 1, -1],
    "?": [True, False],
    "s": ["", "é😀", "nan", "1.5", "2024-01-02", "None", "a\0b", "x" * 300],
}
_PLAIN = {"d": [0.5, -1.25, 3.0], "f": [0.5, -1.25, 3.0], "q": [3, -7, 12], "i": [3, -7, 12], "?": [True, False],
          "s": ["ab", "c"]}
_MISSING = {"s": [None], "d": [float("nan")], "f": [float("nan")]}
_INDEXES = [lambda n: range(n), lambda n: range(n, 0, -1), lambda n: [7] * n, lambda n: [i * i - 3 for i in range(n)]]


def _samples(plan):
    """Payloads of a layout with rows of all kinds."""
    some_missing = {k: v + _MISSING.get(k, []) for k, v in _PLAIN.items()}
    all_missing = dict(_PLAIN, **_MISSING)
    indexes = _INDEXES if plan.has_index else [None]
    for i, (kinds, rows) in enumerate([(_PLAIN, 1), (_PLAIN, 2), (_EDGES, 1), (_EDGES, 3), (some_missing, 4), (all_missing, 1),
                                       (all_missing, 3), (_EDGES, 41), (_PLAIN, 5), (_PLAIN, 7)]):
        if plan.form == columns.SCALARS:
            rows = 1
        index = indexes[i % len(indexes)]
        table = {}
        for k, (letter, name) in enumerate(plan.fields):
            known_values = kinds[letter]
            table[name] = [known_values[(r + k) % len(known_values)] for r in range(rows)]
        yield columns.payload(plan, rows, table, index and list(index(rows)))



"""Requests and answers that cross as typed buffers.

The layouts are described in scoring/columns.go, scoring/params.go and
scoring/table.go. From the buffers the same containers are made that MLflow's
parser makes of the JSON text, down to dtypes and index, so that schema
enforcement and the model cannot tell the difference.
"""

import struct

import numpy as np
import pandas as pd

FRAME, ARRAYS, ROWS, SCALARS, ARRAY = 1, 2, 3, 4, 5

VECTOR, MATRIX, RECORDS = 1, 2, 3
MISSING_NAN, MISSING_NULL = -1, -2

_DTYPES = {c: np.dtype(c) for c in "dfqi?"}
_U32 = struct.Struct("<I")
_REST = struct.Struct("<II")
_FIELD = struct.Struct("<BH")


class Plan:
    """What the head of a payload says: the container, and its columns."""

    __slots__ = ("head", "form", "has_index", "fields", "way")

    def __init__(self, head):
        self.head = head
        self.form, self.has_index, self.fields = _fields(head)
        self.way = None  # see straight.py


class Decoder:
    """Takes column payloads apart for one model."""

    def __init__(self, schema):
        self._plans = {}
        self._tensor = schema is not None and schema.is_tensor_spec()
        self.string = None  # numpy's type of a text, as MLflow has it
        if schema is not None and not self._tensor:
            from mlflow.types import DataType

            self.string = DataType.string.to_numpy()

    def plan(self, head):
        plan = self._plans.get(head)
        if plan is None:
            plan = Plan(head)
            if len(self._plans) < 256:
                self._plans[head] = plan
        return plan

    def open(self, payload):
        """(plan, rows, bytes of params, where those begin)."""
        (length,) = _U32.unpack_from(payload)
        plan = self.plan(bytes(payload[4 : 4 + length]))
        rows, size = _REST.unpack_from(payload, 4 + length)
        return plan, rows, size, 4 + length + _REST.size

    def decode(self, payload):
        """(data for model.predict, params or None)."""
        plan, rows, size, at = self.open(payload)
        params = _params(payload, at) if size else None
        values, index = self.values(payload, plan, rows, at + size)
        return self.contain(plan.form, rows, values, index), params

    def values(self, payload, plan, rows, at):
        """(name → array or list of texts, index or None). Arrays lie in the payload."""
        index = None
        if plan.has_index:
            at = -(-at // 8) * 8
            index = np.frombuffer(payload, _DTYPES["q"], rows, at)
            at += 8 * rows
        values = {}
        for letter, name in plan.fields:
            at = -(-at // 8) * 8
            if self._tensor:
                values[name], at = _tensor(payload, letter, at)
            elif letter == "s":
                values[name], at = _texts(payload, rows, at)
            else:
                dtype = _DTYPES[letter]
                values[name] = np.frombuffer(payload, dtype, rows, at)
                at += rows * dtype.itemsize
        return values, index

    def contain(self, form, rows, values, index):
        if form == FRAME:
            return pd.DataFrame(values, index=index)
        if form == ARRAY:
            return next(iter(values.values()))
        # The values lie in the frame's buffer, the model gets its own.
        arrays = {
            name: np.array(v, self.string) if type(v) is list else v.copy() for name, v in values.items()
        }
        if form == ARRAYS:
            return arrays
        if form == SCALARS:
            return {name: a[0] for name, a in arrays.items()}
        if self.string is not None:
            # Each text is as wide as itself, not as the widest of its column.
            for name, v in values.items():
                if type(v) is list:
                    arrays[name] = [np.array([s], self.string)[0] for s in v]
        return [{name: a[i] for name, a in arrays.items()} for i in range(rows)]


# What MLflow calls the types of columns.
LETTERS = {"double": "d", "float": "f", "long": "q", "integer": "i", "boolean": "?", "string": "s"}


def head(form, has_index, fields):
    """The head of a payload with fields, (letter, name) each."""
    out = [bytes((form, has_index))]
    for letter, name in fields:
        name = name.encode("utf-8")
        out.append(_FIELD.pack(ord(letter), len(name)) + name)
    return b"".join(out)


def payload(plan, rows, table, index=None):
    """What the agent would send: name → values, without params."""
    out = bytearray(_U32.pack(len(plan.head)) + plan.head + _REST.pack(rows, 0))
    for letter, values in ([("q", index)] if plan.has_index else []) + [(k, table[n]) for k, n in plan.fields]:
        out += bytes(-len(out) % 8)
        if letter == "s":
            texts = [None if v is None else v.encode("utf-8") for v in values]
            out += struct.pack("<%di" % rows, *(-1 if v is None else len(v) for v in texts))
            out += b"".join(v for v in texts if v is not None)
        else:
            out += struct.pack("<%d%s" % (rows, letter), *values)
    return out


def _fields(head):
    form, has_index = head[0], head[1]
    fields = []
    at = 2
    while at < len(head):
        letter, size = _FIELD.unpack_from(head, at)
        at += _FIELD.size
        fields.append((chr(letter), head[at : at + size].decode("utf-8")))
        at += size
    return form, has_index, fields


def _texts(payload, rows, at):
    lengths = np.frombuffer(payload, "<i4", rows, at).tolist()
    at += 4 * rows
    out = []
    for n in lengths:
        if n < 0:
            out.append(None)
        else:
            out.append(payload[at : at + n].decode("utf-8"))
            at += n
    return out, at


def _tensor(payload, letter, at):
    (dimensions,) = _U32.unpack_from(payload, at)
    shape = struct.unpack_from("<%dI" % dimensions, payload, at + 4)
    at = -(-(at + 4 + 4 * dimensions) // 8) * 8
    dtype = _DTYPES[letter]
    count = 1
    for extent in shape:
        count *= extent
    values = np.frombuffer(payload, dtype, count, at).reshape(shape).copy()
    return values, at + count * dtype.itemsize


def _params(payload, at):
    (members,) = struct.unpack_from("<H", payload, at)
    at += 2
    out = {}
    for _ in range(members):
        (size,) = struct.unpack_from("<H", payload, at)
        at += 2
        name = payload[at : at + size].decode("utf-8")
        out[name], at = _param(payload, at + size)
    return out


def _param(payload, at):
    letter = chr(payload[at])
    at += 1
    if letter == "q":
        return struct.unpack_from("<q", payload, at)[0], at + 8
    if letter == "d":
        return struct.unpack_from("<d", payload, at)[0], at + 8
    if letter == "s":
        (size,) = _U32.unpack_from(payload, at)
        return payload[at + 4 : at + 4 + size].decode("utf-8"), at + 4 + size
    if letter == "l":
        (items,) = _U32.unpack_from(payload, at)
        at += 4
        out = []
        for _ in range(items):
            item, at = _param(payload, at)
            out.append(item)
        return out, at
    return {"n": None, "t": True, "f": False}[letter], at


def encode(raw):
    """The parts of a table, or None for an answer that has to go as text."""
    kind = type(raw)
    if kind is np.ndarray:
        if raw.ndim == 1:
            block = _block(raw)
            return block and [struct.pack("<BII", VECTOR, len(raw), 1)] + block
        if raw.ndim == 2:
            block = _block(raw)
            return block and [struct.pack("<BII", MATRIX, *raw.shape)] + block
        return None
    if kind is list:
        block = _list_block(raw)
        return block and [struct.pack("<BII", VECTOR, len(raw), 1)] + block
    if kind is pd.Series:
        raw, kind = pd.DataFrame(raw), pd.DataFrame
    if kind is pd.DataFrame:
        return _records(raw)
    return None


def _records(frame):
    columns = frame.columns.tolist()
    if not columns or not frame.columns.is_unique:
        return None
    parts = [struct.pack("<BII", RECORDS, len(frame), len(columns))]
    for i, name in enumerate(columns):
        if type(name) is int:
            name = str(name)
        elif type(name) is not str:
            return None
        column = frame.iloc[:, i]
        if isinstance(column.dtype, np.dtype):
            block = _block(column.to_numpy())
        elif isinstance(column.dtype, pd.StringDtype):
            block = _text_block(column.tolist())
        else:
            block = None
        try:
            key = name.encode("utf-8")
        except UnicodeEncodeError:
            return None
        if block is None:
            return None
        parts.append(_U32.pack(len(key)) + key)
        parts += block
    return parts


# Only native byte order equals these, and the wire's is little-endian, as all
# machines are that a wheel of pandas is built for.
_LETTERS = {np.dtype(c): c.encode() for c in "dfqQiIhHbB?"}


def _block(array):
    letter = _LETTERS.get(array.dtype)
    if letter is not None:
        return [letter, np.ascontiguousarray(array).reshape(-1).data.cast("B")] if array.size else [letter]
    if array.dtype.kind in "OU":
        return _text_block(array.reshape(-1).tolist())
    return None


def _list_block(values):
    kinds = set(map(type, values))
    if len(kinds) != 1:
        return None
    (kind,) = kinds
    if kind is float:
        return _block(np.array(values, "<f8"))
    if kind is bool:
        return _block(np.array(values, "?"))
    if kind is str:
        return _text_block(values)
    if kind is int:
        try:
            return _block(np.array(values, "<i8"))
        except OverflowError:
            return None
    return None


def _text_block(values):
    lengths, texts = [], []
    for v in values:
        if type(v) is str:
            try:
                v = v.encode("utf-8")
            except UnicodeEncodeError:
                return None
            lengths.append(len(v))
            texts.append(v)
        elif v is None:
            lengths.append(MISSING_NULL)
        elif type(v) is float and v != v:
            lengths.append(MISSING_NAN)
        else:
            return None
    return [b"s", struct.pack("<%di" % len(lengths), *lengths), b"".join(texts)]

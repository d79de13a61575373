"""Whether rows of different requests may go to the model in one call.

Only for models that are a library's through and through (known.py), and only as
many rows as was shown to be without effect: rows like the model's own example
and made-up ones are answered each alone and then together, and each row's answer
must be the same bytes. (Sums over many rows may be taken in another order than
over one, and then the last digit differs; this shows here.) Only the numbers of
rows that were tried are used. And it must pay: half the time for each row at most.
"""

import math
import random
import time
import warnings

import numpy as np
import pandas as pd

from . import columns

SIZES = [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
ENOUGH = 0.25  # seconds of processor time for all of it, or
CALLS = 30  # that many calls of a slow model, but never more than
TOO_LONG = 2.0

_HALF = 0.5  # of the time that a row takes alone


class Refuted(Exception):
    """Why rows stay alone."""


def prove(model):
    """([how many rows may go together], why)"""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _prove(model)
    except Refuted as e:
        return [], str(e)
    except Exception as e:
        return [], "it could not be tried: %s" % type(e).__name__


def _prove(model):
    straight = model.straight
    if not straight.library:
        return [], "the model is not known to answer each row by itself"
    plan = straight.usual
    if plan is None or not straight.way(plan):
        return [], "its columns go the long way"
    spent = time.process_time
    start = spent()
    alone, took = _alone(model, plan, start)
    bound = min(TOO_LONG, max(ENOUGH, CALLS * took))
    proven, pays = [], 0
    for size in SIZES:
        # Which rows meet, and at which place, changes with the size.
        members = [alone[(5 * size + 7 * i) % len(alone)] for i in range(size)]
        began = spent()
        raw = _predict(model, plan, [row for row, _ in members])
        each = (spent() - began) / size
        for i, (_, answer) in enumerate(members):
            if _bytes(model, _row(raw, i, size)) != answer:
                raise Refuted("of %d rows together, one is answered differently than alone" % size)
        proven.append(size)
        if each <= _HALF * took:
            pays = size
        if spent() - start > bound:
            break
    if pays < proven[-1] // 2 + 1:
        return [], "%d rows together take as long as one by one" % proven[-1]
    return proven, "up to %d rows together are answered as each alone" % proven[-1]


def _alone(model, plan, start):
    """[(row, its answer alone)], and the seconds that one takes."""
    out, times = [], []
    for row in _rows(model, plan):
        began = time.process_time()
        try:
            raw = _predict(model, plan, [row])
        except Exception:
            continue  # what the model refuses says nothing
        times.append(time.process_time() - began)
        answer = _bytes(model, _row(raw, 0, 1))
        if answer is not None:
            out.append((row, answer))
        took = sorted(times)[len(times) // 2]
        different = len(set(a for _, a in out)) > 1
        if len(out) >= 16 and different or time.process_time() - start > max(ENOUGH / 2, 8 * took):
            break
    if len(out) < 4:
        raise Refuted("too few of the rows that were tried have an answer")
    if len(set(a for _, a in out)) < 2:
        raise Refuted("all rows that were tried have the same answer")
    return out, took


def _predict(model, plan, rows):
    table = {name: [row[i] for row in rows] for i, (_, name) in enumerate(plan.fields)}
    return model.straight.predict(model.straight.frame(columns.payload(plan, len(rows), table)))


def _row(raw, i, size):
    """The i-th row of an answer of size rows, as an answer of one."""
    if isinstance(raw, (np.ndarray, list)) and np.ndim(raw) and len(raw) == size:
        return raw[i : i + 1]
    if isinstance(raw, (pd.DataFrame, pd.Series)) and len(raw) == size:
        return raw.iloc[i : i + 1]
    raise Refuted("the answer has not one entry for each row")


def _bytes(model, answer):
    parts = model.encode(answer)
    if parts is None:
        raise Refuted("the answer is none that crosses as a table")
    return b"".join(bytes(p) for p in parts)


def _rows(model, plan):
    """Rows like those of the model's example, and made-up ones: 64."""
    dice = random.Random(64)
    examples = _examples(model, plan)
    yield from examples[:4]
    for n in range(64 - len(examples[:4])):
        like = dice.choice(examples) if examples and n % 4 else None
        yield [_draw(dice, letter, like and like[i], [e[i] for e in examples]) for i, (letter, _) in enumerate(plan.fields)]


def _examples(model, plan):
    """The rows of the example that came with the model, as they cross."""
    frame = getattr(model.model, "input_example", None)
    if frame is None:
        try:
            frame = model.model.metadata.load_input_example(model.path)
        except Exception:
            return []  # none, or one that this MLflow cannot read
    names = [name for _, name in plan.fields]
    if not isinstance(frame, pd.DataFrame) or not set(names) <= set(frame.columns):
        return []
    rows = frame[names].head(16).to_numpy(dtype=object).tolist()
    return [row for row in rows if all(_fits(letter, v) for (letter, _), v in zip(plan.fields, row))]


def _fits(letter, v):
    if letter == "s":
        return isinstance(v, str)
    if letter == "?":
        return isinstance(v, (bool, np.bool_))
    if letter in "qi":
        return isinstance(v, (int, np.integer)) and not isinstance(v, bool) and abs(v) < 2**31
    return isinstance(v, (int, float, np.number)) and not isinstance(v, bool)


def _draw(dice, letter, like, others):
    if letter == "s":
        return dice.choice(others) if others else dice.choice(["a", "b", "c d"])
    if letter == "?":
        return dice.random() < 0.5
    if letter in "qi":
        return min(2**31 - 1, max(-(2**31), int(like) + dice.randrange(-3, 4))) if like is not None else dice.randrange(0, 12)
    if like is not None and math.isfinite(like):
        return float(like) * (1 + dice.gauss(0, 0.3)) + dice.gauss(0, 0.1)
    return dice.gauss(0, 1) * 10 ** dice.choice([0, 0, 1, 2])

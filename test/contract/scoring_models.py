"""The models of the differential test.

Each function is one model; its name is the folder's. They are small, quick to
load, and between them have every kind of signature, input and answer.
"""

import datetime
import decimal
import inspect
import os
import sys
import tempfile
from typing import Dict, List, Optional

os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite://")

import mlflow
import numpy as np
import pandas as pd
import pydantic
from mlflow.models import ModelSignature, infer_signature
from mlflow.pyfunc import ChatModel, PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.llm import ChatChoice, ChatChunkChoice, ChatChoiceDelta, ChatCompletionChunk, ChatCompletionResponse, ChatMessage
from mlflow.types.schema import Array, Object, Property

NONE = []  # pip requirements: the environment is there already
RNG = np.random.default_rng(7)


def custom(path, model, signature=None, **kw):
    mlflow.pyfunc.save_model(path, python_model=model, signature=signature, pip_requirements=NONE, **kw)


def save_sklearn(model, path, **kw):
    if "skops_trusted_types" in inspect.signature(mlflow.sklearn.save_model).parameters:
        kw["skops_trusted_types"] = ["numpy.dtype"]  # from 3.17 on models are no pickles
    mlflow.sklearn.save_model(model, path, pip_requirements=NONE, **kw)


def numbers(n=200):
    return pd.DataFrame(RNG.normal(size=(n, 4)), columns=["a", "b", "c", "d"])


def logistic(path):
    from sklearn.linear_model import LogisticRegression

    x = numbers()
    model = LogisticRegression().fit(x, (x["a"] + x["b"] > 0).astype(int))
    save_sklearn(model, path, signature=infer_signature(x, model.predict(x)))


def pipeline(path):
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    n = 200
    x = pd.DataFrame({
        "age": np.where(RNG.random(n) < 0.1, np.nan, RNG.integers(18, 80, n)),
        "income": RNG.normal(50, 10, n),
        "city": RNG.choice(["Paris", "Oslo", "Łódź"], n),
        "plan": RNG.choice(["basic", "gold"], n),
    })
    y = np.where(x["income"] + (x["city"] == "Oslo") * 10 > 52, "yes", "no")
    number = make_pipeline(SimpleImputer(), StandardScaler())
    word = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    model = make_pipeline(
        ColumnTransformer([("n", number, ["age", "income"]), ("w", word, ["city", "plan"])]), LogisticRegression()
    ).fit(x, y)
    schema = Schema([
        ColSpec(DataType.double, "age"),
        ColSpec(DataType.double, "income"),
        ColSpec(DataType.string, "city"),
        ColSpec(DataType.string, "plan", required=False),
    ])
    save_sklearn(model, path, signature=ModelSignature(inputs=schema))


def xgboost(path):
    import xgboost as xgb

    x = numbers()
    model = xgb.XGBRegressor(n_estimators=5, max_depth=3).fit(x, x["a"] * 2 + x["c"])
    mlflow.xgboost.save_model(model, path, signature=infer_signature(x, model.predict(x)), pip_requirements=NONE)


def lightgbm(path):
    import lightgbm as lgb

    x = numbers()
    x["k"] = RNG.integers(0, 5, len(x))
    model = lgb.LGBMClassifier(n_estimators=5, num_leaves=7, verbose=-1).fit(x, (x["a"] > x["k"] - 2).astype(int))
    mlflow.lightgbm.save_model(model, path, signature=infer_signature(x, model.predict(x)), pip_requirements=NONE)


def text(path):
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    x = pd.DataFrame({"text": ["good day", "bad night", "good food", "bad luck", "fine day", "awful night"] * 5})
    model = make_pipeline(ColumnTransformer([("t", TfidfVectorizer(), "text")]), LogisticRegression())
    model.fit(x, np.array([1, 0, 1, 0, 1, 0] * 5))
    signature = ModelSignature(inputs=Schema([ColSpec(DataType.string, "text")]))
    save_sklearn(model, path, signature=signature, pyfunc_predict_fn="predict_proba")


class Mirror(PythonModel):
    """Answers with what it was given: containers, dtypes and values."""

    def predict(self, context, model_input, params=None):
        return {"type": type(model_input).__name__, "seen": see(model_input), "params": repr(params)}


def see(x):
    if isinstance(x, pd.DataFrame):
        return {
            "index": repr(x.index), "columns": repr(x.columns), "blocks": len(x._mgr.blocks),
            "cells": {str(i): see(x.iloc[:, i]) for i in range(x.shape[1])},
        }
    if isinstance(x, pd.Series):
        return [str(x.dtype), [repr(v) for v in x.tolist()]]
    if isinstance(x, np.ndarray):
        return [str(x.dtype), list(x.shape), x.flags["C_CONTIGUOUS"], x.flags["WRITEABLE"], repr(x.tolist())]
    if isinstance(x, dict):
        return {str(k): see(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [see(v) for v in x]
    return "%s %r" % (type(x).__name__, x)


def scalars(path):
    custom(path, Mirror(), ModelSignature(inputs=Schema([
        ColSpec(DataType.double, "d"),
        ColSpec(DataType.float, "f"),
        ColSpec(DataType.long, "l"),
        ColSpec(DataType.integer, "i"),
        ColSpec(DataType.boolean, "b"),
        ColSpec(DataType.string, "s"),
        ColSpec(DataType.double, "od", required=False),
        ColSpec(DataType.string, "os", required=False),
        ColSpec(DataType.long, "ol", required=False),
    ])))


def single(path):
    custom(path, Mirror(), ModelSignature(inputs=Schema([ColSpec(DataType.long, "only")])))


def calendar(path):
    custom(path, Mirror(), ModelSignature(inputs=Schema([
        ColSpec(DataType.datetime, "t"), ColSpec(DataType.binary, "y"), ColSpec(DataType.long, "l", required=False),
    ])))


def nested(path):
    custom(path, Mirror(), ModelSignature(inputs=Schema([
        ColSpec(Array(DataType.double), "v"),
        ColSpec(Object([Property("name", DataType.string), Property("age", DataType.long, required=False)]), "o"),
    ])))


def nameless(path):
    custom(path, Mirror(), ModelSignature(inputs=Schema([ColSpec(DataType.double), ColSpec(DataType.string)])))


class Shifted(PythonModel):
    def predict(self, context, model_input, params=None):
        import contract_helper

        params = params or {}
        out = contract_helper.shift(model_input["x"].to_numpy(), params.get("by", 0), params.get("names"))
        return out


def params(path):
    with tempfile.TemporaryDirectory() as folder:
        helper = os.path.join(folder, "contract_helper.py")
        with open(helper, "w") as f:
            f.write("def shift(x, by, names):\n    return [float(v) + by + len(names or []) for v in x]\n")
        custom(path, Shifted(), ModelSignature(
            inputs=Schema([ColSpec(DataType.double, "x")]),
            params=ParamSchema([
                ParamSpec("by", DataType.double, 0.5),
                ParamSpec("n", DataType.long, 3),
                ParamSpec("word", DataType.string, "w"),
                ParamSpec("flag", DataType.boolean, False),
                ParamSpec("names", DataType.string, ["q"], shape=(-1,)),
                ParamSpec("when", DataType.datetime, np.datetime64("2024-01-02T00:00:00").item()),
            ]),
        ), code_paths=[helper])


class Forms(PythonModel):
    """Gives back the kind of answer that it is asked for."""

    def predict(self, context, model_input, params=None):
        kind, n = model_input["kind"].iloc[0], len(model_input)
        return ANSWERS[kind](n)


def stutter():
    yield 1
    raise ValueError("in the middle")


ANSWERS = {
    "frame": lambda n: pd.DataFrame({"i": range(n), "f": [0.1] * n, "s": ["é\"\\\n\x7f😀"] * n, "b": [True] * n}),
    "frame32": lambda n: pd.DataFrame({"f": np.full(n, 0.1, "float32"), "u": np.full(n, 255, "uint8")}),
    "frame_int_names": lambda n: pd.DataFrame(np.arange(2.0 * n).reshape(n, 2)),
    "frame_float_names": lambda n: pd.DataFrame(np.ones((n, 2)), columns=[0.5, 1.5]),
    "frame_twice": lambda n: pd.DataFrame(np.ones((n, 2)), columns=["a", "a"]),
    "frame_empty": lambda n: pd.DataFrame({"a": []}),
    "frame_no_columns": lambda n: pd.DataFrame(index=range(n)),
    "frame_missing": lambda n: pd.DataFrame({"s": ["x", None], "f": [np.nan, np.inf], "o": [None, 1]}),
    "frame_nullable": lambda n: pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": pd.array([True, None], dtype="boolean")}),
    "frame_time": lambda n: pd.DataFrame({"t": pd.to_datetime(["2024-01-02", None]), "c": pd.Categorical(["p", "q"])}),
    "frame_lists": lambda n: pd.DataFrame({"v": [[1, 2], [3]]}),
    "series": lambda n: pd.Series(np.arange(n) + 0.5),
    "series_named": lambda n: pd.Series(["a"] * n, name="who"),
    "series_index": lambda n: pd.Series([1, 2], index=["x", "y"], name="z"),
    "float64": lambda n: np.linspace(-1, 1e17, 7) * 1.1,
    "float32": lambda n: np.linspace(-1, 1e17, 7).astype("float32"),
    "float16": lambda n: np.array([0.1, 2], "float16"),
    "special": lambda n: np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 1e16, 1e15, 1e-4, 1e-5, 123456789012345678.0]),
    "int8": lambda n: np.array([-128, 127], "int8"),
    "uint64": lambda n: np.array([0, 2**64 - 1], "uint64"),
    "int64_2d": lambda n: np.arange(6).reshape(2, 3),
    "float64_fortran": lambda n: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "sliced": lambda n: np.arange(10.0)[::-2],
    "bool": lambda n: np.array([True, False]),
    "deep": lambda n: np.ones((2, 2, 2)),
    "zero_d": lambda n: np.array(3.5),
    "no_rows": lambda n: np.ones((0, 3)),
    "no_columns": lambda n: np.ones((3, 0)),
    "strings": lambda n: np.array(["a", "bé"]),
    "objects": lambda n: np.array(["a", None, 1.5, b"x"], dtype=object),
    "object_strings": lambda n: np.array(["yes", "no"], dtype=object),
    "bytes_array": lambda n: np.array([b"ab", b"c"]),
    "time_array": lambda n: np.array(["2024-01-02"], "datetime64[ns]"),
    "day_array": lambda n: np.array(["2024-01-02"], "datetime64[D]"),
    "complex_array": lambda n: np.array([1j]),
    "list_float": lambda n: [0.1, 2.0, float("nan")],
    "list_int": lambda n: [1, 2**70, -3],
    "list_small": lambda n: [1, 2, -3],
    "list_bool": lambda n: [True, False],
    "list_mixed": lambda n: [1, "a", None, 2.5, True],
    "list_str": lambda n: ["a", "\u2028", "\ud800"],
    "list_nested": lambda n: [[1.0, 2.0], [3.0]],
    "list_numpy": lambda n: [np.float64(0.1), np.float32(0.1), np.int64(3)],
    "list_empty": lambda n: [],
    "tuple": lambda n: (1, 2.5),
    "str": lambda n: "hello",
    "none": lambda n: None,
    "int": lambda n: 7,
    "float": lambda n: 1e100,
    "numpy_scalar": lambda n: np.float32(0.1),
    "dict": lambda n: {"a": [1, 2], "b": "x"},
    "dict_arrays": lambda n: {"a": np.arange(3), "b": np.ones((2, 2), "float32")},
    "dict_keys": lambda n: {1: 1, True: 2, None: 3, 2.5: 4, float("nan"): 5},
    "dict_predictions": lambda n: {"predictions": [1]},
    "dict_tuple_keys": lambda n: {(1, 2): 3},
    "bytes": lambda n: b"hi" * 60,
    "date": lambda n: datetime.date(2024, 1, 2),
    "datetime": lambda n: datetime.datetime(2024, 1, 2, 3, 4, 5, 600),
    "timestamp": lambda n: pd.Timestamp("2024-01-02T03:04:05.123456789"),
    "datetimes": lambda n: [datetime.datetime(2024, 1, 2), datetime.time(1, 2)],
    "timedelta": lambda n: datetime.timedelta(1),
    "decimal": lambda n: decimal.Decimal("1.5"),
    "complex": lambda n: 1j,
    "set": lambda n: {1},
    "index": lambda n: pd.Index([1, 2]),
    "na": lambda n: pd.NA,
    "frame_in_list": lambda n: [pd.DataFrame({"a": [1]})],
    "generator": lambda n: (i for i in range(3)),
    "stutter": lambda n: stutter(),
    "model": lambda n: Person(name="Ann", age=3),
    "masked": lambda n: np.ma.array([1.0, 2.0], mask=[0, 1]),
    "record_array": lambda n: np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
    "matrix": lambda n: np.matrix([[1, 2]]),
}


def forms(path):
    custom(path, Forms(), ModelSignature(inputs=Schema([ColSpec(DataType.string, "kind")])))


class Faults(PythonModel):
    """Fails in the way it is asked to."""

    def predict(self, context, model_input, params=None):
        kind = model_input["kind"].iloc[0]
        from mlflow.exceptions import MlflowException

        if kind == "print":
            print("to stdout")
            os.write(1, b"\xff\xfe raw bytes\n")
            return [1]
        if kind == "recursion":
            return self.predict(context, model_input)
        if kind == "exit":
            sys.exit(3)
        if kind.startswith("mlflow:"):
            raise MlflowException("because of %s" % kind, error_code=codes()[kind[7:]])
        if kind == "mlflow":
            raise MlflowException("plain")
        if kind == "members":
            raise MlflowException("more", error_code=codes()["BAD_REQUEST"], hint="look", n=3)
        if kind == "bad members":
            raise MlflowException("more", error_code=codes()["BAD_REQUEST"], hint={1})
        raise {"value": ValueError, "key": KeyError, "memory": MemoryError, "stop": StopIteration,
               "os": OSError, "runtime": RuntimeError, "zero": ZeroDivisionError}[kind]("on purpose, é")


def codes():
    from mlflow.protos.databricks_pb2 import ErrorCode

    return dict(ErrorCode.items())


def faults(path):
    custom(path, Faults(), ModelSignature(inputs=Schema([ColSpec(DataType.string, "kind")])))


class Residuals(PythonModel):
    """As statsmodels answers: a Series."""

    def predict(self, context, model_input, params=None):
        return model_input["x"] * 2 + model_input["z"]


def series(path):
    custom(path, Residuals(), ModelSignature(inputs=Schema([ColSpec(DataType.double, "x"), ColSpec(DataType.long, "z")])))


def tensor(path):
    class Sums(PythonModel):
        def predict(self, context, model_input, params=None):
            return np.stack([model_input.sum(axis=1), model_input.max(axis=1)], axis=1)

    custom(path, Sums(), ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 4))])))


def cube(path):
    custom(path, Mirror(), ModelSignature(inputs=Schema([TensorSpec(np.dtype("int64"), (-1, 2, 2))])))


def tensors(path):
    custom(path, Mirror(), ModelSignature(inputs=Schema([
        TensorSpec(np.dtype("float64"), (-1, 2), "p"), TensorSpec(np.dtype("int32"), (-1,), "q"),
    ])))


def unsigned(path):
    custom(path, Mirror())


class Words(PythonModel):
    def predict(self, model_input: List[str], params=None) -> List[str]:
        return [w.upper() + "!" for w in model_input]


def words(path):
    custom(path, Words())


class Person(pydantic.BaseModel):
    name: str
    age: int
    tags: Optional[List[str]] = None
    height: float = 1.0


class People(PythonModel):
    def predict(self, model_input: List[Person], params=None) -> List[Dict[str, str]]:
        return [{"who": "%s %d %r %r" % (p.name, p.age, p.tags, p.height)} for p in model_input]


def people(path):
    custom(path, People())


class Chat(ChatModel):
    def predict(self, context, messages, params):
        text = "%d messages, last %r, temperature %r" % (len(messages), messages[-1].content, params.temperature)
        return ChatCompletionResponse(
            id="c1", created=5, model="m", choices=[ChatChoice(message=ChatMessage(role="assistant", content=text))]
        )

    def predict_stream(self, context, messages, params):
        for i, word in enumerate(["one", "two"]):
            if i and messages[-1].content == "fail":
                raise ValueError("on purpose")
            yield ChatCompletionChunk(
                id="c1", created=5, model="m",
                choices=[ChatChunkChoice(index=i, delta=ChatChoiceDelta(role="assistant", content=word))],
            )


def chat(path):
    custom(path, Chat())


class Prompted(PythonModel):
    def predict(self, context, model_input, params=None):
        return {"seen": see(model_input), "params": repr(params)}


def prompt(path):
    custom(path, Prompted(), ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt")]),
        params=ParamSchema([ParamSpec("temperature", DataType.double, 0.5), ParamSpec("max_tokens", DataType.long, 16)]),
    ))


MODELS = [logistic, pipeline, xgboost, lightgbm, text, scalars, single, calendar, nested, nameless, params, forms,
          faults, series, tensor, cube, tensors, unsigned, words, people, chat, prompt]


def write(folder):
    for make in MODELS:
        make(os.path.join(folder, make.__name__))

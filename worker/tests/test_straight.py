"""The short way from columns to the model, beside the long one. Needs MLflow."""

import os
import random
import tempfile
import unittest

os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite://")

try:
    import mlflow.pyfunc
    import numpy as np
    import sklearn
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
except ImportError:
    mlflow = None
else:
    from loadline_worker import columns, invoke, known, straight

    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            if model_input.iloc[0, 0] == 13:
                model_input.iloc[0, 0] = 14
                raise mlflow.exceptions.MlflowException("unlucky")
            return ["%s %s" % (dict(model_input.dtypes), model_input.to_numpy().tolist())]

    class Mine(sklearn.base.BaseEstimator):
        pass


TYPES = {"d": "double", "f": "float", "q": "long", "i": "integer", "?": "boolean", "s": "string"}


def load(model, letters, folder):
    schema = Schema([ColSpec(DataType[TYPES[k]], "c%d" % i) for i, k in enumerate(letters)])
    signature = ModelSignature(inputs=schema)
    if isinstance(model, mlflow.pyfunc.PythonModel):
        mlflow.pyfunc.save_model(folder, python_model=model, signature=signature, pip_requirements=[])
    else:
        mlflow.sklearn.save_model(model, folder, signature=signature, pip_requirements=[], serialization_format="cloudpickle")
    return invoke.Model(folder)


def plan(model, letters, form=1, index=False, order=None):
    fields = [(k, "c%d" % i) for i, k in enumerate(letters)]
    return model._decoder.plan(columns.head(form, index, [fields[i] for i in order or range(len(fields))]))


def draw(dice, letter):
    return {
        "d": lambda: dice.choice([dice.gauss(0, 1e3), float("nan"), 0.0, -0.0, 1.0]), "f": lambda: np.float32(dice.gauss(0, 9)).item(),
        "q": lambda: dice.randrange(-(2**63), 2**63), "i": lambda: dice.randrange(-(2**31), 2**31), "?": lambda: dice.random() < 0.5,
        "s": lambda: dice.choice(["", "x", "łó", "7", None, "True"]),
    }[letter]()


@unittest.skipIf(mlflow is None, "needs MLflow")
class StraightTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.made = 0

    def load(self, model, letters):
        self.made += 1
        return load(model, letters, os.path.join(self.folder, "m%d" % self.made))

    def test_the_frame_is_the_one_that_mlflow_makes(self):
        dice = random.Random(5)
        model = self.load(Echo(), "d")
        for letters in ["d", "ddd", "fff", "q", "ii", "???", "s", "dqsi?f", "sds"]:
            schema = Schema([ColSpec(DataType[TYPES[k]], "c%d" % i) for i, k in enumerate(letters)])
            model.model.metadata.signature = ModelSignature(inputs=schema)
            model.schema, model._decoder = schema, columns.Decoder(schema)
            short = straight.Straight(model.model, schema, model._decoder, model._ask_data)
            probe = straight._Probe(model.model)
            order = list(range(len(letters)))
            for form, index in [(1, False), (1, True), (2, False), (3, False), (4, False)]:
                for turn in [order, order[::-1]]:
                    p = plan(model, letters, form, index, turn)
                    way = short.way(p)
                    if form == columns.FRAME or form == columns.ARRAYS and "s" not in letters:
                        self.assertTrue(way, "%s in form %d is not proven" % (letters, form))
                    for rows in [1, 2, 9] if way and form != columns.SCALARS else [1] if way else []:
                        table = {n: [draw(dice, k) for _ in range(rows)] for k, n in p.fields}
                        payload = columns.payload(p, rows, table, [dice.randrange(-5, 5) for _ in range(rows)])
                        long, _ = probe.given(model._ask_data, model._decoder.decode(payload)[0])
                        self.assertTrue(straight.same(long, short.frame(payload)), "%s, form %d: %r" % (letters, form, table))

    def test_where_mlflow_gives_the_model_something_else_the_long_way_stays(self):
        enforce = mlflow.pyfunc._enforce_schema

        def restore():
            mlflow.pyfunc._enforce_schema = enforce

        self.addCleanup(restore)
        for change in [lambda f: f + 1, lambda f: f[::-1], lambda f: f.astype("float32"), lambda f: f.rename(columns={"c0": "C0"}),
                       lambda f: f.set_index(f.index + 1), lambda f: f.copy().assign(c0=f["c0"])[["c1", "c0"]]]:
            mlflow.pyfunc._enforce_schema = lambda data, *rest: change(enforce(data, *rest))
            model = self.load(Echo(), "dd")
            p = plan(model, "dd")
            self.assertIs(p.way, False)
            payload = columns.payload(p, 2, {"c0": [1.0, 2.0], "c1": [3.0, 4.0]})
            want = model._ask_data(model.model, *model._decoder.decode(payload))
            self.assertEqual(b"".join(map(bytes, model.columns(payload)))[14:], want[0].encode())

    def test_an_error_shows_the_data_as_it_came(self):
        model = self.load(Echo(), "dd")
        p = plan(model, "dd", order=[1, 0])
        self.assertTrue(model.straight.way(p))
        answer = model.columns(columns.payload(p, 1, {"c0": [13.0], "c1": [1.5]}))
        self.assertIn(r"   c1    c0\n0  1.5  13.0", answer.body.decode())
        self.assertIn("unlucky", answer.body.decode())

    def test_only_what_is_a_librarys_own_is_called_directly(self):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, StandardScaler

        x, y = np.arange(12.0).reshape(6, 2), [0, 1] * 3
        fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
        self.assertTrue(known.only_known(fitted))
        self.assertTrue(self.load(fitted, "dd").straight.library)
        self.assertFalse(self.load(Echo(), "dd").straight.library)
        for stranger in [Mine(), lambda: 0, FunctionTransformer(np.log1p), np.random.RandomState(0), np.vectorize(lambda v: v),
                         np.array([Mine()]), {"deep": [(Mine,)]}]:
            fitted.steps[0][1].extra = stranger
            self.assertFalse(known.only_known(fitted), repr(stranger))


if __name__ == "__main__":
    unittest.main()

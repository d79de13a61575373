"""Which models answer rows together as alone. Needs MLflow and scikit-learn."""

import os
import tempfile
import unittest

os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite://")

try:
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.compose import ColumnTransformer
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder
except ImportError:
    mlflow = None
else:
    from loadline_worker import columns, invoke, together


@unittest.skipIf(mlflow is None, "needs MLflow")
class TogetherTest(unittest.TestCase):
    def load(self, model, x):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "m")
        mlflow.sklearn.save_model(model, path, signature=infer_signature(x, model.predict(x)), input_example=x.head(3), pip_requirements=[],
                                  serialization_format="cloudpickle")
        return invoke.Model(path)

    def table(self):
        dice = np.random.default_rng(2)
        x = pd.DataFrame({"a": dice.normal(size=90), "k": dice.integers(0, 9, 90), "c": dice.choice(["u", "v", "w"], 90)})
        return x, (x["a"] + (x["c"] == "u") > 0.2).astype(int)

    def pipeline(self):
        x, y = self.table()
        ways = ColumnTransformer([("c", OneHotEncoder(), ["c"])], remainder="passthrough")
        return self.load(make_pipeline(ways, LogisticRegression()).fit(x, y), x)

    def test_rows_together_are_answered_as_alone(self):
        x, y = self.table()
        for model in [self.pipeline(), self.load(RandomForestClassifier(5, random_state=1).fit(x[["a", "k"]], y), x[["a", "k"]])]:
            sizes, why = together.prove(model)
            self.assertGreaterEqual(max(sizes, default=0), 8, why)
            plan = model.straight.usual
            rows = [[float(i) - 3, i % 5, "uvw"[i % 3]][: len(plan.fields)] for i in range(max(sizes))]
            names = [n for _, n in plan.fields]
            whole = model.together(columns.payload(plan, len(rows), {n: [r[i] for r in rows] for i, n in enumerate(names)}))
            letter, values = bytes(whole[1]).decode(), np.frombuffer(b"".join(whole[2:]), "i8")
            for row, value in zip(rows, values):
                alone = model.columns(columns.payload(plan, 1, {n: [row[i]] for i, n in enumerate(names)}))
                self.assertEqual((bytes(alone[1]).decode(), np.frombuffer(alone[2], "i8")[0]), (letter, value))

    def test_a_row_that_the_model_refuses_is_asked_alone(self):
        model = self.pipeline()
        table = {"a": [1.0, 2.0], "k": [1, 2], "c": ["u", "never seen"]}
        self.assertIsNone(model.together(columns.payload(model.straight.usual, 2, table)))

    def test_what_shows_that_rows_stay_alone(self):
        model = self.pipeline()
        predict = model.straight._predict

        def refused(change, word):
            model.straight._predict = change
            sizes, why = together.prove(model)
            self.assertEqual(sizes, [], why)
            self.assertIn(word, why)

        refused(lambda f, **_: predict(f) - predict(f).mean(), "")
        refused(lambda f, **_: predict(f) + 1e-15 * (len(f) > 4), "differently")
        refused(lambda f, **_: predict(f)[:1], "one entry")
        refused(lambda f, **_: predict(f).astype("i4" if len(f) > 9 else "i8"), "differently")
        refused(lambda f, **_: [object()] * len(f), "table")
        refused(lambda f, **_: np.array([predict(f.iloc[i : i + 1])[0] for i in range(len(f))]), "as long as one by one")
        refused(lambda f, **_: 1 / 0, "too few")

    def test_the_same_answer_to_everything_shows_nothing(self):
        x, y = self.table()
        sizes, why = together.prove(self.load(DummyRegressor().fit(x[["a"]], y), x[["a"]]))
        self.assertEqual((sizes, "same answer" in why), ([], True), why)


if __name__ == "__main__":
    unittest.main()

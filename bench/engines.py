"""Trains the models that the suite of engines serves.

usage: engines.py OUT REQUIREMENTS
Writes OUT/<name>/ (an MLflow model) and OUT/<name>.1.json and OUT/<name>.100.json
(request bodies of one row each, and of a hundred) for every model.
"""

import inspect
import json
import os
import sys

import mlflow
import numpy as np
import pandas as pd
import xgboost
from mlflow.models import infer_signature
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

rng = np.random.default_rng(1876)
NUMBERS = [f"x{i}" for i in range(10)]


def rows(n):
    frame = pd.DataFrame(rng.normal(0, 1, (n, len(NUMBERS))).round(4), columns=NUMBERS)
    frame["city"] = rng.choice(["Oslo", "Rome", "Paris", "Lima"], n)
    frame["plan"] = rng.choice(["basic", "gold"], n)
    return frame


def pipeline():
    fill = make_pipeline(SimpleImputer(), StandardScaler())
    encode = OneHotEncoder(handle_unknown="ignore")
    return make_pipeline(ColumnTransformer([("n", fill, NUMBERS), ("w", encode, ["city", "plan"])]), LogisticRegression())


MODELS = {
    "logistic": (mlflow.sklearn.save_model, "sk_model", LogisticRegression(), NUMBERS),
    "xgboost": (mlflow.xgboost.save_model, "xgb_model", xgboost.XGBClassifier(n_estimators=100, max_depth=6, n_jobs=1), NUMBERS),
    "forest": (mlflow.sklearn.save_model, "sk_model", RandomForestClassifier(100, max_depth=10, random_state=0), NUMBERS),
    "pipeline": (mlflow.sklearn.save_model, "sk_model", pipeline(), NUMBERS + ["city", "plan"]),
}


def main(out, requirements_file):
    with open(requirements_file) as f:
        requirements = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    data = rows(4000)
    label = (data["x0"] * data["x1"] + data["x2"] + (data["city"] == "Oslo") > 0).astype(int)
    for name, (save, argument, model, columns) in MODELS.items():
        x = data[columns]
        model.fit(x, label)
        extra = {}
        if "serialization_format" in inspect.signature(save).parameters:
            extra["serialization_format"] = "cloudpickle"  # forests are no safe types to skops
        save(
            **{argument: model},
            path=os.path.join(out, name),
            signature=infer_signature(x, model.predict(x)),
            input_example=x.head(2),
            pip_requirements=requirements,
            **extra,
        )
        for n in (1, 100):
            bodies = [json.dumps({"dataframe_split": rows(n)[columns].to_dict(orient="split", index=False)}) for _ in range(100)]
            with open(os.path.join(out, f"{name}.{n}.json"), "w") as f:
                json.dump(bodies, f)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

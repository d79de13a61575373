"""Trains the models that the benchmarks serve, and saves them with MLflow's own API.

usage: models.py OUT REQUIREMENTS
Writes OUT/<name>/ (an MLflow model) and OUT/<name>.bodies.json (request bodies
of one row each) for every model.
"""

import json
import os
import sys

import mlflow
import numpy as np
import pandas as pd
import xgboost
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(1876)
COLUMNS = [f"x{i}" for i in range(10)]


def rows(n):
    return pd.DataFrame(rng.normal(0, 1, (n, len(COLUMNS))).round(4), columns=COLUMNS)


def logistic(data, label):
    return mlflow.sklearn.save_model, {"sk_model": LogisticRegression().fit(data, label)}


def boosted(data, label):
    model = xgboost.XGBClassifier(n_estimators=100, max_depth=6, n_jobs=1).fit(data, label)
    return mlflow.xgboost.save_model, {"xgb_model": model}


def main(out, requirements_file):
    with open(requirements_file) as f:
        requirements = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    data = rows(4000)
    label = (data["x0"] * data["x1"] + data["x2"] > 0).astype(int)
    for name, make in {"logistic": logistic, "xgboost": boosted}.items():
        save, kwargs = make(data, label)
        model = next(iter(kwargs.values()))
        save(
            **kwargs,
            path=os.path.join(out, name),
            signature=infer_signature(data, model.predict(data)),
            input_example=data.head(2),
            pip_requirements=requirements,
        )
        bodies = [json.dumps({"dataframe_split": rows(1).to_dict(orient="split", index=False)}) for _ in range(200)]
        with open(os.path.join(out, name + ".bodies.json"), "w") as f:
            json.dump(bodies, f)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

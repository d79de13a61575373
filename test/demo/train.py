"""Trains, logs and registers the six models of the demo with MLflow's own API.

Writes OUT/manifest.json: for each model its registered name, the versions, and
the request bodies to ask it with (the model's own example, then 200 random
rows in the JSON forms that MLflow's server knows). Nothing here is particular
to Loadline: it is what a data scientist would run against a tracking server.
"""

import json
import os
import sys

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import xgboost
from mlflow.models import infer_signature
from mlflow.models.signature import ModelSignature
from mlflow.types import ParamSchema, ParamSpec
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "models"))
import baskets  # noqa: E402
import pricing  # noqa: E402

rng = np.random.default_rng(1876)
FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")


def sk(model):
    """MLflow keeps scikit-learn models without pickle; what a file may name is said outright."""
    return {"sk_model": model, "skops_trusted_types": ["numpy.dtype"]}


def churn_rows(n):
    frame = pd.DataFrame({
        "age": rng.integers(18, 90, n).astype(float),
        "spend": rng.gamma(2.0, 40.0, n).round(2),
        "plan": rng.choice(["basic", "plus", "pro"], n),
        "region": rng.choice(["north", "south", "east", "west"], n),
    })
    frame.loc[rng.random(n) < 0.15, "age"] = np.nan
    frame.loc[rng.random(n) < 0.10, "spend"] = np.nan
    return frame


def churn(version):
    data = churn_rows(2000)
    score = data["age"].fillna(50) / 40 - data["spend"].fillna(80) / 90 + (data["plan"] == "basic")
    label = (score + rng.normal(0, 0.5, len(data)) > 1).astype(int)
    numbers = Pipeline([("fill", SimpleImputer(strategy="median")), ("scale", StandardScaler())])
    model = Pipeline([
        ("columns", ColumnTransformer([
            ("numbers", numbers, ["age", "spend"]),
            ("words", OneHotEncoder(handle_unknown="ignore"), ["plan", "region"]),
        ])),
        ("model", LogisticRegression(C=1.0 / version)),
    ]).fit(data, label)
    return mlflow.sklearn.log_model, sk(model), data.head(3), model.predict(data.head(3)), churn_rows


def numeric_rows(names):
    return lambda n: pd.DataFrame(rng.normal(0, 1, (n, len(names))).round(4), columns=names)


def fraud(version):
    rows = numeric_rows(["amount", "hour", "distance", "velocity", "age_of_card", "score"])
    data = rows(3000)
    label = (data["amount"] * data["distance"] + data["velocity"] > 0.8).astype(int)
    model = xgboost.XGBClassifier(n_estimators=100, max_depth=6, n_jobs=1, learning_rate=0.1 * version)
    model.fit(data, label)
    return mlflow.xgboost.log_model, {"xgb_model": model}, data.head(3), model.predict(data.head(3)), rows


def demand(version):
    rows = numeric_rows(["week", "price", "stock", "weather"])
    data = rows(3000)
    target = 40 + 10 * np.sin(data["week"]) - 6 * data["price"] + rng.normal(0, 1, len(data))
    model = lightgbm.LGBMRegressor(n_estimators=100, num_leaves=31, n_jobs=1, verbose=-1, learning_rate=0.1 / version)
    model.fit(data, target)
    return mlflow.lightgbm.log_model, {"lgb_model": model}, data.head(3), model.predict(data.head(3)), rows


def ticket_rows(n):
    words = "printer login password invoice refund late broken screen café naïve slow crash update 数据".split()
    return pd.DataFrame({"text": [" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(n)]})


def tickets(version):
    data = ticket_rows(1000)
    label = np.where(data["text"].str.contains("invoice|refund"), "billing", "support")
    model = Pipeline([
        ("words", ColumnTransformer([("text", TfidfVectorizer(ngram_range=(1, version)), "text")])),
        ("model", LogisticRegression()),
    ]).fit(data, label)
    return mlflow.sklearn.log_model, sk(model), data.head(3), model.predict(data.head(3)), ticket_rows


def price_rows(n):
    return pd.DataFrame({
        "cost": rng.uniform(1, 500, n).round(2),
        "units": rng.integers(1, 40, n),
        "rush": rng.random(n) < 0.3,
    })


def price(version):
    signature = infer_signature(price_rows(10), np.zeros(10))
    params = ParamSchema([ParamSpec("margin", "double", 0.2 * version), ParamSpec("currency", "string", "EUR")])
    kwargs = {
        "python_model": pricing.Pricing(),
        "code_paths": [os.path.join(HERE, "models", "pricing.py")],
        "signature": ModelSignature(signature.inputs, signature.outputs, params),
    }
    return mlflow.pyfunc.log_model, kwargs, price_rows(3), None, price_rows


def basket_rows(n):
    return pd.DataFrame({
        "customer": rng.choice(["ana", "bo", "chen", "dee"], n),
        "total": rng.gamma(2.0, 30.0, n).round(2),
        "items": rng.integers(1, 20, n),
    })


def basket(version):
    kwargs = {
        "python_model": baskets.Baskets(limit=50.0 * version),
        "code_paths": [os.path.join(HERE, "models", "baskets.py")],
        "signature": ModelSignature(infer_signature(basket_rows(10)).inputs),
    }
    return mlflow.pyfunc.log_model, kwargs, basket_rows(3), None, basket_rows


MODELS = {"churn": churn, "fraud": fraud, "demand": demand, "tickets": tickets, "price": price, "basket": basket}


def body(form, frame, params=None):
    """One request body in the named form, as a client would send it: missing numbers are null."""
    split = json.loads(frame.to_json(orient="split", index=False, double_precision=15))
    records = [dict(zip(split["columns"], row)) for row in split["data"]]
    value = {
        "dataframe_split": split,
        "dataframe_records": records,
        "inputs": {c: [r[c] for r in records] for c in split["columns"]},
        "instances": records,
    }[form]
    request = {form: value}
    if params:
        request["params"] = params
    return json.dumps(request)


def bodies(name, rows):
    """Requests that hold 200 random rows: 100 of one row, then 10 of ten."""
    sizes = [1] * 100 + [10] * 10
    # A missing number cannot be told in the array forms: MLflow's own server
    # turns null there into an object array that its schema refuses.
    forms = FORMS[:2] if name == "churn" else FORMS
    params = {"margin": 0.5} if name == "price" else None
    return [body(forms[i % len(forms)], rows(size), params if i % 3 == 0 else None) for i, size in enumerate(sizes)]


def log(name, version, requirements):
    log_model, kwargs, example, answer, rows = MODELS[name](version)
    kwargs.setdefault("signature", infer_signature(example, answer))
    with mlflow.start_run(run_name=f"{name}-{version}"):
        info = log_model(
            **kwargs, name=name, input_example=example, pip_requirements=requirements, registered_model_name=name
        )
    return info, rows


def main(out, requirements_file, only):
    client = mlflow.MlflowClient()
    mlflow.set_experiment("demo")
    with open(requirements_file) as f:
        requirements = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    manifest = []
    for name in only or MODELS:
        for version in (1, 2) if name == "fraud" else (1,):
            info, rows = log(name, version, requirements)
            if version == 1:
                entry = {"name": name, "model_id": info.model_id, "bodies": bodies(name, rows)}
        client.set_registered_model_alias(name, "champion", "1")
        entry["dir"] = mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=os.path.join(out, name))
        manifest.append(entry)
        print(f"{name}: logged and registered", file=sys.stderr, flush=True)
    with open(os.path.join(out, "manifest.json"), "w") as f:
        json.dump(manifest, f)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

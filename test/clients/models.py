"""Saves the models that the clients serve: two versions of one, and a broken one."""

import sys
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

out = Path(sys.argv[1])
x = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.5, 0.25, 0.125]})
for version in (1, 2):
    model = LinearRegression().fit(x, x["a"] * version)
    mlflow.sklearn.save_model(
        model, out / f"v{version}", input_example=x.head(2), signature=infer_signature(x, model.predict(x))
    )

broken = out / "broken"
mlflow.sklearn.save_model(model, broken)
(broken / "MLmodel").write_text((broken / "MLmodel").read_text().replace("mlflow.sklearn", "no_such_module"))

"""A model of somebody's own that answers with a table."""

import mlflow.pyfunc
import pandas as pd


class Baskets(mlflow.pyfunc.PythonModel):
    def __init__(self, limit):
        self.limit = limit

    def predict(self, context, model_input, params=None):
        return pd.DataFrame({
            "customer": model_input["customer"].str.upper(),
            "per_item": model_input["total"] / model_input["items"],
            "large": model_input["total"] > self.limit,
            "items": model_input["items"],
        })

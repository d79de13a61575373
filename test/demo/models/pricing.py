"""A model of somebody's own: a formula with parameters."""

import mlflow.pyfunc


class Pricing(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        params = params or {}
        total = model_input["cost"] * model_input["units"] * (1 + params.get("margin", 0.0))
        return (total * (1 + 0.25 * model_input["rush"])).round(2).to_numpy()

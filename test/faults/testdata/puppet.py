"""A model that does what it is asked: each row of a request is an order to
acts.py, and so is the variable AT_LOAD when it is loaded."""

import json
import os

import acts
import mlflow


class Puppet(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        acts.act(json.loads(os.environ.get("AT_LOAD", '{"do": "sleep", "seconds": 0}')))

    def predict(self, context, model_input, params=None):
        return [json.dumps(acts.act(json.loads(order))) for order in model_input["order"]]


mlflow.models.set_model(Puppet())

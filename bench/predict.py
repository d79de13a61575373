"""The floors of any Python server, on a frame that is ready: PyFuncModel.predict,
and the predict of the flavour's wrapper inside it, which MLflow calls _model_impl.

usage: predict.py MODEL BODIES; reads a line per round from standard input and
answers each with the CPU microseconds of one call of either, the mean of 300.
"""

import json
import sys
import time

import mlflow.pyfunc
import pandas as pd

model = mlflow.pyfunc.load_model(sys.argv[1])
with open(sys.argv[2]) as f:
    splits = [json.loads(body)["dataframe_split"] for body in json.load(f)]
frames = [pd.DataFrame(s["data"], columns=s["columns"]) for s in splits]


def cost(predict):
    start = time.process_time()
    for i in range(300):
        predict(frames[i % len(frames)])
    return (time.process_time() - start) / 300 * 1e6


wrapper = model._model_impl
for predict in (model.predict, wrapper.predict):
    cost(predict)
print("ready", flush=True)
for _ in sys.stdin:
    print(cost(model.predict), cost(wrapper.predict), flush=True)

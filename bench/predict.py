"""The floor of any Python server: PyFuncModel.predict on a frame that is ready.

usage: predict.py MODEL BODIES; reads a line per round from standard input and
answers each with the CPU microseconds of one call, the mean of 300.
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
for _ in range(50):
    model.predict(frames[0])
print("ready", flush=True)
for _ in sys.stdin:
    start = time.process_time()
    for i in range(300):
        model.predict(frames[i % len(frames)])
    print((time.process_time() - start) / 300 * 1e6, flush=True)

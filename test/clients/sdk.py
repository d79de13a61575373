"""What databricks-sdk does with serving endpoints, against a server of ours."""

import sys
from datetime import timedelta
from pathlib import Path

from databricks.sdk import WorkspaceClient
from databricks.sdk import errors
from databricks.sdk.errors import OperationFailed
from databricks.sdk.service.serving import (
    AutoCaptureConfigInput,
    DataframeSplitInput,
    EndpointCoreConfigInput,
    EndpointStateConfigUpdate,
    EndpointStateReady,
    EndpointTag,
    RateLimit,
    RateLimitKey,
    RateLimitRenewalPeriod,
    Route,
    ServedEntityInput,
    TrafficConfig,
)

MODELS = Path(sys.argv[1])
NAME = "sdk-linear"


def holds(claim, truth):
    if not truth:
        sys.exit(f"does not hold: {claim}")
    print("holds:", claim)


def raises(claim, kind, act):
    try:
        act()
    except Exception as e:  # the claim is about which one
        holds(claim, type(e) is kind)
    else:
        sys.exit(f"does not hold: {claim}: nothing was raised")


def entity(version, **more):
    return ServedEntityInput(entity_name=str(MODELS / f"v{version}"), workload_size="Small", scale_to_zero_enabled=False, **more)


w = WorkspaceClient()
api = w.serving_endpoints
holds("me", w.current_user.me().user_name == "owner")
holds("nothing is served at first", list(api.list()) == [])

made = api.create_and_wait(
    NAME,
    config=EndpointCoreConfigInput(name=NAME, served_entities=[entity(1, environment_vars={"COLOUR": "red"})]),
    tags=[EndpointTag("team", "ml")],
    description="for the client's test",
    timeout=timedelta(minutes=8),
)
holds("create_and_wait returns when it is ready", made.state.ready == EndpointStateReady.READY)
sent = made.config.served_entities[0]
holds("what was sent comes back", (sent.entity_name, sent.workload_size, sent.scale_to_zero_enabled, sent.environment_vars)
      == (str(MODELS / "v1"), "Small", False, {"COLOUR": "red"}))
holds("the default split is told", [(r.served_entity_name, r.served_model_name, r.traffic_percentage) for r in made.config.traffic_config.routes]
      == [("v1", "v1", 100)])
holds("tags and description come back", made.tags == [EndpointTag("team", "ml")] and made.description == "for the client's test")
holds("it is listed", [e.name for e in api.list()] == [NAME])

got = api.query(NAME, dataframe_records=[{"a": 1.0, "b": 0.5}])
holds("query by records", [round(p, 6) for p in got.predictions] == [1.0] and got.served_model_name == "v1")
got = api.query(NAME, dataframe_split=DataframeSplitInput(columns=["a", "b"], data=[[2.0, 0.25]]))
holds("query by split", [round(p, 6) for p in got.predictions] == [2.0])
raises("a query that the model refuses is a bad request", errors.BadRequest, lambda: api.query(NAME, instances=["x"]))

updated = api.update_config_and_wait(
    NAME,
    served_entities=[entity(2)],
    traffic_config=TrafficConfig(routes=[Route(served_model_name="v2", traffic_percentage=100)]),
    timeout=timedelta(minutes=8),
)
holds("update_config_and_wait serves the new version", updated.config.config_version == 2 and
      round(api.query(NAME, dataframe_records=[{"a": 1.0, "b": 0.5}]).predictions[0], 6) == 2.0)

limits = api.put(NAME, rate_limits=[RateLimit(calls=6000, renewal_period=RateLimitRenewalPeriod.MINUTE, key=RateLimitKey.USER)]).rate_limits
holds("put returns the rate limits", [(r.calls, r.key, r.renewal_period) for r in limits] == [(6000, RateLimitKey.USER, RateLimitRenewalPeriod.MINUTE)])
holds("no rate limits are none", api.put(NAME, rate_limits=[]).rate_limits == [])

tags = api.patch(NAME, add_tags=[EndpointTag("a", "1")], delete_tags=["team"]).tags
holds("patch returns the tags", tags == [EndpointTag("a", "1")])
holds("build logs are text", "environment" in api.build_logs(NAME, "v2").logs)
holds("logs are text", isinstance(api.logs(NAME, "v2").logs, str))
holds("the schema is told", "openapi" in api.get_open_api(NAME).contents.read().decode())

raises("a name that is taken", errors.ResourceAlreadyExists, lambda: api.create(NAME, config=EndpointCoreConfigInput(name=NAME, served_entities=[entity(1)])))
raises("a name that is not there", errors.ResourceDoesNotExist, lambda: api.get("never"))
raises("a size that is not known", errors.InvalidParameterValue, lambda: api.update_config(
    NAME, served_entities=[ServedEntityInput(entity_name="m", entity_version="1", workload_size="Tiny")]))
raises("what is not there yet", errors.NotImplemented, lambda: api.update_config(
    NAME, served_entities=[entity(1)], auto_capture_config=AutoCaptureConfigInput(enabled=True)))

raises("a broken version fails the wait", OperationFailed, lambda: api.update_config_and_wait(
    NAME, served_entities=[ServedEntityInput(entity_name=str(MODELS / "broken"))], timeout=timedelta(minutes=8)))
after = api.get(NAME)
holds("and the old one serves as before", after.state.ready == EndpointStateReady.READY and
      after.state.config_update == EndpointStateConfigUpdate.UPDATE_FAILED and
      round(api.query(NAME, dataframe_records=[{"a": 1.0, "b": 0.5}]).predictions[0], 6) == 2.0)

api.delete(NAME)
raises("deleted is not there", errors.ResourceDoesNotExist, lambda: api.get(NAME))

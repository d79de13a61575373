"""One loaded model, asked the way MLflow's own scoring server asks it.

Bodies are parsed, predicted and printed by the `invocations` function of the
MLflow in this environment, so its words are its own. For a request that came
as columns, the same function runs with only its parser and its printer
replaced (see _Switch), so errors and their stack traces stay the same too.

What MLflow's server would answer with a bare "Internal Server Error" becomes a
JSON error that says what happened: 400 when the request is at fault.
"""

import contextlib
import json
import os
import traceback

JSON_TYPE = "application/json"
MAX_ANSWER = 512 << 20  # bytes of one answer


class Unservable(Exception):
    """This environment's MLflow cannot be asked the way the worker asks."""


class Answer:
    __slots__ = ("status", "media", "body")

    def __init__(self, status, media, body):
        self.status = status
        self.media = media
        self.body = body


def failure(status, code, message):
    return Answer(status, JSON_TYPE, json.dumps({"error_code": code, "message": message}).encode())


class Model:
    """A model and the scoring server of its environment."""

    def __init__(self, path):
        import mlflow.pyfunc.scoring_server as server
        from mlflow.exceptions import MlflowException

        self._server = server
        self._MlflowException = MlflowException
        if not hasattr(server, "invocations"):
            import mlflow

            raise Unservable(
                "MLflow %s in this model's environment has no scoring_server.invocations; "
                "serve this model with --engine mlflow" % mlflow.__version__
            )
        # MLflow's server says so too; some flavours ask for it.
        variable = getattr(server, "_MLFLOW_IS_IN_SERVING_ENVIRONMENT", None)
        if variable is not None:
            os.environ[variable.name] = "true"
        load = getattr(server, "load_model_with_mlflow_config", server.load_model)
        self.model = load(path)
        self.schema = self.model.metadata.get_input_schema()
        self._flask = None
        if "flask" in server.invocations.__code__.co_varnames:
            # MLflow before 3 reads flask.request inside invocations.
            import flask

            self._flask = flask.Flask("loadline")

    def raw(self, body, content_type):
        """Answer a body as it came. content_type None is none at all."""
        if content_type is None:
            return failure(
                400,
                "BAD_REQUEST",
                "The request has no Content-Type header. Send one of %s."
                % ", ".join(self._server.CONTENT_TYPES),
            )
        return self._guarded(lambda: self._ask(body, content_type))

    def _ask(self, body, content_type):
        context = contextlib.nullcontext()
        if self._flask is not None:
            body = body.decode("utf-8")
            context = self._flask.test_request_context(headers={"Content-Type": content_type})
        with context:
            result = self._server.invocations(body, content_type, self.model, self.schema)
        media = result.mimetype
        if media.startswith("text/"):
            media += "; charset=utf-8"
        return Answer(result.status, media, result.response.encode("utf-8"))

    def _guarded(self, ask):
        """ask(), with every way it can fail turned into an answer."""
        try:
            answer = ask()
        except self._MlflowException as e:
            return self._refusal(e)
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # noqa: B902 a model may raise SystemExit
            return self._crash(e)
        return bounded(answer)

    def _refusal(self, e):
        try:
            body = e.serialize_as_json().encode("utf-8", "backslashreplace")
        except Exception:
            # A model gave its exception members that JSON cannot hold.
            body = json.dumps({"error_code": str(e.error_code), "message": str(e.message)}).encode()
        return Answer(e.get_http_status_code(), JSON_TYPE, body)

    def _crash(self, e):
        """MLflow's server answers these with a bare 500."""
        traceback.print_exc()
        where = {frame.name for frame in traceback.extract_tb(e.__traceback__)}
        what = describe(e)
        if "predictions_to_json" in where or "unwrapped_predictions_to_json" in where:
            return failure(
                500, "INTERNAL_ERROR", "The model's answer cannot be written as JSON: %s" % what
            )
        if not isinstance(e, Exception):
            return failure(500, "INTERNAL_ERROR", "The model left predict by %s." % what)
        if isinstance(e, RecursionError):
            what = "it is nested too deeply"
        return failure(400, "BAD_REQUEST", "Invalid input. The body cannot be read: %s" % what)


def describe(e):
    """An exception on one line, at most 1000 characters."""
    lines = traceback.format_exception_only(type(e), e)
    text = " ".join(lines[-1].split()) if lines else repr(type(e))
    return text if len(text) <= 1000 else text[:1000] + "…"


def bounded(answer):
    if len(answer.body) <= MAX_ANSWER:
        return answer
    return failure(
        500,
        "INTERNAL_ERROR",
        "The model's answer is %d bytes long; at most %d are allowed." % (len(answer.body), MAX_ANSWER),
    )

"""One loaded model, asked the way MLflow's own scoring server asks it.

Bodies are parsed, predicted and printed by the `invocations` function of the
MLflow in this environment, so its words are its own. For a request that came
as columns, the same function runs with only its parser and its printer
replaced (see _Switch), so errors and their stack traces stay the same too.

What MLflow's server would answer with a bare "Internal Server Error" becomes a
JSON error that says what happened: 400 when the request is at fault.
"""

import contextlib
import io
import json
import os
import threading
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


_NOTHING = object()

# Content types under which a body may ask for a stream.
_STREAM_TYPES = {JSON_TYPE, JSON_TYPE + ";charset=utf-8"}


def wants_stream(body, content_type):
    """Whether a JSON body says "stream": true at its top level."""
    if b"stream" not in body or content_type.replace(" ", "").lower() not in _STREAM_TYPES:
        return False
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return False  # MLflow says what is wrong with it
    return isinstance(parsed, dict) and parsed.get("stream") is True


class Stream:
    """A streamed answer as server-sent events, one for each piece that
    predict_stream yields: `data: <its JSON>` and an empty line.

    Bodies in an LLM's form (messages, prompt, input) end with `data: [DONE]`,
    as OpenAI's clients want it; other streams just end. A failure after the
    first piece, when the status is long sent, is an event
    `data: {"error": {"error_code": …, "message": …}}`, the last one.
    """

    status = 200
    media = "text/event-stream"

    def __init__(self, model, pieces, first, llm, cancelled):
        self._model = model
        self._pieces = pieces
        self._first = first
        self._llm = llm
        self._cancelled = cancelled

    def events(self):
        piece = self._first
        try:
            while piece is not _NOTHING and not self._cancelled():
                yield b"data: " + self._model.piece(piece).encode("utf-8") + b"\n\n"
                piece = next(self._pieces, _NOTHING)
        except Exception as e:
            traceback.print_exc()
            code = getattr(e, "error_code", "INTERNAL_ERROR")
            error = {"error": {"error_code": code, "message": describe(e)}}
            yield b"data: " + json.dumps(error).encode() + b"\n\n"
            return
        finally:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        if self._llm:
            yield b"data: [DONE]\n\n"


class _Ready:
    """Data that needs no parsing, on its way through `invocations`."""

    __slots__ = ("data",)

    def __init__(self, data):
        self.data = data


class _Switch:
    """Replaces the parser and the printer of `invocations` for one call.

    A _Ready value passes the parser untouched; an answer is kept instead of
    printed. All that lies between stays MLflow's: params, predict, its errors.
    """

    def __init__(self, server):
        self._local = threading.local()
        self.print = server.predictions_to_json
        parse = server.infer_and_parse_data

        def infer_and_parse_data(data, schema=None):
            ready = data.get(server.INPUTS)
            return ready.data if type(ready) is _Ready else parse(data, schema)

        def predictions_to_json(raw_predictions, output, metadata=None):
            if getattr(self._local, "keep", False):
                self._local.kept = raw_predictions
            else:
                self.print(raw_predictions, output, metadata)

        server.infer_and_parse_data = infer_and_parse_data
        server.predictions_to_json = predictions_to_json

    def call(self, ask):
        """(what ask answered, what the model answered)"""
        local = self._local
        local.keep = True
        try:
            return ask(), local.kept
        finally:
            local.keep = False
            local.kept = None


class Model:
    """A model and the scoring server of its environment."""

    def __init__(self, path):
        import mlflow.pyfunc.scoring_server as server
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import BAD_REQUEST

        self.path = path
        self._server = server
        self._MlflowException = MlflowException
        self._bad_request = BAD_REQUEST
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
        from . import columns, straight

        self._columns = columns
        self._decoder = columns.Decoder(self.schema)
        self._switch = _Switch(server)
        self.straight = straight.Straight(self.model, self.schema, self._decoder, self._ask_data)

    def columns(self, payload):
        """Answer a request that came as columns: an Answer, or a table's parts."""
        return self._guarded(lambda: self._ask_columns(payload))

    def _ask_data(self, model, data, params):
        """What the model answers to data that needs no parsing."""
        body = {self._server.INPUTS: _Ready(data)}
        if params is not None:
            body[self._server.SERVING_PARAMS_KEY] = params
        _, raw = self._switch.call(lambda: self._server.invocations(body, JSON_TYPE, model, self.schema))
        return raw

    def _ask_columns(self, payload):
        raw = self.straight.ask(self.model, payload)
        if raw is self.straight.NOTHING:
            raw = self._ask_data(self.model, *self._decoder.decode(payload))
        parts = self.encode(raw)
        if parts is not None:
            return parts
        out = io.StringIO()
        self._switch.print(raw, out)
        return Answer(200, JSON_TYPE, out.getvalue().encode("utf-8"))

    def together(self, payload):
        """A table's parts for the rows of several requests, or None: each has to be asked alone."""
        frame = self.straight.frame(payload)
        if frame is None:
            return None
        try:
            parts = self.encode(self.straight.predict(frame))
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: B902 one of the rows, most likely
            return None
        return parts if parts is not None and type(bounded(parts)) is list else None

    def encode(self, raw):
        return self._columns.encode(raw)

    @property
    def streams(self):
        return getattr(self.model, "_predict_stream_fn", None) is not None

    def raw(self, body, content_type, cancelled):
        """Answer a body as it came: an Answer, or a Stream.

        content_type None is none at all. cancelled() says that nobody waits any more.
        """
        if content_type is None:
            return failure(
                400,
                "BAD_REQUEST",
                "The request has no Content-Type header. Send one of %s."
                % ", ".join(self._server.CONTENT_TYPES),
            )
        if wants_stream(body, content_type):
            if not self.streams:
                return failure(
                    400,
                    "BAD_REQUEST",
                    'This model cannot stream: it has no predict_stream. Ask without "stream": true.',
                )
            return self._guarded(lambda: self._ask_stream(body, cancelled))
        return self._guarded(lambda: self._ask(body, content_type))

    def _ask_stream(self, body, cancelled):
        parsed = self._server._parse_json_data(body, self.model.metadata, self.schema)
        try:
            pieces = iter(self.model.predict_stream(parsed.data, params=parsed.params))
            # The first piece is awaited, so that what fails at once is a plain error.
            first = next(pieces, _NOTHING)
        except self._MlflowException as e:
            e.message = "Failed to predict data '%s'. \nError: %s" % (parsed.data, e.message)
            raise
        except Exception:
            raise self._unexpected()
        return Stream(self, pieces, first, parsed.is_unified_llm_input, cancelled)

    def _unexpected(self):
        """What invocations makes of any other exception of the model."""
        return self._MlflowException(
            "Encountered an unexpected error while evaluating the model. Verify"
            " that the serialized input Dataframe is compatible with the model for"
            " inference.",
            error_code=self._bad_request,
            stack_trace=traceback.format_exc(),
        )

    def piece(self, piece):
        """One piece of a stream as JSON text, by MLflow's encoder."""
        piece = self._server._get_jsonable_obj(piece, pandas_orient="records")
        return json.dumps(piece, cls=self._server.NumpyEncoder)

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
    if type(answer) is Stream:
        return answer
    size = sum(map(len, answer)) if type(answer) is list else len(answer.body)
    if size <= MAX_ANSWER:
        return answer
    return failure(
        500, "INTERNAL_ERROR", "The model's answer is %d bytes long; at most %d are allowed." % (size, MAX_ANSWER)
    )

"""The OpenAPI document: what each path takes and all that it can answer, computed once."""

import copy
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from snapensemble.contracts.errors import ImageTooCostly, ImageTooLarge, InvalidImage
from snapensemble.serving import errors
from snapensemble.serving.http.schemas import (
    JsonImages,
    ModelResponse,
    PredictOptions,
    PredictResponse,
    Problem,
)
from snapensemble.serving.openapi_problems import problem_responses, unrouted_responses
from snapensemble.serving.openapi_schemas import EXAMPLE, plain, without_null
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.metrics import CONTENT_TYPE

Json = dict[str, Any]
JSON = "application/json"
BINARY = {"type": "string", "format": "binary"}
# What /predict can raise; the guard's error comes from `describe`, defects from everywhere.
PREDICT_ERRORS = (
    errors.EmptyBody,
    errors.MalformedBody,
    errors.BodyTimeout,
    errors.BodyTooLarge,
    errors.TooManyImages,
    ImageTooLarge,
    errors.UnsupportedMediaType,
    ImageTooCostly,
    InvalidImage,
    errors.InvalidParameter,
    errors.InferenceFailed,
    errors.Overloaded,
    errors.Stopping,
    errors.DeadlineExceeded,
)
READY_ERRORS = (errors.Stopping, errors.MemberFailing)
DESCRIPTION = """\
Averaged class probabilities of a snapshot ensemble.

Every error is a problem document (RFC 9457, `application/problem+json`) with a `code` that does not
change. Unknown paths are answered 404 `not_found`, other methods 405 `method_not_allowed`. Objects
in answers may get more members in later versions."""


def describe(settings: Settings, *, guarded: bool) -> Json:
    """The document of a server.

    Args:
        settings: limits that it tells, and whether /metrics is on this port.
        guarded: whether requests need a token.
    """
    paths = {
        "/predict": {"post": _predict(settings)},
        "/model": {"get": _model()},
        "/health/live": {"get": _live()},
        "/health/ready": {"get": _ready()},
        "/metrics": {"get": _metrics()},
        "/": {"get": _page("page", "A page for people: choose a picture, see its classes")},
        "/docs": {"get": _page("docs", "This document as a page")},
        "/openapi.json": {"get": _document()},
    }
    if settings.metrics_port is not None:
        del paths["/metrics"]
    for path, item in paths.items():
        needs_token = guarded and not path.startswith("/health/")
        for operation in item.values():
            _complete(operation, needs_token=needs_token)
        if "get" in item:
            item["head"] = _head_of(item["get"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Snapensemble",
            "description": DESCRIPTION,
            "version": version("snapensemble"),
        },
        "paths": paths,
        "components": _components(guarded=guarded),
    }


def _predict(settings: Settings) -> Json:
    most = settings.max_images_per_request
    pictures = {"type": "array", "items": BINARY, "minItems": 1, "maxItems": most}
    form = {"type": "object", "properties": {"image": pictures}, "required": ["image"]}
    body = {
        "required": True,
        "description": (
            "One encoded picture (JPEG, PNG, WebP, BMP, GIF or TIFF) as the body, or up to "
            f"{most} as files of a form, under any names, or as base64 in JSON; "
            f"{settings.max_body_bytes:,} bytes at most."
        ),
        "content": {
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {"schema": form},
            JSON: {"schema": {"$ref": "#/components/schemas/JsonImages"}},
        },
    }
    return _operation(
        "predict",
        "The averaged class probabilities of one or more images",
        {JSON: {"schema": {"$ref": "#/components/schemas/PredictResponse"}, "example": EXAMPLE}},
        PREDICT_ERRORS,
        parameters=list(_query_parameters()),
        requestBody=body,
    )


def _model() -> Json:
    return _operation(
        "model",
        "What is served, how it was chosen, and how good it was on validation",
        {JSON: {"schema": {"$ref": "#/components/schemas/ModelResponse"}}},
    )


def _live() -> Json:
    return _operation("live", "200 as long as the process answers", _flag("live"))


def _ready() -> Json:
    return _operation(
        "ready",
        "200 when members are loaded and warm, until the server stops",
        _flag("ready"),
        READY_ERRORS,
    )


def _flag(name: str) -> Json:
    schema = {"type": "object", "properties": {name: {"const": True}}, "required": [name]}
    return {JSON: {"schema": schema}}


def _metrics() -> Json:
    media_type = CONTENT_TYPE.partition(";")[0]
    content = {media_type: {"schema": {"type": "string"}}}
    return _operation("metrics", "Counts for Prometheus", content)


def _page(identity: str, summary: str) -> Json:
    return _operation(identity, summary, {"text/html": {"schema": {"type": "string"}}})


def _document() -> Json:
    return _operation("openapi", "This document", {JSON: {"schema": {"type": "object"}}})


def _operation(
    identity: str,
    summary: str,
    content: Json,
    raises: Sequence[type[Exception]] = (),
    **more: Any,
) -> Json:
    return {
        "operationId": identity,
        "summary": summary,
        **more,
        "responses": {"200": {"description": "Done", "content": content}},
        "raises": raises,
    }


def _complete(operation: Json, *, needs_token: bool) -> None:
    """What all operations have in common, and their errors in place of `raises`."""
    raises = list(operation.pop("raises"))
    if needs_token:
        raises.append(errors.Unauthorized)
        operation["security"] = [{"bearer": []}]
    given = operation.get("parameters", [])
    operation["parameters"] = [*given, {"$ref": "#/components/parameters/RequestId"}]
    done = operation["responses"]["200"]
    done["headers"] = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
    operation["responses"].update(problem_responses(raises))


def _head_of(get: Json) -> Json:
    """HEAD is GET without the body."""
    head = copy.deepcopy(get)
    head["operationId"] += "Head"
    head["summary"] = "As GET, without the body"
    for response in head["responses"].values():
        del response["content"]
    return head


def _query_parameters() -> Iterable[Json]:
    for name, schema in without_null(PredictOptions.model_json_schema())["properties"].items():
        description = schema.pop("description")
        yield {"name": name, "in": "query", "description": description, "schema": schema}


def _components(*, guarded: bool) -> Json:
    _, answers = models_json_schema(
        [(model, "serialization") for model in (PredictResponse, ModelResponse, Problem)],
        ref_template="#/components/schemas/{model}",
    )
    schemas = plain(answers["$defs"])
    for name in ("Prediction", "Problem"):  # what has no value is left out
        schemas[name] = without_null(schemas[name])
    # A path of the machine that trained; the handler leaves it out.
    del schemas["DataRecord"]["properties"]["spec"]
    schemas["DataRecord"]["required"].remove("spec")
    schemas["JsonImages"] = JsonImages.model_json_schema()
    identity = {"schema": {"type": "string"}, "description": "the request's own, or a new one"}
    components: Json = {
        "schemas": dict(sorted(schemas.items())),
        "responses": unrouted_responses(),
        "headers": {
            "RequestId": {**identity, "required": True},
            "RequestIdIfKnown": identity,  # what is not even HTTP has none
            "RetryAfter": {
                "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
                "description": "seconds after which to try again",
                "required": True,
            },
            "Authenticate": {"schema": {"const": "Bearer"}, "required": True},
        },
        "parameters": {
            "RequestId": {
                "name": "X-Request-ID",
                "in": "header",
                "schema": {"type": "string"},
                "description": (
                    "an id that answer, problem and log lines repeat; 1 to 128 printable ASCII "
                    "characters without a space, or there will be a new one"
                ),
            }
        },
    }
    if guarded:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return components

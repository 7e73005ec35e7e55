"""Routes of contracts in the OpenAPI document: what each takes, answers and puts errors in."""

import re
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from snapensemble.contracts.errors import ImageTooCostly, ImageTooLarge, InvalidImage
from snapensemble.serving import errors
from snapensemble.serving.http.adapters.adapter import JSON
from snapensemble.serving.http.openapi import problem_responses
from snapensemble.serving.http.schemas import PredictOptions

Json = dict[str, Any]
PREDICT_ERRORS = (
    errors.EmptyBody,
    errors.MalformedBody,
    errors.UnknownModel,
    errors.BodyTimeout,
    errors.BodyTooLarge,
    errors.TooManyImages,
    ImageTooLarge,
    errors.UnsupportedMediaType,
    ImageTooCostly,
    InvalidImage,
    errors.InvalidParameter,
    errors.NotExplainable,
    errors.InferenceFailed,
    errors.Overloaded,
    errors.Stopping,
    errors.DeadlineExceeded,
)
BINARY = {"type": "string", "format": "binary"}
TEXT = {"type": "string"}
PREDICTION = {"$ref": "#/components/schemas/Prediction"}
# Instances are read as more than this says; what they need is a picture in base64.
INSTANCE = {"anyOf": [TEXT, {"type": "object"}]}
INSTANCES = {"type": "array", "items": INSTANCE, "minItems": 1}
PREDICTIONS = {"type": "array", "items": PREDICTION}
# FastAPI would make them anew, model and all, for each route.
OPTIONS = [
    {"name": name, "in": "query", "required": False, "schema": schema}
    for name, schema in PredictOptions.model_json_schema()["properties"].items()
]
MODEL = {"$ref": "#/components/schemas/ModelName"}


def an_object(required: Json, more: Json | None = None) -> Json:
    """The schema of an object with these members."""
    return {
        "type": "object",
        "properties": {**required, **(more or {})},
        "required": list(required),
    }


def in_words(members: Json) -> Json:
    """The media type and schema of a contract's errors, which have these members."""
    return {JSON: {"schema": an_object(members)}}


def add_prediction(
    router: APIRouter,
    path: str,
    *,
    name: str,
    line: str,
    documents: Json,
    answers: Json,
    worded: Json,
    takes_pictures: bool = True,
    methods: Sequence[str] = ("POST",),
) -> None:
    """Describe a path that asks for predictions, which is answered before FastAPI is asked.

    Args:
        router: that of the contract.
        path: its template.
        name: of the operation.
        line: what it does.
        documents: schema of the JSON that it takes.
        answers: schema of the JSON that it answers.
        worded: by media type, how the contract puts errors.
        takes_pictures: whether a body may be a picture, or a form of them.
        methods: by which it is asked.
    """
    form = {"type": "object", "properties": {"image": {"type": "array", "items": BINARY}}}
    pictures = {
        "image/*": {"schema": BINARY},
        "application/octet-stream": {"schema": BINARY},
        "multipart/form-data": {"schema": {**form, "required": ["image"]}},
    }
    content = {JSON: {"schema": documents}, **(pictures if takes_pictures else {})}
    for method in methods:
        router.add_api_route(
            path,
            _never_called,
            methods=[method],
            name=name if method == methods[0] else f"{name}{method.capitalize()}",
            description=line,
            response_model=None,
            responses={
                200: {"description": "the answer", "content": {JSON: {"schema": answers}}},
                **problem_responses(*PREDICT_ERRORS, worded=worded),
            },
            openapi_extra={
                "requestBody": {"required": True, "content": content},
                "parameters": [*path_parameters(path)["parameters"], *OPTIONS],
            },
        )


def path_parameters(path: str) -> Json:
    """The parameters of an operation that are the names in the template of its path."""
    names = re.findall(r"\{(\w+)\}", path)
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": TEXT} for name in names
        ]
    }


def _never_called() -> None:
    pass

"""TorchServe: POST /predictions/M, as its image classifier answers, and what it says of models."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from snapensemble.serving import errors
from snapensemble.serving.http.adapters.adapter import (
    JSON,
    Adapter,
    Head,
    InferenceRequest,
    InferenceResponse,
    Reply,
)
from snapensemble.serving.http.adapters.documented import (
    INSTANCES,
    TEXT,
    add_prediction,
    an_object,
    in_words,
    path_parameters,
)
from snapensemble.serving.http.adapters.instances import Grammar, json_reply, rows
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.openapi import READ, problem_responses
from snapensemble.serving.http.service import Service

PREDICTIONS, MODELS = "/predictions/{model}", "/models"
VERSION = "/{version}"
GRAMMAR = Grammar(places={"instances": rows, "images": rows})
# What TorchServe calls an error (frontend/server, org.pytorch.serve.http), by status.
TYPES = {
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    408: "RequestTimeoutException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
    504: "RequestTimeoutException",
}
WORDED = in_words({"code": {"type": "integer"}, "type": TEXT, "message": TEXT})


class ModelEntry(BaseModel):
    """A model in GET /models."""

    modelName: str
    modelUrl: str


class ModelList(BaseModel):
    """GET /models."""

    models: list[ModelEntry]


class Worker(BaseModel):
    """A process that answers."""

    id: str
    status: str = "READY"


class ModelDescription(BaseModel):
    """A version in GET /models/M."""

    modelName: str
    modelVersion: str
    modelUrl: str
    runtime: str = "onnxruntime"
    minWorkers: int
    maxWorkers: int
    batchSize: int
    loadedAtStartup: bool = True
    workers: list[Worker]


def adapter(_: Mapping[str, str]) -> Adapter:
    """The contract, which the environment does not change."""
    router = APIRouter(tags=["TorchServe"])
    classes = {"type": "object", "additionalProperties": {"type": "number"}}
    for suffix, path in (("", PREDICTIONS), ("ByVersion", PREDICTIONS + VERSION)):
        add_prediction(
            router,
            path,
            name=f"predictions{suffix}",
            line="The likeliest classes, as TorchServe's image classifier answers them",
            documents=an_object({"instances": INSTANCES}, {"parameters": {"type": "object"}}),
            answers={"anyOf": [classes, {"type": "array", "items": classes}]},
            worded=WORDED,
            methods=("POST", "PUT"),
        )
    router.add_api_route(
        MODELS, models, methods=READ, responses=problem_responses(worded=WORDED), name="models"
    )
    for suffix, path in (
        ("", f"{MODELS}/{{model}}"),
        ("ByVersion", f"{MODELS}/{{model}}{VERSION}"),
    ):
        router.add_api_route(
            path,
            described,
            methods=READ,
            responses=problem_responses(errors.UnknownModel, worded=WORDED),
            name=f"describeModel{suffix}",
            openapi_extra=path_parameters(path),
        )
    return Adapter(
        predictions=(PREDICTIONS, PREDICTIONS + VERSION),
        read=read,
        words=words,
        error_content=WORDED,
        worded=("/predictions/", MODELS),
        router=router,
        methods=("POST", "PUT"),  # curl -T sends PUT
    )


async def read(body: Body, head: Head, deadline: float) -> InferenceRequest:
    """Read a picture as it is, a form of them, or JSON."""
    asked = await GRAMMAR.read(body, head, deadline)
    is_one = len(asked.pictures) == 1 and asked.place is None

    def encode(answered: InferenceResponse) -> Reply:
        classes = [
            {top["class"]: top["probability"] for top in each["top"]}
            for each in answered.predictions()
        ]
        return json_reply(classes[0] if is_one else classes)

    return InferenceRequest(asked.pictures, asked.options, encode)


def words(document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The error that TorchServe's clients expect."""
    kind = TYPES.get(document["status"], "BadRequestException")
    if document["code"] == "unknown_model":
        kind = "ModelNotFoundException"
    message = f"{document['title']}: {document['detail']}"
    return JSON, {"code": document["status"], "type": kind, "message": message}


async def models(request: Request) -> ModelList:
    """The models that are served."""
    service: Service = request.app.state.service
    names = sorted(service.models)
    return ModelList(models=[ModelEntry(modelName=name, modelUrl=name) for name in names])


async def described(request: Request) -> list[ModelDescription]:
    """A model, or a version of it, and who answers for it."""
    service: Service = request.app.state.service
    params = request.path_params
    model = service.model(params["model"], params.get("version"))
    settings = service.settings
    return [
        ModelDescription(
            modelName=model.name,
            modelVersion=model.version,
            modelUrl=model.name,
            minWorkers=settings.workers,
            maxWorkers=settings.workers,
            batchSize=settings.max_batch_size,
            workers=[Worker(id=str(place)) for place in range(settings.workers)],
        )
    ]

"""KServe's protocol, version 1, and the REST API of TensorFlow Serving, which share their paths.

GET /v1/models/M answers what both want in one document. A version is one of the model's own, a
text; of labels there is one, `stable`, which is the version that is served by default.
"""

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from snapensemble.serving import errors
from snapensemble.serving.errors import InvalidParameter, UnknownModel
from snapensemble.serving.http.adapters.adapter import (
    Adapter,
    Head,
    InferenceRequest,
    InferenceResponse,
    Reply,
    error_words,
)
from snapensemble.serving.http.adapters.documented import (
    INSTANCE,
    INSTANCES,
    PREDICTIONS,
    TEXT,
    Json,
    add_prediction,
    an_object,
    in_words,
    path_parameters,
)
from snapensemble.serving.http.adapters.instances import (
    Grammar,
    column,
    json_reply,
    row_reply,
    rows,
)
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.openapi import READ, problem_responses
from snapensemble.serving.http.service import Model, Service

MODELS = "/v1/models"
STABLE = "stable"
SIGNATURE = "serving_default"
# All the ways to say which model, and which version of it.
PATHS = {
    "": f"{MODELS}/{{model}}",
    "ByVersion": f"{MODELS}/{{model}}/versions/{{version}}",
    "ByLabel": f"{MODELS}/{{model}}/labels/{{label}}",
}
PREDICT = Grammar(places={"instances": rows, "inputs": column}, others=("signature_name",))
CLASSIFY = Grammar(places={"examples": rows}, others=("signature_name", "context"))
WORDED = in_words({"error": TEXT})
OPTIONS = {"signature_name": {"const": SIGNATURE}, "parameters": {"type": "object"}}


class Models(BaseModel):
    """GET /v1/models, of KServe."""

    models: list[str]


class Status(BaseModel):
    """A status of TensorFlow Serving."""

    error_code: Literal["OK"] = "OK"
    error_message: Literal[""] = ""


class VersionStatus(BaseModel):
    """A version that can be asked."""

    version: str
    state: Literal["AVAILABLE"] = "AVAILABLE"
    status: Status = Status()


class ModelStatus(BaseModel):
    """GET /v1/models/M: `name` and `ready` for KServe, the rest for TensorFlow Serving."""

    name: str
    ready: Literal[True] = True
    model_version_status: list[VersionStatus]


class Metadata(BaseModel):
    """GET /v1/models/M/metadata, of TensorFlow Serving."""

    model_spec: dict[str, str]
    metadata: dict[str, Any]


def adapter(_: Mapping[str, str]) -> Adapter:
    """The contract, which the environment does not change."""
    router = APIRouter(tags=["KServe v1 and TensorFlow Serving"])
    responses = problem_responses(
        errors.UnknownModel, errors.Stopping, errors.MemberFailing, worded=WORDED
    )
    router.add_api_route(
        MODELS, models, methods=READ, responses=problem_responses(worded=WORDED), name="v1Models"
    )
    for suffix, path in PATHS.items():
        for verb, documents, answers in described():
            add_prediction(
                router,
                f"{path}:{verb}",
                name=f"v1{verb.capitalize()}{suffix}",
                line=f"As POST /predict, for KServe and TensorFlow Serving: {verb}",
                documents=documents,
                answers=answers,
                worded=WORDED,
                takes_pictures=False,
            )
        router.add_api_route(
            f"{path}/metadata",
            metadata,
            methods=READ,
            responses=responses,
            name=f"v1Metadata{suffix}",
            openapi_extra=path_parameters(path),
        )
        router.add_api_route(
            path,
            status,
            methods=READ,
            responses=responses,
            name=f"v1Model{suffix}",
            openapi_extra=path_parameters(path),
        )
    return Adapter(
        predictions=[
            f"{path}:{verb}" for path in PATHS.values() for verb in ("predict", "classify")
        ],
        read=read,
        words=error_words,
        error_content=WORDED,
        worded=("/v1/",),
        router=router,
    )


def described() -> list[tuple[str, Json, Json]]:
    """The verbs of a model, each with the schemas of what it takes and answers."""
    instances = an_object({"instances": INSTANCES}, OPTIONS)
    inputs = an_object({"inputs": {"anyOf": [INSTANCE, INSTANCES]}}, OPTIONS)
    examples = an_object({"examples": INSTANCES}, {**OPTIONS, "context": {"type": "object"}})
    pair = {"type": "array", "prefixItems": [TEXT, {"type": "number"}], "minItems": 2}
    pairs = {"type": "array", "items": {"type": "array", "items": pair}}
    row, outputs = (
        an_object({"predictions": PREDICTIONS}),
        an_object({"outputs": {"type": "object"}}),
    )
    return [
        ("predict", {"anyOf": [instances, inputs]}, {"anyOf": [row, outputs]}),
        ("classify", examples, an_object({"results": pairs})),
    ]


async def read(body: Body, head: Head, deadline: float) -> InferenceRequest:
    """Read `instances` (rows), `inputs` (columns) or, to classify, `examples`.

    Raises:
        UnknownModel: the path names a label that there is not.
        InvalidParameter: the signature is not the one that there is.
    """
    check_label(head.params)
    is_predict = head.template.endswith(":predict")
    asked = await (PREDICT if is_predict else CLASSIFY).read(body, head, deadline)
    signature = asked.others.get("signature_name", SIGNATURE)
    if signature not in (SIGNATURE, ""):
        raise InvalidParameter(f"signature_name: found {signature!r:.80}, expected {SIGNATURE!r}")
    if not is_predict:
        return InferenceRequest(asked.pictures, asked.options, classified)
    encode = columns if asked.place == "inputs" else row_reply
    return InferenceRequest(asked.pictures, asked.options, encode)


def columns(answered: InferenceResponse) -> Reply:
    """The predictions by column: under each name the values of all images."""
    predictions = answered.predictions()
    names = dict.fromkeys(name for each in predictions for name in each)
    return json_reply(
        {"outputs": {name: [each.get(name) for each in predictions] for name in names}}
    )


def classified(answered: InferenceResponse) -> Reply:
    """For each example its likeliest classes with their probabilities."""
    results = [
        [[top["class"], top["probability"]] for top in each["top"]]
        for each in answered.predictions()
    ]
    return json_reply({"results": results})


def check_label(params: Mapping[str, str]) -> None:
    """Raise UnknownModel if a path names a label that there is not."""
    if (label := params.get("label", STABLE)) != STABLE:
        raise UnknownModel(f"found the label {label}, expected {STABLE}, the default version")


def model_of(request: Request) -> Model:
    """The model that a path names.

    Raises:
        UnknownModel: there is none.
    """
    service: Service = request.app.state.service
    params = request.path_params
    check_label(params)
    return service.model(params["model"], params.get("version"))


async def models(request: Request) -> Models:
    """The names of the models that are served."""
    service: Service = request.app.state.service
    return Models(models=sorted(service.models))


async def status(request: Request) -> ModelStatus:
    """Whether a model, or a version of it, can be asked: 200 or 503."""
    service: Service = request.app.state.service
    model = model_of(request)
    service.check_ready(model)
    is_named = request.path_params.keys() & {"version", "label"}
    versions = [model.version] if is_named else list(service.models[model.name])
    return ModelStatus(
        name=model.name,
        model_version_status=[VersionStatus(version=version) for version in versions],
    )


async def metadata(request: Request) -> Metadata:
    """What a model takes and answers, as the signature of a TensorFlow model."""
    model = model_of(request)
    inputs = {"image_bytes": tensor("image_bytes", "DT_STRING")}
    outputs = {
        name: tensor(name, dtype, *dims)
        for name, dtype, *dims in (
            ("class", "DT_STRING"),
            ("index", "DT_INT64"),
            ("probability", "DT_FLOAT"),
            ("probabilities", "DT_FLOAT", len(model.engine.bundle.classes)),
        )
    }
    signature = {
        "inputs": inputs,
        "outputs": outputs,
        "method_name": "tensorflow/serving/predict",
    }
    return Metadata(
        model_spec={"name": model.name, "signature_name": "", "version": model.version},
        metadata={"signature_def": {"signature_def": {SIGNATURE: signature}}},
    )


def tensor(name: str, dtype: str, *dims: Any) -> Json:
    """The description of a tensor whose first dimension is free."""
    sizes = [{"size": str(size), "name": ""} for size in (-1, *dims)]
    shape = {"dim": sizes, "unknown_rank": False}
    return {"dtype": dtype, "tensor_shape": shape, "name": f"{name}:0"}

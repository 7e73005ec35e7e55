"""The protocol over HTTP: JSON, and its extension for binary tensors."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic_core import to_json

from snapensemble.serving import errors
from snapensemble.serving.http.adapters.adapter import (
    Adapter,
    Head,
    InferenceRequest,
    InferenceResponse,
    Reply,
    error_words,
)
from snapensemble.serving.http.adapters.documented import (
    PREDICT_ERRORS,
    TEXT,
    in_words,
    path_parameters,
)
from snapensemble.serving.http.adapters.open_inference.document import (
    HEADER,
    asked_of,
    header_length,
    one_picture,
    split,
)
from snapensemble.serving.http.adapters.open_inference.inputs import PICTURES, images_of
from snapensemble.serving.http.adapters.open_inference.metadata import (
    model_metadata,
    server_metadata,
)
from snapensemble.serving.http.adapters.open_inference.outputs import (
    Requested,
    is_partial,
    tensors,
    wanted_outputs,
)
from snapensemble.serving.http.adapters.open_inference.parameters import options_with
from snapensemble.serving.http.adapters.open_inference.schemas import (
    BYTES,
    INFER_BODY,
    JSON_BYTES,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from snapensemble.serving.http.body import Body, beside
from snapensemble.serving.http.media.json_guard import (
    MAX_VALUES,
    WIDE_GROWTH,
    is_narrow,
    values_in,
)
from snapensemble.serving.http.media.json_images import GROWTH
from snapensemble.serving.http.media.texts import OCTETS
from snapensemble.serving.http.openapi import READ, problem_responses
from snapensemble.serving.http.service import Model, Service

V2 = "/v2"
MODELS = (f"{V2}/models/{{model}}", f"{V2}/models/{{model}}/versions/{{version}}")
MOST_VALUES = 2**20  # of the JSON of one request; larger tensors come as binary data
UNREADY = (errors.Stopping, errors.MemberFailing)
WORDED = in_words({"error": TEXT})
VALUE_BYTES = 64  # held for each value of a document while it is parsed
BINARY_HEADER = HEADER.lower().encode()


def adapter(_: Mapping[str, str]) -> Adapter:
    """The contract, which the environment does not change."""
    return Adapter(
        predictions=tuple(f"{path}/infer" for path in MODELS),
        read=read,
        words=error_words,
        worded=(V2,),
        error_content=WORDED,
        router=_router(),
        probes=_probes(),
    )


async def read(body: Body, head: Head, deadline: float) -> InferenceRequest:
    """The pictures of a request, its options, and how its outputs are put."""
    json_bytes = header_length(head.headers.get(BINARY_HEADER))
    content = await body.content(deadline)
    shape, limit = head.bundle.image.shape, head.settings.max_images_per_request
    if json_bytes == 0:
        text, asked = b"", one_picture(content)
    else:
        text, binary = split(content, json_bytes)
        most = min(MOST_VALUES, MAX_VALUES + limit * math.prod(shape))
        growth = GROWTH if is_narrow(text) else WIDE_GROWTH
        body.hold(growth * len(text) + VALUE_BYTES * min(values_in(text), most))
        asked = await beside(len(text), partial(asked_of, text, binary, most=most))
    options = options_with(head.options, asked.parameters)
    wanted = wanted_outputs(asked.outputs, options, is_binary=asked.is_binary)
    for tensor in asked.inputs:
        if tensor.raw is not None and tensor.name == PICTURES:  # each picture is copied
            body.hold(len(tensor.raw))
    images = await beside(len(text), partial(images_of, asked.inputs, shape, limit=limit))
    return InferenceRequest(images, options, partial(encoded, asked.identity, wanted))


def encoded(
    identity: str | None, wanted: Sequence[Requested], answered: InferenceResponse
) -> Reply:
    """The outputs in JSON, and behind it the bytes of those that are wanted so."""
    document: dict[str, Any] = {
        "model_name": answered.name,
        "model_version": answered.version,
        "outputs": [],
    }
    if identity is not None:
        document["id"] = identity
    if is_partial(answered):
        document["parameters"] = {"partial": True}
    chunks = []
    for each, tensor in zip(wanted, tensors(answered, wanted), strict=True):
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if each.is_binary:
            chunks.append(tensor.raw())
            output["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            output["data"] = tensor.flat()
        document["outputs"].append(output)
    text = to_json(document, inf_nan_mode="null")
    if not any(each.is_binary for each in wanted):
        return Reply(text)
    length = (BINARY_HEADER, b"%d" % len(text))
    return Reply(b"".join([text, *chunks]), OCTETS, headers=(length,))


def _probes() -> APIRouter:
    probes = APIRouter(tags=["open inference protocol"])

    @probes.api_route(f"{V2}/health/live", methods=READ, responses=problem_responses(worded=WORDED))
    async def v2_live() -> Live:
        """200 as long as the process answers."""
        return Live(live=True)

    @probes.api_route(
        f"{V2}/health/ready",
        methods=READ,
        responses=problem_responses(*UNREADY, worded=WORDED),
    )
    async def v2_ready(request: Request) -> Ready:
        """200 when all models can be asked, until the server stops."""
        _service(request).check_ready()
        return Ready(ready=True)

    return probes


def _router() -> APIRouter:
    router = APIRouter(tags=["open inference protocol"])
    plain = problem_responses(worded=WORDED)
    of_model = problem_responses(errors.UnknownModel, worded=WORDED)

    @router.api_route(V2, methods=READ, responses={200: {"model": ServerMetadata}, **plain})
    async def v2() -> JSONResponse:
        """The server and the extensions of the protocol that it speaks."""
        return JSONResponse(server_metadata())

    async def metadata(request: Request) -> JSONResponse:
        """The inputs and outputs of a model."""
        return JSONResponse(model_metadata(_service(request), _model(request)))

    async def model_ready(request: Request) -> ModelReady:
        """200 when a model can be asked."""
        model = _model(request)
        _service(request).check_ready(model)
        return ModelReady(name=model.name, ready=True)

    # It is not called: the application answers POST before it asks FastAPI.
    async def infer() -> None:
        """The outputs of a model for named tensors."""

    for path, suffix in zip(MODELS, ("", "_of_version"), strict=True):
        named = path_parameters(path)
        router.add_api_route(
            path,
            metadata,
            name=f"v2_model{suffix}",
            methods=READ,
            responses={200: {"model": ModelMetadata}, **of_model},
            openapi_extra=named,
        )
        router.add_api_route(
            f"{path}/ready",
            model_ready,
            name=f"v2_model_ready{suffix}",
            methods=READ,
            responses=problem_responses(errors.UnknownModel, *UNREADY, worded=WORDED),
            openapi_extra=named,
        )
        router.add_api_route(
            f"{path}/infer",
            infer,
            name=f"v2_infer{suffix}",
            methods=["POST"],
            responses={
                200: {"model": InferResponse, "content": {OCTETS: {"schema": BYTES}}},
                **problem_responses(*PREDICT_ERRORS, errors.InvalidTensor, worded=WORDED),
            },
            openapi_extra={
                "requestBody": INFER_BODY,
                "parameters": [*named["parameters"], JSON_BYTES],
            },
        )
    return router


def _model(request: Request) -> Model:
    """The model that a path names."""
    names = request.path_params
    return _service(request).model(names["model"], names.get("version"))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service

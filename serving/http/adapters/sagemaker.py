"""Amazon SageMaker, real-time and batch transform, and MLflow's scoring server.

SageMaker leaves the bodies of /invocations to the container; MLflow's requests and errors are put
as in its own server (mlflow/pyfunc/scoring_server). They have /ping in common, with TorchServe too.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from snapensemble.serving import errors
from snapensemble.serving.http.adapters.adapter import (
    JSON,
    Adapter,
    Head,
    InferenceRequest,
)
from snapensemble.serving.http.adapters.documented import (
    INSTANCES,
    MODEL,
    PREDICTIONS,
    TEXT,
    add_prediction,
    an_object,
    in_words,
)
from snapensemble.serving.http.adapters.instances import (
    Grammar,
    column,
    rows,
    table,
)
from snapensemble.serving.http.adapters.predict import encode
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.openapi import READ, problem_responses
from snapensemble.serving.http.service import Service

INVOCATIONS, PING = "/invocations", "/ping"
MIB = 2**20
MAX_MIB = 100  # of all parallel requests of a transform job together
GRAMMAR = Grammar(
    places={
        "images": rows,
        "instances": rows,
        "inputs": column,
        "dataframe_records": rows,
        "dataframe_split": table,
    },
    parameters="params",
)
# What MLflow calls an error (mlflow.protos.databricks_pb2.ErrorCode), by status.
ERROR_CODES = {
    401: "UNAUTHENTICATED",
    404: "RESOURCE_DOES_NOT_EXIST",
    422: "INVALID_PARAMETER_VALUE",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
WORDED = in_words({"error_code": TEXT, "message": TEXT})


class Ping(BaseModel):
    """GET /ping: as TorchServe has it; SageMaker and MLflow look at the status alone."""

    status: Literal["Healthy"] = "Healthy"


class ExecutionParameters(BaseModel):
    """GET /execution-parameters: how a transform job should ask."""

    MaxConcurrentTransforms: int
    BatchStrategy: Literal["SINGLE_RECORD"] = "SINGLE_RECORD"
    MaxPayloadInMB: int


def adapter(_: Mapping[str, str]) -> Adapter:
    """The contract, whose environment says the port alone."""
    router = APIRouter(tags=["SageMaker and MLflow"])
    add_prediction(
        router,
        INVOCATIONS,
        name="invocations",
        line="As POST /predict, for SageMaker and MLflow",
        documents={
            "anyOf": [
                an_object({place: INSTANCES}, {"params": {"type": "object"}})
                for place in ("images", "instances", "inputs", "dataframe_records")
            ]
            + [an_object({"dataframe_split": {"type": "object"}}, {"params": {"type": "object"}})]
        },
        answers=an_object({"predictions": PREDICTIONS, "model": MODEL}),
        worded=WORDED,
    )
    responses = problem_responses()
    router.add_api_route(
        "/execution-parameters", execution_parameters, methods=READ, responses=responses
    )
    router.add_api_route(
        "/version",
        version_text,
        methods=READ,
        responses=responses,
        response_class=PlainTextResponse,
    )
    probes = APIRouter(tags=["operation"])
    for path, probe in ((PING, ping), ("/health", health)):
        probes.add_api_route(
            path,
            probe,
            methods=READ,
            responses=problem_responses(errors.Stopping, errors.MemberFailing),
        )
    return Adapter(
        predictions=(INVOCATIONS,),
        read=read,
        words=words,
        error_content=WORDED,
        router=router,
        probes=probes,
    )


async def read(body: Body, head: Head, deadline: float) -> InferenceRequest:
    """Read a picture of any kind, a form, or JSON of this server or of MLflow.

    The answer is that of `POST /predict`, which MLflow's clients read as well.
    """
    asked = await GRAMMAR.read(body, head, deadline)
    return InferenceRequest(asked.pictures, asked.options, encode)


def words(document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The error that MLflow's clients expect."""
    code = ERROR_CODES.get(document["status"], "BAD_REQUEST")
    return JSON, {"error_code": code, "message": f"{document['title']}: {document['detail']}"}


async def ping(request: Request) -> Ping:
    """200 when members are loaded and warm, until the server stops; as /health/ready."""
    service: Service = request.app.state.service
    service.check_ready()
    return Ping()


async def health(request: Request) -> Ping:
    """As /ping, for MLflow and Hugging Face."""
    return await ping(request)


async def version_text() -> PlainTextResponse:
    """The version of the server, for MLflow."""
    return PlainTextResponse(version("snapensemble"))


async def execution_parameters(request: Request) -> ExecutionParameters:
    """How a SageMaker transform job should ask: as many pictures at a time as it may send."""
    service: Service = request.app.state.service
    payload = min(max(1, service.settings.max_body_bytes // MIB), MAX_MIB)
    return ExecutionParameters(MaxConcurrentTransforms=MAX_MIB // payload, MaxPayloadInMB=payload)

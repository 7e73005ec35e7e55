"""The model repository extension of the Open Inference Protocol: what is served, load, unload."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from snapensemble.contracts.errors import SnapensembleError
from snapensemble.contracts.process import printable
from snapensemble.serving.errors import (
    ControlDisabled,
    LoadFailed,
    ServingError,
    UnknownModel,
    WorkersLate,
)
from snapensemble.serving.http.adapters.adapter import Adapter, error_words
from snapensemble.serving.http.adapters.documented import TEXT, in_words, path_parameters
from snapensemble.serving.http.openapi import READ, problem_responses
from snapensemble.serving.http.service import Control, Service

WORDED = in_words({"error": TEXT})
MODELS = "/v2/repository/models/{model}"
CONTROL_ERRORS = (ControlDisabled, UnknownModel, LoadFailed, WorkersLate)
IN_THE_LOG = "the server's log says why"
router = APIRouter(tags=["models"], responses=problem_responses(worded=WORDED))


class IndexEntry(BaseModel):
    """A version of a model, and whether it is served."""

    name: str
    version: Annotated[str, Field(description="empty where none is served")]
    state: Literal["READY", "UNAVAILABLE"]
    reason: Annotated[str, Field(description="why it is not served")]


class Done(BaseModel):
    """An empty object."""


def adapter(_: Mapping[str, str]) -> Adapter:
    """The contract, which the environment does not change."""
    return Adapter(words=error_words, worded=("/v2",), router=router)


@router.api_route("/v2/repository/index", methods=READ)
async def repository_index(request: Request) -> list[IndexEntry]:
    """All models, with why one is not served; places on the disk for those who may load only."""
    service: Service = request.app.state.service
    ready = [
        IndexEntry(name=model.name, version=model.version, state="READY", reason="")
        for model in service.all_models
    ]
    missing = {} if service.control is None else service.control.missing()
    return ready + [
        IndexEntry(
            name=printable(name),
            version="",
            state="UNAVAILABLE",
            reason=printable(why) if service.settings.model_control else IN_THE_LOG,
        )
        for name, why in sorted(missing.items())
    ]


@router.post("/v2/repository/index")
async def repository_index_by_post(request: Request) -> list[IndexEntry]:
    """The same, as clients of Triton ask for it."""
    return await repository_index(request)


@router.post(
    f"{MODELS}/load",
    responses=problem_responses(*CONTROL_ERRORS, worded=WORDED),
    openapi_extra=path_parameters(MODELS),
)
async def repository_load(request: Request) -> Done:
    """Serve what is on disk of a model; if that fails, nothing has changed."""
    return await _done(_control(request).load, request.path_params["model"])


@router.post(
    f"{MODELS}/unload",
    responses=problem_responses(*CONTROL_ERRORS, worded=WORDED),
    openapi_extra=path_parameters(MODELS),
)
async def repository_unload(request: Request) -> Done:
    """Serve a model no more, until it is loaded again."""
    return await _done(_control(request).unload, request.path_params["model"])


def _control(request: Request) -> Control:
    service: Service = request.app.state.service
    if service.control is None or not service.settings.model_control:
        raise ControlDisabled(
            "start the server with --model-control to let clients load and unload models; SIGHUP "
            "and --watch look at the disk again, too"
        )
    return service.control


async def _done(change: Callable[[str], Awaitable[None]], model: str) -> Done:
    try:
        await change(model)
    except ServingError:
        raise
    except SnapensembleError as error:
        raise LoadFailed(str(error)) from error
    return Done()

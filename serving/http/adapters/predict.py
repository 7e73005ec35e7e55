"""The server's own contract: POST /predict, a picture or several, as they are or in JSON."""

from collections.abc import Mapping

from pydantic_core import to_json

from snapensemble.serving.http.adapters.adapter import (
    Adapter,
    Head,
    InferenceRequest,
    InferenceResponse,
    Reply,
)
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.responses import response

PREDICT = "/predict"


def adapter(_: Mapping[str, str]) -> Adapter:
    """The contract, which the environment does not change."""
    return Adapter(
        predictions=(PREDICT, f"{PREDICT}/{{model}}", f"{PREDICT}/{{model}}/{{version}}"),
        read=read,
    )


async def read(body: Body, head: Head, deadline: float) -> InferenceRequest:
    """The pictures in a body, of any of the forms that `Body` knows."""
    return InferenceRequest(await body.pictures(deadline), head.options, encode)


def encode(answered: InferenceResponse) -> Reply:
    """The predictions as JSON; numbers that are none become null."""
    content = response(answered.predictions(), answered.name, answered.version)
    return Reply(to_json(content, inf_nan_mode="null"))

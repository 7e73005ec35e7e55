"""POST /predict without FastAPI's router, whose generality costs more than a small ensemble.

The router knows the path all the same, and refuses other methods there.
"""

from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from serving.crowd import refuse_crowd
from serving.errors import InvalidParameter, ServingError
from serving.problems import serving_error
from serving.routes import predict
from serving.schemas import PredictOptions

DEFAULTS = PredictOptions()


def is_prediction(scope: Scope) -> bool:
    """Whether `answer_prediction` is for this request."""
    if scope["type"] != "http":
        return False
    return (scope["method"], scope["path"]) == ("POST", "/predict")


async def answer_prediction(scope: Scope, receive: Receive, send: Send) -> None:
    """Handle one request, whose `app` is in its scope."""
    request = Request(scope, receive, send)
    try:
        refuse_crowd(scope)
        response = await predict(request, options_of(scope["query_string"]))
    except ServingError as error:
        response = serving_error(request, error)
    await response(scope, receive, send)


def options_of(query: bytes) -> PredictOptions:
    """The parameters of a query; of one that is repeated the last counts.

    Raises:
        InvalidParameter: one is unknown or out of bounds; names it.
    """
    if not query:
        return DEFAULTS
    try:
        return PredictOptions.model_validate(dict(QueryParams(query)))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidParameter("; ".join(problems)) from error

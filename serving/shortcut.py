"""POST /predict without FastAPI's router, whose generality costs more than a small ensemble.

The router knows the path all the same, and refuses other methods there.
"""

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from serving.crowd import refuse_crowd
from serving.errors import ServingError
from serving.problems import serving_error
from serving.routes import PREDICT, predict


def is_prediction(scope: Scope) -> bool:
    """Whether `answer_prediction` is for this request."""
    if scope["type"] != "http":
        return False
    return (scope["method"], scope["path"]) == ("POST", PREDICT)


async def answer_prediction(scope: Scope, receive: Receive, send: Send) -> None:
    """Handle one request, whose `app` is in its scope."""
    request = Request(scope, receive, send)
    try:
        refuse_crowd(scope)
        response = await predict(request)
    except ServingError as error:
        response = serving_error(request, error)
    await response(scope, receive, send)

"""Vertex AI: `instances` at the routes that its variables name.

It is there only where they are set. A route that another contract has, too, is this one's: no
client of the other one asks there.
"""

from collections.abc import Mapping

from fastapi import APIRouter

from snapensemble.serving import errors
from snapensemble.serving.http.adapters.adapter import (
    Adapter,
    Head,
    InferenceRequest,
    error_words,
)
from snapensemble.serving.http.adapters.documented import (
    INSTANCES,
    PREDICTIONS,
    TEXT,
    add_prediction,
    an_object,
    in_words,
)
from snapensemble.serving.http.adapters.instances import Grammar, row_reply, rows
from snapensemble.serving.http.adapters.predict import PREDICT, encode
from snapensemble.serving.http.adapters.sagemaker import ping
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.openapi import READ, problem_responses
from snapensemble.serving.http.problems import problem_document
from snapensemble.serving.platforms import HEALTH_ROUTE, PREDICT_ROUTE, vertex_route

GRAMMAR = Grammar(places={"instances": rows, "images": rows})
WORDED = in_words({"error": TEXT})


def adapter(environment: Mapping[str, str]) -> Adapter | None:
    """The contract, where the variables of Vertex AI name its routes.

    Raises:
        InvalidConfig: a variable names no path.
    """
    health = vertex_route(environment, HEALTH_ROUTE)
    predict = vertex_route(environment, PREDICT_ROUTE)
    if health is None and predict is None:
        return None
    router, probes = APIRouter(tags=["Vertex AI"]), APIRouter(tags=["operation"])
    if predict is not None:
        add_prediction(
            router,
            predict,
            name="vertexPredict",
            line="As POST /predict, for Vertex AI",
            documents=an_object({"instances": INSTANCES}, {"parameters": {"type": "object"}}),
            answers=an_object({"predictions": PREDICTIONS}),
            worded=WORDED,
        )
    if health is not None:
        probes.add_api_route(
            health,
            ping,
            name="vertexHealth",
            description="As /health/ready, for Vertex AI",
            methods=READ,
            responses=problem_responses(errors.Stopping, errors.MemberFailing),
        )
    return Adapter(
        predictions=() if predict is None else (predict,),
        read=read,
        words=problem_document if predict == PREDICT else error_words,
        error_content=WORDED,
        router=router,
        probes=probes,
    )


async def read(body: Body, head: Head, deadline: float) -> InferenceRequest:
    """Read instances with a picture in base64 each, or (rawPredict) what `POST /predict` reads."""
    asked = await GRAMMAR.read(body, head, deadline)
    return InferenceRequest(
        asked.pictures, asked.options, row_reply if asked.place == "instances" else encode
    )

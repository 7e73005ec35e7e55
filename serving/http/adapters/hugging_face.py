"""Hugging Face: POST / as an Inference Endpoint for image classification answers it."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from snapensemble.serving.errors import InvalidParameter
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
    TEXT,
    Json,
    add_prediction,
    an_object,
    in_words,
)
from snapensemble.serving.http.adapters.instances import Grammar, json_reply, one_or_rows
from snapensemble.serving.http.body import Body

SOFTMAX = "softmax"  # whose averages the ensemble answers; there is nothing else to apply
WORDED = in_words({"error": TEXT})


def adapter(_: Mapping[str, str]) -> Adapter:
    """The contract, whose environment says the place of the bundle alone."""
    router = APIRouter(tags=["Hugging Face"])
    score = an_object({"label": TEXT, "score": {"type": "number"}})
    scores = {"type": "array", "items": score}
    add_prediction(
        router,
        "/",
        name="imageClassification",
        line="The likeliest classes, as Hugging Face's clients read them",
        documents=an_object(
            {"inputs": {"anyOf": [INSTANCE, INSTANCES]}},
            {"parameters": {"type": "object"}, "options": {"type": "object"}},
        ),
        answers={"anyOf": [scores, {"type": "array", "items": scores}]},
        worded=WORDED,
    )
    return Adapter(
        predictions=("/",), read=read, words=error_words, error_content=WORDED, router=router
    )


def meant(parameters: Json) -> Json:
    """The options that the parameters of an image classification mean, beside this server's own.

    Raises:
        InvalidParameter: something else than softmax is to be applied.
    """
    rest = {k: v for k, v in parameters.items() if k not in ("top_k", "function_to_apply")}
    function = parameters.get("function_to_apply")
    if function not in (None, SOFTMAX):
        raise InvalidParameter(
            f"function_to_apply: found {function!r:.80}, expected {SOFTMAX!r}: the ensemble is the "
            "mean of its members' softmax probabilities, which have no common logits"
        )
    top = parameters.get("top_k")
    return rest if top is None else {**rest, "top": top}


GRAMMAR = Grammar(places={"inputs": one_or_rows}, others=("options",), meant=meant)


async def read(body: Body, head: Head, deadline: float) -> InferenceRequest:
    """Read a picture as it is, or `inputs` in base64 with parameters."""
    asked = await GRAMMAR.read(body, head, deadline)
    is_one = len(asked.pictures) == 1 and (asked.place is None or not asked.is_list)

    def encode(answered: InferenceResponse) -> Reply:
        lists: list[Any] = [
            [{"label": top["class"], "score": top["probability"]} for top in each["top"]]
            for each in answered.predictions()
        ]
        return json_reply(lists[0] if is_one else lists)

    return InferenceRequest(asked.pictures, asked.options, encode)

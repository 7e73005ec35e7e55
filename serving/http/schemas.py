"""HTTP bodies and parameters, for validation and for the OpenAPI document."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.cascade import CascadePoint, Mode
from snapensemble.serving.errors import InvalidParameter
from snapensemble.serving.inference.explain import MAX_CLASSES

MAX_PROBLEMS = 3  # that a message names; each costs more to word than to find
Probability = Annotated[float, Field(ge=0, le=1)]
EXAMPLE = {
    "predictions": [
        {
            "class": "cat",
            "index": 1,
            "probability": 0.91,
            "top": [
                {"class": "cat", "index": 1, "probability": 0.91},
                {"class": "ant", "index": 0, "probability": 0.09},
            ],
            "probabilities": [0.09, 0.91],
            "uncertainty": {"entropy_nats": 0.3, "disagreement_nats": 0.02},
            "members_used": 5,
        }
    ],
    "model": {"name": "animals", "version": "9f2c1e7a"},
}


class PredictOptions(BaseModel):
    """The query of POST /predict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top: Annotated[int, Field(ge=0, le=1000, description="how many classes to name")] = 5
    members: Annotated[bool, Field(description="add each member's distribution")] = False
    probabilities: Annotated[bool, Field(description="add the whole distribution")] = True
    mode: Annotated[
        Mode | None,
        Field(description="every member, or as many as an image needs; the server's if not given"),
    ] = None
    coverage: Annotated[
        float | None,
        Field(gt=0, lt=1, description="add the classes that hold the right one so often, fraction"),
    ] = None
    abstain: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="say where an answer would not be sure enough for at most this share of "
            "wrong ones among those given, fraction",
        ),
    ] = None
    explain: Annotated[
        tuple[str, ...],
        Field(
            max_length=MAX_CLASSES,
            description="add a map of where the evidence for a class is: true for the predicted "
            "class, or a class's name; may be repeated",
        ),
    ] = ()
    novelty: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="say whether the picture is unlike those that taught, so that at most this "
            "share of pictures like them is called so, fraction",
        ),
    ] = None
    deadline_ms: Annotated[
        int | None,
        Field(
            ge=1,
            le=3_600_000,
            description="answer then from the members heard so far, or 504; milliseconds",
        ),
    ] = None


def checked_options(given: Mapping[str, Any]) -> PredictOptions:
    """The options of these names and values.

    Raises:
        InvalidParameter: one is unknown or out of bounds, and the message names it.
    """
    try:
        return PredictOptions.model_validate(given)
    except ValidationError as error:
        raise invalid_parameters(error) from error


def invalid_parameters(error: ValidationError) -> InvalidParameter:
    """The error of options that the model does not accept; its message names the first ones."""
    problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    more = len(problems) - MAX_PROBLEMS
    shown = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
    return InvalidParameter("; ".join(shown))


class ClassProbability(BaseModel):
    """One class and how likely it is."""

    model_config = ConfigDict(populate_by_name=True)

    class_: Annotated[str, Field(alias="class")]
    index: int
    probability: Probability


class MemberDistribution(BaseModel):
    """The distribution of one member."""

    name: str
    weight: Probability
    probabilities: list[Probability]


class Uncertainty(BaseModel):
    """How sure the answer is, in nats."""

    entropy_nats: Annotated[float, Field(ge=0, description="of the averaged distribution")]
    disagreement_nats: Annotated[
        float, Field(ge=0, description="mutual information of class and member: 0 if all agree")
    ]


class PredictionSet(BaseModel):
    """Classes that hold the right one with a promised probability, likeliest first."""

    coverage: Probability
    classes: Annotated[list[str], Field(min_length=1)]


class Explanation(BaseModel):
    """Where in the image the members find what speaks for a class: a class activation map."""

    model_config = ConfigDict(populate_by_name=True)

    class_: Annotated[str, Field(alias="class")]
    index: int
    png: Annotated[
        str,
        Field(description="grey picture, 8 bits, of the frame that the members saw; in base64"),
    ]
    low: Annotated[float, Field(description="evidence that 0 stands for, in logits")]
    high: Annotated[float, Field(description="evidence that 255 stands for, in logits")]


class Novelty(BaseModel):
    """Whether a picture is unlike those that taught."""

    novel: Annotated[bool, Field(description="whether the distance is beyond the threshold")]
    distance: Annotated[
        float, Field(ge=0, le=2, description="from the nearest class: 1 less the cosine")
    ]
    false_alarms: Annotated[
        Probability, Field(description="the most pictures like the known ones that are called so")
    ]


class Prediction(ClassProbability):
    """One image's answer; the class fields are those of the likeliest class."""

    top: list[ClassProbability]
    probabilities: list[Probability] | None = None
    members: list[MemberDistribution] | None = None
    uncertainty: Uncertainty
    prediction_set: PredictionSet | None = None
    abstain: Annotated[
        bool | None,
        Field(description="only where it was asked: whether this answer should not be used"),
    ] = None
    novelty: Novelty | None = None
    explanation: list[Explanation] | None = None
    members_used: int
    partial: Annotated[
        Literal[True] | None, Field(description="only where the deadline cut members off")
    ] = None


class ModelName(BaseModel):
    """Which model answered."""

    name: str
    version: str


class PredictResponse(BaseModel):
    """POST /predict: one prediction per image, in the order they came."""

    predictions: list[Prediction]
    model: ModelName


class ModelResponse(BundleManifest):
    """GET /model: the bundle's manifest without the place of its training data, and the server."""

    name: str
    uptime_seconds: Annotated[float, Field(ge=0)]
    lanes: Annotated[int, Field(ge=1, description="inference threads of each worker")]
    workers: Annotated[int, Field(ge=1, description="processes that share the port")]
    providers: Annotated[
        dict[str, list[str]], Field(description="of ONNX Runtime, by member, as really used")
    ]
    mode: Annotated[Mode, Field(description="where a request has none")]
    explain: Annotated[bool, Field(description="whether answers can be explained by maps")]
    abstain: Annotated[
        list[Probability],
        Field(description="shares of wrong answers that are promised in this mode, of the usual"),
    ]
    cascade_point: Annotated[
        CascadePoint | None, Field(description="the one that is active; null without a cascade")
    ]


class JsonImages(BaseModel):
    """The JSON form of a request."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[
        list[str], Field(min_length=1, description="encoded pictures, base64 (RFC 4648)")
    ]


class Live(BaseModel):
    """GET /health/live."""

    live: Literal[True]


class Ready(BaseModel):
    """GET /health/ready."""

    ready: Literal[True]


class Problem(BaseModel):
    """RFC 9457 problem details, with a stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: Annotated[
        str | None, Field(description="the X-Request-ID that the answer has as a header")
    ] = None

"""What an answer is in Python, and what can be asked of one: for bundles and servers alike.

An answer over HTTP (docs/http-api.md) has the same numbers; it is read by `Prediction.of`.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict


class Asked(TypedDict, total=False):
    """What may be asked about pictures; the meanings are those of `POST /predict`."""

    top: int
    members: bool
    probabilities: bool
    mode: Literal["full", "cascade"] | None
    coverage: float | None
    abstain: float | None
    novelty: float | None
    explain: bool | str | Sequence[str]  # True for the predicted class, or names of classes


class AskedOfServer(Asked, total=False):
    """What may be asked of a server."""

    deadline_ms: int | None


def explained_classes(explain: bool | str | Sequence[str]) -> tuple[str, ...]:
    """The classes to explain, as `POST /predict` has them; `true` is the predicted one."""
    if isinstance(explain, bool):
        return ("true",) if explain else ()
    if isinstance(explain, str) or not isinstance(explain, Iterable):
        return (explain,)
    return tuple(explain)


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """A class and how likely it is."""

    class_name: str
    index: int
    probability: float

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "ClassProbability":
        """Read the class, index and probability of an answer."""
        return cls(answer["class"], answer["index"], answer["probability"])


@dataclass(frozen=True, slots=True)
class MemberDistribution:
    """What one member says, and its weight in the average."""

    name: str
    weight: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PredictionSet:
    """Classes, likeliest first, that hold the right one with a promised probability."""

    coverage: float
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Novelty:
    """Whether a picture is unlike those that taught."""

    novel: bool
    distance: float
    false_alarms: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where in the picture the evidence for a class is: a grey PNG of the frame that members saw.

    0 stands for the evidence `low`, 255 for `high`, in logits.
    """

    class_name: str
    index: int
    png: bytes
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer about one picture. What was not asked for is None.

    Attributes:
        class_name: the likeliest class.
        index: its place among the classes.
        probability: how likely it is.
        top: the likeliest classes, as many as were asked for.
        probabilities: of all classes, in the bundle's order.
        entropy_nats: of the averaged distribution; 0 is certain.
        disagreement_nats: how far the members disagree; 0 if all say the same.
        members_used: how many members were asked.
        members: what each of them says, with `members=True`.
        prediction_set: with `coverage`.
        abstain: whether the answer should not be used, with `abstain`.
        novelty: with `novelty`.
        explanation: the maps of the classes that `explain` names.
        partial: whether a deadline cut members off.
    """

    class_name: str
    index: int
    probability: float
    top: tuple[ClassProbability, ...]
    probabilities: tuple[float, ...] | None
    entropy_nats: float
    disagreement_nats: float
    members_used: int
    members: tuple[MemberDistribution, ...] | None = None
    prediction_set: PredictionSet | None = None
    abstain: bool | None = None
    novelty: Novelty | None = None
    explanation: tuple[Explanation, ...] | None = None
    partial: bool = False

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Prediction":
        """Read a prediction of `POST /predict`; members that later versions add are passed over.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        names = answer.get("prediction_set")
        novelty = answer.get("novelty")
        return cls(
            answer["class"],
            answer["index"],
            answer["probability"],
            tuple(map(ClassProbability.of, answer["top"])),
            _numbers(answer.get("probabilities")),
            answer["uncertainty"]["entropy_nats"],
            answer["uncertainty"]["disagreement_nats"],
            answer["members_used"],
            None if (found := answer.get("members")) is None else tuple(map(_member, found)),
            None if names is None else PredictionSet(names["coverage"], tuple(names["classes"])),
            answer.get("abstain"),
            None
            if novelty is None
            else Novelty(novelty["novel"], novelty["distance"], novelty["false_alarms"]),
            None if (maps := answer.get("explanation")) is None else tuple(map(_explanation, maps)),
            bool(answer.get("partial", False)),
        )


def _numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


def _member(found: Mapping[str, Any]) -> MemberDistribution:
    return MemberDistribution(found["name"], found["weight"], tuple(found["probabilities"]))


def _explanation(found: Mapping[str, Any]) -> Explanation:
    png = base64.b64decode(found["png"])
    return Explanation(found["class"], found["index"], png, found["low"], found["high"])

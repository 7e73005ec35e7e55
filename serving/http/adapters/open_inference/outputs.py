"""Answers -> named tensors. Pure.

Shapes: N images, M members, K classes, d members that answered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.prediction_sets import prediction_sets
from snapensemble.serving.errors import InvalidParameter, InvalidTensor
from snapensemble.serving.http.adapters.adapter import InferenceResponse
from snapensemble.serving.http.adapters.open_inference.inputs import LENGTH
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.aggregate import Summary
from snapensemble.serving.inference.request import MemberOutputs

DTYPES = {"FP32": "<f4", "INT32": "<i4", "BOOL": "?"}
PROBABILITIES = "probabilities"
Values = NDArray[Any] | list[str]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output; its values are an array of any kind of number, or texts, flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values

    def flat(self) -> list[Any]:
        """The elements for JSON, row by row."""
        if isinstance(self.values, list):
            return self.values
        found: list[Any] = self.values.ravel().tolist()
        return found

    def raw(self) -> bytes:
        """The elements as bytes, row by row, little-endian."""
        if isinstance(self.values, list):
            texts = [text.encode() for text in self.values]
            return b"".join([LENGTH.pack(len(text)) + text for text in texts])
        return self.values.astype(DTYPES[self.datatype]).tobytes()


@dataclass(frozen=True, slots=True)
class Requested:
    """An output that a request names.

    Args:
        name: of the output.
        classes: how many classes to name in place of the probabilities; 0 for none.
        is_binary: whether its elements come as bytes.
    """

    name: str
    classes: int = 0
    is_binary: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """An output that a model can give.

    Args:
        datatype: of its elements.
        shape: that of one image's part.
        values: those of all images.
        needs: the parameter without which there is nothing to give.
        is_usual: whether it is given where a request names none.
    """

    datatype: str
    shape: Callable[[BundleManifest], tuple[int, ...]]
    values: Callable[[InferenceResponse], Values]
    needs: str | None = None
    is_usual: bool = False


def _summaries(answered: InferenceResponse) -> list[Summary]:
    found = [each.summary for each in answered.outputs_N]
    return [each for each in found if each is not None]  # every answer has one


def _probabilities(answered: InferenceResponse) -> Values:
    return np.array([each.probs_K for each in _summaries(answered)])


def _class(answered: InferenceResponse) -> Values:
    return [answered.bundle.classes[each.order_K[0]] for each in _summaries(answered)]


def _member_probabilities(answered: InferenceResponse) -> Values:
    """probs_NMK. The row of a member that gave no answer is 0, which no distribution is."""
    bundle = answered.bundle
    probs_NMK = np.zeros((len(answered.outputs_N), len(bundle.members), len(bundle.classes)))
    for probs_MK, each in zip(probs_NMK, answered.outputs_N, strict=True):
        places = range(len(each.probs_dK)) if each.partial_of is None else each.partial_of
        probs_MK[list(places)] = each.probs_dK
    return probs_NMK


def _prediction_set(answered: InferenceResponse) -> Values:
    """Which classes are in the set; none in that of an answer which a deadline cut short."""
    quantile = answered.promised.quantile
    assert quantile is not None
    in_set_NK = prediction_sets(np.array(_probabilities(answered)), quantile)
    in_set_NK[[each.partial_of is not None for each in answered.outputs_N]] = False
    return np.asarray(in_set_NK)


def _of_each(
    value: Callable[[MemberOutputs, InferenceResponse], Any],
) -> Callable[[InferenceResponse], Values]:
    return lambda answered: np.array([value(each, answered) for each in answered.outputs_N])


def _is_novel(outputs: MemberOutputs, answered: InferenceResponse) -> bool:
    threshold = answered.promised.novelty
    assert threshold is not None
    return outputs.distance is not None and outputs.distance > threshold.distance


OUTPUTS: Mapping[str, Output] = {
    PROBABILITIES: Output("FP32", lambda b: (len(b.classes),), _probabilities, is_usual=True),
    "class": Output("BYTES", lambda _: (), _class, is_usual=True),
    "member_probabilities": Output(
        "FP32", lambda b: (len(b.members), len(b.classes)), _member_probabilities
    ),
    "entropy_nats": Output(
        "FP32", lambda _: (), lambda a: np.array([each.entropy_nats for each in _summaries(a)])
    ),
    "disagreement_nats": Output(
        "FP32", lambda _: (), lambda a: np.array([each.disagreement_nats for each in _summaries(a)])
    ),
    "members_used": Output("INT32", lambda _: (), _of_each(lambda each, _: len(each.probs_dK))),
    "prediction_set": Output(
        "BOOL", lambda b: (len(b.classes),), _prediction_set, needs="coverage"
    ),
    "abstain": Output(
        "BOOL", lambda _: (), _of_each(lambda each, a: a.promised.abstains(each)), needs="abstain"
    ),
    "novel": Output("BOOL", lambda _: (), _of_each(_is_novel), needs="novelty"),
    # 2 is the largest distance that there is; a part of an answer may have none.
    "novelty_distance": Output(
        "FP32",
        lambda _: (),
        _of_each(lambda each, _: 2.0 if each.distance is None else each.distance),
        needs="novelty",
    ),
}


def wanted_outputs(
    requested: Sequence[Requested] | None, options: PredictOptions, *, is_binary: bool
) -> Sequence[Requested]:
    """The outputs to give: those that the request names, or the usual ones and those it asks for.

    Args:
        requested: those that the request names; nothing or none: it names none.
        options: of the request.
        is_binary: how to give those that it does not name.

    Raises:
        InvalidTensor: there is no such output, or it is named twice.
        InvalidParameter: an output needs a parameter that is not given.
    """
    given = frozenset(
        name for name in ("coverage", "abstain", "novelty") if getattr(options, name) is not None
    )
    if not requested:
        return _usual(given, is_binary)
    seen: set[str] = set()
    for each in requested:
        if each.name not in OUTPUTS:
            known = ", ".join(OUTPUTS)
            raise InvalidTensor(f"outputs: found {each.name[:80]!r}, expected some of {known}")
        if each.name in seen:
            raise InvalidTensor(f"outputs: {each.name} is named twice, expected once")
        seen.add(each.name)
        needs = OUTPUTS[each.name].needs
        if needs is not None and needs not in given:
            raise InvalidParameter(f"{needs}: the output {each.name} needs this parameter")
        if each.classes and each.name != PROBABILITIES:
            raise InvalidTensor(
                f"outputs: classification of {each.name}, expected that of {PROBABILITIES}"
            )
    return requested


@cache
def _usual(given: frozenset[str], is_binary: bool) -> Sequence[Requested]:
    return tuple(
        Requested(name, is_binary=is_binary)
        for name, each in OUTPUTS.items()
        if each.is_usual or each.needs in given
    )


def tensors(answered: InferenceResponse, wanted: Sequence[Requested]) -> list[OutputTensor]:
    """The outputs of an answer."""
    return [_tensor(answered, each) for each in wanted]


def _tensor(answered: InferenceResponse, wanted: Requested) -> OutputTensor:
    count = len(answered.outputs_N)
    if wanted.classes:
        depth = min(wanted.classes, len(answered.bundle.classes))
        texts = _classifications(answered, depth)
        return OutputTensor(wanted.name, "BYTES", (count, depth), texts)
    output = OUTPUTS[wanted.name]
    shape = (count, *output.shape(answered.bundle))
    return OutputTensor(wanted.name, output.datatype, shape, output.values(answered))


def _classifications(answered: InferenceResponse, depth: int) -> list[str]:
    """The likeliest classes of each image, as Triton's classification extension writes them."""
    classes = answered.bundle.classes
    return [
        f"{each.probs_K[k]:.6f}:{k}:{classes[k]}"
        for each in _summaries(answered)
        for k in each.order_K[:depth]
    ]


def is_partial(answered: InferenceResponse) -> bool:
    """Whether a deadline has cut members off from the answer to at least one image."""
    return any(each.partial_of is not None for each in answered.outputs_N)

"""The members' outputs for an image -> the prediction that clients get. Pure.

Shapes: d members asked, K classes.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from snapensemble.contracts.abstention import AbstentionPoint, answers
from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.novelty import NoveltyThreshold
from snapensemble.contracts.prediction_sets import SetQuantile, prediction_sets
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.aggregate import summaries, weights
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.request import MemberOutputs


@dataclass(frozen=True, slots=True)
class Promised:
    """What a bundle promises of an answer, as far as a request wants to know."""

    quantile: SetQuantile | None = None  # makes the prediction set
    answered: AbstentionPoint | None = None  # says which images are answered
    novelty: NoveltyThreshold | None = None  # says which pictures are unlike those that taught

    def abstains(self, outputs: MemberOutputs) -> bool:
        """Whether an answer, whose summary is made, is not sure enough for what is promised.

        A part of an answer, cut short by a deadline, never is.
        """
        if self.answered is None:
            return False
        assert outputs.summary is not None
        return outputs.partial_of is not None or not answers(self.answered, outputs.summary.probs_K)


def promised(engine: Engine, mode: Mode, options: PredictOptions) -> Promised:
    """What the engine's bundle promises of answers in a mode.

    Raises:
        InvalidParameter: the bundle does not promise what the options ask for.
    """
    if options.coverage is options.abstain is options.novelty is None:
        return Promised()
    return Promised(
        engine.quantile(mode, options.coverage),
        engine.abstention(mode, options.abstain),
        engine.novelty(options.novelty),
    )


def prediction(
    outputs: MemberOutputs,
    bundle: BundleManifest,
    options: PredictOptions,
    promised: Promised = Promised(),  # frozen
) -> dict[str, Any]:
    """One image's answer; `serving.http.schemas.Prediction` describes it.

    Args:
        outputs: those of the members asked. A part of an answer, cut short by a deadline, has no
            prediction set, and is never sure enough: what is promised is so of whole answers.
        bundle: the manifest of what is served.
        options: what the client wants to see.
        promised: what is said of the answer beside it.
    """
    outputs = with_summary(outputs, bundle)
    summary = outputs.summary
    assert summary is not None
    probs_K, order_K = summary.probs_K, summary.order_K
    top = [
        {"class": bundle.classes[k], "index": k, "probability": probs_K[k]}
        for k in order_K[: max(options.top, 1)]
    ]
    answer: dict[str, Any] = {**top[0], "top": top[: options.top]}
    if options.probabilities:
        answer["probabilities"] = probs_K
    if options.members:
        answer["members"] = member_distributions(outputs, bundle)
    answer["uncertainty"] = {
        "entropy_nats": summary.entropy_nats,
        "disagreement_nats": summary.disagreement_nats,
    }
    if (quantile := promised.quantile) is not None and outputs.partial_of is None:
        in_set_K = prediction_sets(np.array([probs_K]), quantile)[0]
        answer["prediction_set"] = {
            "coverage": quantile.coverage,
            "classes": [bundle.classes[k] for k in order_K if in_set_K[k]],
        }
    if promised.answered is not None:
        answer["abstain"] = promised.abstains(outputs)
    if promised.novelty is not None and outputs.distance is not None:
        answer["novelty"] = {
            "novel": outputs.distance > promised.novelty.distance,
            "distance": outputs.distance,
            "false_alarms": promised.novelty.false_alarms,
        }
    if outputs.explanation:
        answer["explanation"] = [
            {
                "class": bundle.classes[each.index],
                "index": each.index,
                "png": each.png,
                "low": each.low,
                "high": each.high,
            }
            for each in outputs.explanation
        ]
    answer["members_used"] = len(outputs.probs_dK)
    if outputs.partial_of is not None:
        answer["partial"] = True
    return answer


def member_distributions(outputs: MemberOutputs, bundle: BundleManifest) -> list[dict[str, Any]]:
    """The distribution of each member asked, and its weight in the average."""
    depth = len(outputs.probs_dK)
    places = outputs.partial_of or range(depth)
    weights_d = weights(bundle, depth, outputs.partial_of)
    return [
        {"name": bundle.members[place].name, "weight": weight, "probabilities": probs_K.tolist()}
        for place, weight, probs_K in zip(places, weights_d, outputs.probs_dK, strict=True)
    ]


def with_summary(outputs: MemberOutputs, bundle: BundleManifest) -> MemberOutputs:
    """The outputs with their summary, which a lane has not made of a part of an answer."""
    if outputs.summary is not None:
        return outputs
    (summary,) = summaries(outputs.probs_dK[:, None], bundle, outputs.partial_of)
    return replace(outputs, summary=summary)


def response(predictions: list[dict[str, Any]], name: str, version: str) -> dict[str, Any]:
    """All predictions of a request, and which model made them."""
    return {"predictions": predictions, "model": {"name": name, "version": version}}

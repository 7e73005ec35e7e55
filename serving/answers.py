"""Members' distributions -> the prediction that clients get. Pure.

Shapes: d members asked, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from contracts.bundle import BundleManifest
from contracts.figures import Floats, disagreement, entropy, mean_probabilities
from contracts.prediction_sets import SetQuantile, prediction_sets
from serving.schemas import PredictOptions


def averaged(probs_dK: Floats, bundle: BundleManifest) -> Floats:
    """probs_K: the calibrated average of the members asked, all of them or the first few."""
    depth = len(probs_dK)
    weights_d, temperature = bundle.weights_of_first(depth), bundle.temperature_of_first(depth)
    return mean_probabilities(probs_dK, weights_d, temperature)


def prediction(
    probs_dK: Floats,
    bundle: BundleManifest,
    options: PredictOptions,
    quantile: SetQuantile | None = None,
    partial_of: Sequence[int] | None = None,
) -> dict[str, Any]:
    """One image's answer; `serving.schemas.Prediction` describes it.

    Args:
        probs_dK: what the members asked said of it.
        bundle: what is served.
        options: what the client wants to see.
        quantile: makes the prediction set; without it there is none.
        partial_of: the members that said it, where a deadline has cut the others off. Such an
            answer has no prediction set: the quantile is one of whole answers.
    """
    if partial_of is None:
        members: Sequence[int] = range(len(probs_dK))
        weights_d, probs_K = bundle.weights_of_first(len(probs_dK)), averaged(probs_dK, bundle)
    else:
        members, weights_d = partial_of, bundle.weights_of(partial_of)
        probs_K = mean_probabilities(probs_dK, weights_d, bundle.temperature_of(partial_of))
    order_K = np.argsort(-probs_K, kind="stable")
    top = [
        {"class": bundle.classes[k], "index": int(k), "probability": float(probs_K[k])}
        for k in order_K[: max(options.top, 1)]
    ]
    answer: dict[str, Any] = {**top[0], "top": top[: options.top]}
    if options.probabilities:
        answer["probabilities"] = probs_K.tolist()
    if options.members:
        answer["members"] = [
            {"name": bundle.members[place].name, "weight": weight, "probabilities": probs.tolist()}
            for place, weight, probs in zip(members, weights_d, probs_dK, strict=True)
        ]
    answer["uncertainty"] = {
        "entropy_nats": float(entropy(probs_K)),
        "disagreement_nats": float(disagreement(probs_dK, weights_d)),
    }
    if quantile is not None and partial_of is None:
        in_set_K = prediction_sets(probs_K[None], quantile)[0]
        answer["prediction_set"] = {
            "coverage": quantile.coverage,
            "classes": [bundle.classes[k] for k in order_K if in_set_K[k]],
        }
    answer["members_used"] = len(probs_dK)
    if partial_of is not None:
        answer["partial"] = True
    return answer


def response(
    predictions: list[dict[str, Any]], bundle: BundleManifest, name: str
) -> dict[str, Any]:
    """All predictions of a request, and which model made them."""
    return {"predictions": predictions, "model": {"name": name, "version": bundle.version}}

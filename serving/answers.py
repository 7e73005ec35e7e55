"""Members' distributions -> the prediction that clients get. Pure.

Shapes: d members asked, K classes.
"""

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
) -> dict[str, Any]:
    """One image's answer; `serving.schemas.Prediction` describes it.

    Args:
        probs_dK: what the members asked said of it.
        bundle: what is served.
        options: what the client wants to see.
        quantile: makes the prediction set; without it there is none.
    """
    weights_d = bundle.weights_of_first(len(probs_dK))
    probs_K = averaged(probs_dK, bundle)
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
            {"name": member.name, "weight": weight, "probabilities": probs.tolist()}
            for member, weight, probs in zip(bundle.members, weights_d, probs_dK, strict=False)
        ]
    answer["uncertainty"] = {
        "entropy_nats": float(entropy(probs_K)),
        "disagreement_nats": float(disagreement(probs_dK, weights_d)),
    }
    if quantile is not None:
        in_set_K = prediction_sets(probs_K[None], quantile)[0]
        answer["prediction_set"] = {
            "coverage": quantile.coverage,
            "classes": [bundle.classes[k] for k in order_K if in_set_K[k]],
        }
    answer["members_used"] = len(probs_dK)
    return answer


def response(
    predictions: list[dict[str, Any]], bundle: BundleManifest, name: str
) -> dict[str, Any]:
    """All predictions of a request, and which model made them."""
    return {"predictions": predictions, "model": {"name": name, "version": bundle.version}}

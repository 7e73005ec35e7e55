"""Members' distributions -> the prediction that clients get. Pure.

Shapes: M members, K classes.
"""

from typing import Any

import numpy as np

from contracts.bundle import BundleManifest
from contracts.figures import Floats, disagreement, entropy, mean_probabilities
from serving.schemas import PredictOptions


def prediction(probs_MK: Floats, bundle: BundleManifest, options: PredictOptions) -> dict[str, Any]:
    """One image's answer; `serving.schemas.Prediction` describes it."""
    weights_M = bundle.weights_M
    probs_K = mean_probabilities(probs_MK, weights_M, bundle.temperature)
    order_K = np.argsort(-probs_K, kind="stable")[: max(options.top, 1)]
    top = [
        {"class": bundle.classes[k], "index": int(k), "probability": float(probs_K[k])}
        for k in order_K
    ]
    answer: dict[str, Any] = {**top[0], "top": top[: options.top]}
    if options.probabilities:
        answer["probabilities"] = probs_K.tolist()
    if options.members:
        answer["members"] = [
            {"name": member.name, "weight": member.weight, "probabilities": probs.tolist()}
            for member, probs in zip(bundle.members, probs_MK, strict=True)
        ]
    answer["uncertainty"] = {
        "entropy_nats": float(entropy(probs_K)),
        "disagreement_nats": float(disagreement(probs_MK, weights_M)),
    }
    answer["members_used"] = len(probs_MK)
    return answer


def response(
    predictions: list[dict[str, Any]], bundle: BundleManifest, name: str
) -> dict[str, Any]:
    """All predictions of a request, and which model made them."""
    return {"predictions": predictions, "model": {"name": name, "version": bundle.version}}

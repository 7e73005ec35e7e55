"""One number that makes averaged probabilities as sure as they are right. Pure.

Shapes: B images, K classes.
"""

import math

import numpy as np
from scipy.optimize import minimize_scalar

from snapensemble.contracts.metrics import SMALLEST, Floats, Labels

LOWEST, HIGHEST = 0.05, 20.0
# Few images that are all answered rightly would carry the temperature to 0. A normal prior on its
# logarithm keeps it near 1.2 until there is evidence (networks are rather too sure than too
# unsure); hundreds of images hardly notice it. docs/decisions/0032 has what it costs and saves.
PRIOR_MEAN, PRIOR_DEVIATION = 0.2, 0.35


def fit_temperature(
    probs_BK: Floats, labels_B: Labels, log_weights_K: Floats | None = None
) -> float:
    """The temperature with the lowest NLL of softmax(log p / T) (Guo et al. 2017, section 4.2).

    Fitted on the averaged distribution: pool, then calibrate (Rahaman & Thiery 2021). The order of
    the classes, and so the accuracy, does not change.

    Args:
        probs_BK: averaged probabilities of images that were not trained on.
        labels_B: their right classes.
        log_weights_K: of `reweighted`, with which the tempered probabilities are judged: the
            shares of the classes among these images over those that the probabilities are for;
            None: they are the same.

    Returns:
        A number from 0.05 to 20, to four decimals; below 1 makes answers surer.
    """
    # The likeliest class has 0: nothing overflows, and the logarithms are computed once.
    logs_BK = np.log(np.maximum(probs_BK, SMALLEST))
    logs_BK -= logs_BK.max(axis=1, keepdims=True)
    right_B = logs_BK[np.arange(len(labels_B)), labels_B]
    weights_K = 1.0 if log_weights_K is None else np.exp(log_weights_K)

    def cost(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        sums_B = (np.exp(logs_BK * inverse) * weights_K).sum(axis=1)
        nlls_B = np.log(sums_B) - right_B * inverse
        deviations = (log_temperature - PRIOR_MEAN) / PRIOR_DEVIATION
        prior = deviations**2 / 2 / len(labels_B)
        return float(nlls_B.mean()) + prior

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return round(math.exp(float(found.x)), 4)

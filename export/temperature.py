"""One number that makes averaged probabilities as sure as they are right. Pure.

Shapes: B images, K classes.
"""

import math

from scipy.optimize import minimize_scalar

from snapensemble.contracts.metrics import Floats, Labels, nll, tempered

LOWEST, HIGHEST = 0.05, 20.0
# Few images that are all answered rightly would carry the temperature to 0. A normal prior on its
# logarithm about 0 keeps it near 1 until there is evidence: hundreds of images hardly notice it.
PRIOR_DEVIATION = 0.25


def fit_temperature(probs_BK: Floats, labels_B: Labels) -> float:
    """The temperature with the lowest NLL of softmax(log p / T) (Guo et al. 2017, section 4.2).

    Fitted on the averaged distribution: pool, then calibrate (Rahaman & Thiery 2021). The order of
    the classes, and so the accuracy, does not change.

    Args:
        probs_BK: averaged probabilities of images that were not trained on.
        labels_B: their right classes.

    Returns:
        A number from 0.05 to 20, to four decimals; below 1 makes answers surer.
    """

    def cost(log_temperature: float) -> float:
        prior = (log_temperature / PRIOR_DEVIATION) ** 2 / 2 / len(labels_B)
        return nll(tempered(probs_BK, math.exp(log_temperature)), labels_B) + prior

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return round(math.exp(float(found.x)), 4)

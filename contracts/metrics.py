"""Averages of the members' probabilities, and the figures that say how good answers are.

Shapes: M members, N or B images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.manifest import Figures, ValFigures

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
Metric = Literal["nll", "accuracy", "macro"]

# A probability below this counts as this much in a logarithm: a float32 softmax can round to 0.
SMALLEST = 1e-12
SMALLEST_NLL = 0.01


@dataclass(frozen=True, slots=True)
class Answers:
    """The members' probabilities in the order of a bundle, with the right labels."""

    probs_MNK: Floats
    labels_N: Labels

    def __post_init__(self) -> None:
        """Refuse probabilities and labels of different numbers of images."""
        if self.probs_MNK.ndim != 3 or self.probs_MNK.shape[1] != len(self.labels_N):
            raise ValueError(
                f"probs_MNK has shape {self.probs_MNK.shape}, there are {len(self.labels_N)} labels"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels_N)

    def only(self, images_N: NDArray[np.intp]) -> "Answers":
        """The same answers for some of the images."""
        return Answers(self.probs_MNK[:, images_N], self.labels_N[images_N])


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def tempered(probs: Floats, temperature: float) -> Floats:
    """softmax(log p / T) over the last axis; 1 leaves the probabilities as they are."""
    if temperature == 1.0:
        return probs
    return softmax(np.log(np.maximum(probs, SMALLEST)) / temperature)


def reweighted(probs: Floats, log_weights_K: Floats | None) -> Floats:
    """Probabilities times a weight for each class, given as its logarithm, scaled to sum to 1.

    None leaves them as they are. With the shares of the classes at one place over those at another
    this is Bayes' rule where only the shares differ (Saerens et al. 2002).
    """
    if log_weights_K is None:
        return probs
    return softmax(np.log(np.maximum(probs, SMALLEST)) + log_weights_K)


def mean_probabilities(
    probs_MBK: Floats, weights_M: Sequence[float] | None = None, temperature: float = 1.0
) -> Floats:
    """Average the members' class probabilities, then apply one temperature.

    The mean is over probabilities, not over logits (Huang et al. 2017, section 3). The temperature
    acts on the averaged distribution, softmax(log p / T): pool, then calibrate
    (Rahaman & Thiery 2021).

    Args:
        probs_MBK: one distribution per member and image.
        weights_M: one weight per member, summing to 1; equal if not given.
        temperature: 1 leaves the average as it is.

    Returns:
        probs_BK, each row in [0, 1] and summing to 1.
    """
    # Rounding can carry a weighted sum just above 1.
    return tempered(np.minimum(_mean_over_members(probs_MBK, weights_M), 1.0), temperature)


def entropy(probs: Floats) -> Floats:
    """Entropy over the last axis, in nats."""
    nats = -(probs * np.log(np.maximum(probs, SMALLEST))).sum(axis=-1)
    return np.asarray(np.maximum(nats, 0.0))  # rounding can carry a certain answer below 0


def disagreement(probs_MBK: Floats, weights_M: Sequence[float] | None = None) -> Floats:
    """How much the members contradict each other, in nats, at least 0, per image.

    The entropy of the mean less the mean of the entropies: the mutual information between the
    class and the member.
    """
    pooled = _mean_over_members(probs_MBK, weights_M)
    within = _mean_over_members(entropy(probs_MBK), weights_M)
    return np.maximum(entropy(pooled) - within, 0.0)


def accuracy(probs_BK: Floats, labels_B: Labels) -> float:
    """The fraction of images whose likeliest class is the right one."""
    return float((probs_BK.argmax(axis=1) == labels_B).mean())


def macro_accuracy(probs_BK: Floats, labels_B: Labels) -> float:
    """The mean over classes of the fraction of their images that are answered right.

    Every class counts the same, however many images it has; those without an image are left out.
    """
    right_B = probs_BK.argmax(axis=1) == labels_B
    images_K, right_K = np.bincount(labels_B), np.bincount(labels_B, weights=right_B)
    return float((right_K[images_K > 0] / images_K[images_K > 0]).mean())


def class_weights(labels_B: Labels) -> Floats:
    """weight_B, 1 on average, under which the images of every class weigh the same together."""
    images_K = np.bincount(labels_B)
    return np.asarray(len(labels_B) / np.count_nonzero(images_K) / images_K[labels_B])


def errors(probs_BK: Floats, labels_B: Labels, *, macro: bool = False) -> Floats:
    """error_B: 1 for a wrong answer, 0 for a right one.

    Args:
        probs_BK: the answers.
        labels_B: the right classes.
        macro: a wrong answer counts as 1 / (classes x images of its class) of all images instead,
            so that the mean is 1 less the macro accuracy, and not less the accuracy.
    """
    wrong_B = (probs_BK.argmax(axis=1) != labels_B).astype(np.float64)
    if macro:
        wrong_B *= class_weights(labels_B)
    return np.asarray(wrong_B)


def nll(probs_BK: Floats, labels_B: Labels) -> float:
    """Mean negative log-likelihood of the right class, in nats."""
    return float(nlls(probs_BK, labels_B).mean())


def nlls(probs_BK: Floats, labels_B: Labels) -> Floats:
    """nll_B, each image's negative log-likelihood of the right class, in nats."""
    right_B = probs_BK[np.arange(len(labels_B)), labels_B]
    return np.asarray(-np.log(np.maximum(right_B, SMALLEST)))


def nll_rise(after: float, before: float) -> float:
    """How much higher an NLL is, relative to what it was.

    Below 0.01 nats it is relative to 0.01: twice almost nothing is almost nothing.
    """
    return (after - before) / max(before, SMALLEST_NLL)


def brier(probs_BK: Floats, labels_B: Labels) -> float:
    """Mean squared distance to the one-hot truth, summed over classes: 0 is best, 2 is worst."""
    right = probs_BK[np.arange(len(labels_B)), labels_B]
    return float(((probs_BK**2).sum(axis=1) - 2 * right + 1).mean())


def ece(probs_BK: Floats, labels_B: Labels, bins: int = 15) -> float:
    """Expected calibration error of the top class (Guo et al. 2017, equation 3).

    Equal-width bins of confidence over (0, 1]; a fraction in [0, 1].
    """
    confidence_B = probs_BK.max(axis=1)
    right_B = probs_BK.argmax(axis=1) == labels_B
    bin_B = confidence_bins(confidence_B, bins)
    gaps = np.bincount(bin_B, weights=right_B - confidence_B, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels_B))


def adaptive_ece(probs_BK: Floats, labels_B: Labels, bins: int = 15) -> float:
    """Expected calibration error with as many images in each bin (Nixon et al. 2019, section 3).

    Confident networks crowd the last of equal-width bins; here none is crowded or empty. With
    fewer images than bins each image is a bin of its own.
    """
    confidence = probs_BK.max(axis=1)
    gaps = ((probs_BK.argmax(axis=1) == labels_B) - confidence)[
        np.argsort(confidence, kind="stable")
    ]
    edges = np.unique(np.linspace(0, len(gaps), bins + 1).astype(int))
    return float(np.abs(np.add.reduceat(gaps, edges[:-1])).sum() / len(labels_B))


def auroc(own_N: Floats, others_N: Floats) -> float:
    """How often one of the others has a higher score than one of the own, an equal one as half.

    The area under the ROC curve, as Mann & Whitney's statistic; both need one score at least.
    """
    rising_N = np.sort(own_N)
    below_N = np.searchsorted(rising_N, others_N, side="left")
    not_above_N = np.searchsorted(rising_N, others_N, side="right")
    return float((below_N + not_above_N).mean() / (2 * len(own_N)))


def confidence_bins(confidence_B: Floats, bins: int) -> NDArray[np.int64]:
    """Which of `bins` equal-width bins over (0, 1] each confidence is in, from 0."""
    return np.clip(np.ceil(confidence_B * bins).astype(np.int64) - 1, 0, bins - 1)


def val_figures(probs_BK: Floats, labels_B: Labels) -> ValFigures:
    """The figures that manifests keep of the validation split."""
    return ValFigures(
        nll=nll(probs_BK, labels_B),
        accuracy=accuracy(probs_BK, labels_B),
        macro_accuracy=macro_accuracy(probs_BK, labels_B),
    )


def all_figures(probs_BK: Floats, labels_B: Labels) -> Figures:
    """All figures as a record for manifests."""
    return Figures(**summary(probs_BK, labels_B))


def summary(probs_BK: Floats, labels_B: Labels) -> dict[str, float]:
    """All figures by name."""
    figures = {
        "accuracy": accuracy,
        "macro_accuracy": macro_accuracy,
        "nll": nll,
        "ece": ece,
        "adaptive_ece": adaptive_ece,
        "brier": brier,
    }
    return {name: figure(probs_BK, labels_B) for name, figure in figures.items()}


def rank(nll_S: Sequence[float]) -> list[int]:
    """Indices of the snapshots, lowest NLL first; of equals the later, which trained longer."""
    return sorted(range(len(nll_S)), key=lambda index: (nll_S[index], -index))


def _mean_over_members(values: Floats, weights_M: Sequence[float] | None) -> Floats:
    if weights_M is None:
        return np.asarray(values.mean(axis=0))
    # Added one after another: np.dot adds in an order that depends on how many images come
    # together, and an answer would depend on its company in the last bit.
    total = weights_M[0] * values[0]
    for weight, value in zip(weights_M[1:], values[1:], strict=True):
        total += weight * value
    return np.asarray(total)

"""measure_bundle() turns a manifest and the members' answers into all numbers of the page.

Shapes: M members, N images, K classes, J bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.manifest import Figures
from snapensemble.contracts.metrics import (
    Answers,
    Floats,
    Labels,
    all_figures,
    confidence_bins,
    mean_probabilities,
)
from snapensemble.report.bundle.confusion import class_by_class
from snapensemble.report.bundle.judged import Picture, image_by_image
from snapensemble.report.bundle.options import (
    all_set_figures,
    full_answers,
    precision_of,
    serving_options,
)
from snapensemble.report.bundle.records import (
    AnswerFigures,
    BundleFigures,
    Option,
    Reliability,
    Selective,
    SpeedRecord,
)
from snapensemble.report.figures import pairwise_disagreement

SHARES = tuple(n / 20 for n in range(20, 0, -1))  # 100 %, 95 %, ..., 5 % of the images


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """What a report is made from: the answers of the members as deployed, and their speed."""

    calibration: Answers  # to the half of validation that chose nothing; may hold no image
    test: Answers | None = None  # None: the images were not at hand
    fp32_test_MNK: Floats | None = None  # of int8 members: their probabilities in fp32
    speed: SpeedRecord | None = None
    picture: Picture | None = None  # of the images that are shown; None: none may be shown

    def __post_init__(self) -> None:
        fp32 = self.fp32_test_MNK
        if fp32 is not None and (self.test is None or fp32.shape != self.test.probs_MNK.shape):
            raise ValueError("fp32_test_MNK must have the shape of the test answers")


def measure_bundle(bundle: BundleManifest, inputs: ReportInputs) -> BundleFigures:
    """Measure on the test images; where they are not at hand, on the calibration half."""
    on_test = inputs.test is not None
    shown = inputs.calibration if inputs.test is None else inputs.test
    return BundleFigures(
        name=bundle.name,
        version=bundle.version,
        split="test" if on_test else "calibration",
        images=len(shown),
        answers=answer_figures(bundle, shown, inputs) if len(shown) else None,
        speed=inputs.speed,
    )


def answer_figures(bundle: BundleManifest, shown: Answers, inputs: ReportInputs) -> AnswerFigures:
    """Measure all that the page says about the images shown."""
    probs_MNK, labels_N = shown.probs_MNK, shown.labels_N
    before_NK = mean_probabilities(probs_MNK, bundle.weights_M)
    after_NK = full_answers(bundle, probs_MNK)
    disagreement_MM = pairwise_disagreement(probs_MNK)
    return AnswerFigures(
        members=tuple(all_figures(probs_NK, labels_N) for probs_NK in probs_MNK),
        growth=growth(probs_MNK, labels_N, bundle.weights_of_first),
        before=all_figures(before_NK, labels_N),
        after=all_figures(after_NK, labels_N),
        reliability_before=reliability(before_NK, labels_N),
        reliability_after=reliability(after_NK, labels_N),
        disagreement=tuple(map(tuple, disagreement_MM.tolist())),
        selective=selective(after_NK, labels_N),
        selective_single=selective(probs_MNK[0], labels_N),
        options=_options(bundle, shown, inputs),
        sets=all_set_figures(bundle, probs_MNK, labels_N, fitted_here=inputs.test is None),
        **class_by_class(after_NK, labels_N, bundle.classes),
        **image_by_image(after_NK, shown, bundle.classes),
    )


def _options(bundle: BundleManifest, shown: Answers, inputs: ReportInputs) -> tuple[Option, ...]:
    """The options as deployed, beside fp32 members under the same temperatures and thresholds."""
    options = serving_options(bundle, shown.probs_MNK, shown.labels_N, precision_of(bundle))
    if inputs.fp32_test_MNK is None:
        return options
    return (
        *serving_options(bundle, inputs.fp32_test_MNK, shown.labels_N, "fp32"),
        *options,
    )


def growth(
    probs_MNK: Floats, labels_N: Labels, weights_of_first: Callable[[int], Sequence[float]]
) -> tuple[Figures, ...]:
    """Figures of the average of the first 1, 2, ..., M members, without a temperature."""
    return tuple(
        all_figures(mean_probabilities(probs_MNK[:m], weights_of_first(m)), labels_N)
        for m in range(1, len(probs_MNK) + 1)
    )


def reliability(probs_NK: Floats, labels_N: Labels, bins: int = 15) -> Reliability:
    """Confidence and accuracy of the top class by confidence, in the bins of the ECE."""
    confidence_N = probs_NK.max(axis=1)
    right_N = probs_NK.argmax(axis=1) == labels_N
    bin_N = confidence_bins(confidence_N, bins)
    images_J = np.bincount(bin_N, minlength=bins)

    def means(values_N: Floats) -> tuple[float | None, ...]:
        sums_J = np.bincount(bin_N, weights=values_N, minlength=bins)
        return tuple(
            min(float(total / count), 1.0) if count else None
            for total, count in zip(sums_J, images_J, strict=True)
        )

    return Reliability(
        images=tuple(images_J.tolist()),
        confidence=means(confidence_N),
        accuracy=means(right_N.astype(float)),
    )


def selective(
    probs_NK: Floats, labels_N: Labels, shares: Sequence[float] = SHARES
) -> tuple[Selective, ...]:
    """Accuracy where only the surest images are answered (El-Yaniv & Wiener 2010).

    Images as sure as the least sure one that is answered are answered too, so more images than the
    share may be answered, and two shares may come out as one.
    """
    confidence_N = probs_NK.max(axis=1)
    right_N = probs_NK.argmax(axis=1) == labels_N
    descending_N, N = -np.sort(-confidence_N), len(labels_N)
    limits = dict.fromkeys(float(descending_N[int(np.ceil(share * N)) - 1]) for share in shares)
    answered = [(limit, right_N[confidence_N >= limit]) for limit in limits]
    return tuple(
        Selective(
            confidence=min(limit, 1.0),
            answered=len(right) / N,
            accuracy=float(right.mean()),
            wrong=int((~right).sum()),
        )
        for limit, right in answered
    )

"""How good a bundle's answers are, in numbers. Pure.

Shapes: M members, N images, K classes, J bins.
"""

from collections.abc import Callable, Sequence

import numpy as np

from contracts.figures import (
    Floats,
    Labels,
    all_figures,
    confidence_bins,
    mean_probabilities,
)
from contracts.records import Figures
from report.bundle_records import ClassFigures, Reliability, Selective

SHARES = tuple(n / 20 for n in range(20, 0, -1))  # 100 %, 95 %, ..., 5 % of the images


def growth(
    probs_MNK: Floats, labels_N: Labels, weights_of_first: Callable[[int], Sequence[float]]
) -> tuple[Figures, ...]:
    """Figures of the average of the first 1, 2, ..., M members, without a temperature."""
    return tuple(
        all_figures(mean_probabilities(probs_MNK[:m], weights_of_first(m)), labels_N)
        for m in range(1, len(probs_MNK) + 1)
    )


def reliability(probs_NK: Floats, labels_N: Labels, bins: int = 15) -> Reliability:
    """Confidence and accuracy of the top class by confidence, in the bins of `contracts.ece`."""
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

    Images as sure as the least sure one that is answered are answered too, so more than the share
    asked for may be, and two shares may be one and the same.
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


def class_figures(
    probs_NK: Floats, labels_N: Labels, classes: Sequence[str]
) -> tuple[ClassFigures, ...]:
    """Per class what is right and what it is taken for; the least accurate first.

    Classes without images come last; of equals, those with more images come first.
    """
    top_N = probs_NK.argmax(axis=1)
    found = []
    for index, name in enumerate(classes):
        answers_K = np.bincount(top_N[labels_N == index], minlength=len(classes))
        right, images = int(answers_K[index]), int(answers_K.sum())
        answers_K[index] = 0
        mistaken = int(answers_K.max())
        found.append(
            ClassFigures(
                name=name,
                images=images,
                right=right,
                mistaken_for=classes[int(answers_K.argmax())] if mistaken else None,
                mistaken=mistaken,
            )
        )
    return tuple(
        sorted(found, key=lambda c: (c.images == 0, c.right / max(c.images, 1), -c.images))
    )

"""Which classes are answered how well, and which are taken for which.

Shapes: N images, K classes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from snapensemble.contracts.metrics import Floats, Labels
from snapensemble.report.bundle.records import AnswerFigures, ClassFigures, Confused
from snapensemble.report.figures import Indices, share_interval

MATRIX_CLASSES = 200  # a matrix of more would be the largest part of the numbers
SHOWN_CLASSES = 30  # of a matrix on the page
MOST_PAIRS = 100
SHADES = 9
FEW_IMAGES = 10  # if all of so many are right, the share may still be 69 %


class Share(NamedTuple):
    """A share, with what it may be at 95 % confidence."""

    value: float
    low: float
    high: float


class ClassRow(NamedTuple):
    """A class in the table of classes; None where nothing was to be measured."""

    found: ClassFigures
    few: bool  # too few images to say how often it is right
    recall: Share | None
    precision: Share | None
    f1: float | None


class Cell(NamedTuple):
    """Images of a row's class with a column's answer."""

    images: int
    shade: int  # 0 for none, up to SHADES for all images of the row
    right: bool


class ConfusionRow(NamedTuple):
    """A right class, and how often each answer was given."""

    name: str
    cells: list[Cell]
    elsewhere: int  # answers without a column


class Shown(NamedTuple):
    """As much of the confusion matrix as a page can show."""

    names: list[str]
    rows: list[ConfusionRow]
    whole: bool  # whether every class is there


def class_by_class(probs_NK: Floats, labels_N: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """The fields of AnswerFigures that are about classes."""
    K, top_N = len(classes), probs_NK.argmax(axis=1)
    counts = np.bincount(labels_N * K + top_N, minlength=K * K) if K <= MATRIX_CLASSES else None
    return {
        "classes": class_figures(top_N, labels_N, classes),
        "confusion": () if counts is None else tuple(map(tuple, counts.reshape(K, K).tolist())),
        "confused": confused_pairs(top_N, labels_N, classes)[:MOST_PAIRS],
    }


def class_figures(
    top_N: Indices, labels_N: Labels, classes: Sequence[str]
) -> tuple[ClassFigures, ...]:
    """How the images of each class are answered, the least accurate class first.

    What counts is the upper end of the interval of the accuracy, so that a class of a single image
    that is wrong does not come before one that is wrong again and again. Classes without images
    come last; of equals, those with more images come first.

    Args:
        top_N: the answers.
        labels_N: the right classes.
        classes: their names.
    """
    answered_K = np.bincount(top_N, minlength=len(classes))
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
                answered=int(answered_K[index]),
                mistaken_for=classes[int(answers_K.argmax())] if mistaken else None,
                mistaken=mistaken,
            )
        )

    def order(one: ClassFigures) -> tuple[bool, float, int]:
        return not one.images, share_interval(one.right, one.images)[1], -one.images

    return tuple(sorted(found, key=order))


def confused_pairs(
    top_N: Indices, labels_N: Labels, classes: Sequence[str]
) -> tuple[Confused, ...]:
    """Each class and each wrong answer that its images got, the most frequent first."""
    wrong_N = top_N != labels_N
    images = Counter(zip(labels_N[wrong_N].tolist(), top_N[wrong_N].tolist(), strict=True))
    ranked = sorted(images.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        Confused(
            right=classes[right],
            answer=classes[answer],
            images=count,
            other_way=images[answer, right],
        )
        for (right, answer), count in ranked
    )


def class_rows(answers: AnswerFigures) -> list[ClassRow]:
    """The classes with precision, recall and F1."""
    return [_class_row(found) for found in answers.classes]


def _class_row(found: ClassFigures) -> ClassRow:
    answered = found.answered or 0
    both = found.images + answered
    return ClassRow(
        found,
        few=found.images < FEW_IMAGES,
        recall=_share(found.right, found.images),
        precision=_share(found.right, answered),
        f1=2 * found.right / both if found.images else None,
    )


def _share(count: int, images: int) -> Share | None:
    return Share(count / images, *share_interval(count, images)) if images else None


def shown_matrix(answers: AnswerFigures, classes: Sequence[str]) -> Shown | None:
    """The confusion matrix, of many classes the part with those that are confused most.

    Returns:
        None if there is no matrix, or no class of many is confused with another.
    """
    matrix_KK = np.array(answers.confusion, dtype=np.int64)
    if not len(matrix_KK):
        return None
    chosen = list(range(len(classes)))
    if len(classes) > SHOWN_CLASSES:
        place = {name: index for index, name in enumerate(classes)}
        pairs = ((place[pair.right], place[pair.answer]) for pair in answers.confused)
        chosen = list(dict.fromkeys(index for pair in pairs for index in pair))[:SHOWN_CLASSES]
    if not chosen:
        return None
    rows = []
    for right in chosen:
        images = int(matrix_KK[right].sum())
        counts = [int(matrix_KK[right, answer]) for answer in chosen]
        cells = [
            Cell(count, -(-SHADES * count // max(images, 1)), answer == right)
            for answer, count in zip(chosen, counts, strict=True)
        ]
        rows.append(ConfusionRow(classes[right], cells, images - sum(counts)))
    return Shown([classes[index] for index in chosen], rows, len(chosen) == len(classes))

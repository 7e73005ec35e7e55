"""Single images: the worst mistakes and the least sure right answers, with thumbnails.

Shapes: M members, N images, K classes, C channels, H height, W width.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.metrics import Answers, Floats
from snapensemble.report.bundle.records import Judged
from snapensemble.report.figures import Indices

Picture = Callable[[int], NDArray[np.uint8]]  # an image [C, H, W] by its place

MOST = 24  # of each kind
SIDE = 96  # pixels of a thumbnail
CRISP_SIDE = 48  # up to here every pixel counts
MEMBERS_BY_NAME = 6  # of more members it is counted how many voted for what


class Card(NamedTuple):
    """An image as the page shows it."""

    judged: Judged
    thumbnail: str | None  # a data URI
    votes: list[str]


def image_by_image(probs_NK: Floats, shown: Answers, classes: Sequence[str]) -> dict[str, Any]:
    """The fields of AnswerFigures that are about single images."""
    top_N, confidence_N = probs_NK.argmax(axis=1), probs_NK.max(axis=1)
    right_N = top_N == shown.labels_N
    wrong, right = np.flatnonzero(~right_N), np.flatnonzero(right_N)

    def judged(chosen: Indices) -> tuple[Judged, ...]:
        return tuple(
            Judged(
                image=place,
                right=classes[int(shown.labels_N[place])],
                answer=classes[int(top_N[place])],
                probability=min(float(confidence_N[place]), 1.0),
                probability_of_right=min(float(probs_NK[place, shown.labels_N[place]]), 1.0),
                votes=tuple(shown.probs_MNK[:, place].argmax(axis=1).tolist()),
                vote_probabilities=tuple(
                    np.minimum(shown.probs_MNK[:, place].max(axis=1), 1.0).tolist()
                ),
            )
            for place in map(int, chosen)
        )

    return {
        "mistakes": judged(wrong[np.argsort(-confidence_N[wrong], kind="stable")][:MOST]),
        "least_sure": judged(right[np.argsort(confidence_N[right], kind="stable")][:MOST]),
    }


def cards(found: Sequence[Judged], bundle: BundleManifest, picture: Picture | None) -> list[Card]:
    """Images with their thumbnails, if pictures may be shown, and the votes in words."""
    return [
        Card(one, None if picture is None else thumbnail(picture(one.image)), votes(one, bundle))
        for one in found
    ]


def votes(judged: Judged, bundle: BundleManifest) -> list[str]:
    """What each member answered; of many members, how many gave which answer."""
    names = [bundle.classes[index] for index in judged.votes]
    if len(names) == 1:
        return []
    if len(names) <= MEMBERS_BY_NAME:
        return [
            f"{member.name}: {name}, {probability:.0%}"
            for member, name, probability in zip(
                bundle.members, names, judged.vote_probabilities, strict=True
            )
        ]
    return [f"{count} of {len(names)}: {name}" for name, count in Counter(names).most_common()]


def thumbnail(image_CHW: NDArray[np.uint8]) -> str:
    """A data URI of what the networks saw, at most 96 pixels a side and some kilobytes."""
    image = Image.fromarray(image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0))
    kind = "png" if max(image.size) <= CRISP_SIDE else "jpeg"
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, kind, **({"quality": 85} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"

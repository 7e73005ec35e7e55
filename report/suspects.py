"""suspects.csv and suspects.html: the pictures of a data set to look at again, and why.

Shapes: C channels, H height, W width.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snapensemble.contracts.files import write_atomically
from snapensemble.report.html import claim_directory, render

SUSPECTS_PAGE, SUSPECTS_TABLE = "suspects.html", "suspects.csv"
COLUMNS = (
    "rank", "picture", "split", "label", "suggested", "score", "reason",
    "other", "other_split", "other_label",
)  # fmt: skip
MOST_SHOWN = 200  # of a kind, on the page; the table has all
SIDE, QUALITY = 112, 80  # of a thumbnail: pixels; JPEG's number

KINDS = ("two labels", "label", "two parts", "twice")  # in the order of the page and the table
Reason = Literal["label", "exact-duplicate", "near-duplicate"]


@dataclass(frozen=True)
class Picture:
    """A picture of the data set."""

    name: str
    split: str
    label: str
    image_CHW: NDArray[np.uint8]

    @cached_property
    def thumbnail(self) -> bytes:
        """A small JPEG of what the network sees."""
        pixels = (
            self.image_CHW[0] if len(self.image_CHW) == 1 else self.image_CHW.transpose(1, 2, 0)
        )
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        width, height = picture.size
        factor = SIDE / max(width, height)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        # Pixels of a tiny image are to be seen as they are.
        resample = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
        stream = io.BytesIO()
        picture.resize(size, resample).save(stream, "JPEG", quality=QUALITY)
        return stream.getvalue()


@dataclass(frozen=True, slots=True)
class Suspect:
    """A picture to look at again: for its label, or for another picture that is nearly the same."""

    reason: Reason
    picture: Picture
    score: float  # in [0, 1], the higher, the more suspicious
    suggested: str = ""  # another label
    other: Picture | None = None

    @property
    def kind(self) -> str:
        """The section of the page, one of `KINDS`."""
        if self.other is None:
            return "label"
        if self.other.label != self.picture.label:
            return "two labels"
        return "two parts" if self.other.split != self.picture.split else "twice"


def write_suspects(
    directory: Path, suspects: Sequence[Suspect], *, data: str, judged: int, thumbnails: bool
) -> None:
    """Write or replace the table and the page, each whole or not at all.

    Args:
        directory: is made if it is not there.
        suspects: in the order of the table.
        data: the data set's SPEC, for the reader.
        judged: how many labels were looked at.
        thumbnails: whether the page shows the pictures.

    Raises:
        InvalidConfig: the directory holds a page of this name that is no report.
        WriteFailed: the disk is full, or the directory cannot be written.
    """
    claim_directory(directory, SUSPECTS_PAGE)
    write_atomically(directory / SUSPECTS_TABLE, table(suspects).encode())
    text = page(suspects, data=data, judged=judged, thumbnails=thumbnails)
    write_atomically(directory / SUSPECTS_PAGE, text.encode())


def table(suspects: Sequence[Suspect]) -> str:
    """The suspects as CSV: a header, then a line for each."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, each in enumerate(suspects, 1):
        picture, other = each.picture, each.other
        found = (picture.name, picture.split, picture.label, each.suggested, f"{each.score:.4f}")
        with_whom = ("", "", "") if other is None else (other.name, other.split, other.label)
        writer.writerow([rank, *found, each.reason, *with_whom])
    return stream.getvalue()


def page(suspects: Sequence[Suspect], *, data: str, judged: int, thumbnails: bool) -> str:
    """The whole page, with the pictures inside it."""
    by_kind: dict[str, list[Suspect]] = {}
    for suspect in suspects:
        by_kind.setdefault(suspect.kind, []).append(suspect)
    return render(
        "suspects.html.j2",
        title=f"Pictures of {data} to look at again",
        summary=summary(suspects, judged),
        by_kind=by_kind,
        most=MOST_SHOWN,
        thumbnails=thumbnails,
    )


def summary(suspects: Sequence[Suspect], judged: int) -> list[str]:
    """What was found, in two sentences."""
    kinds = [each.kind for each in suspects]
    labels, pairs = kinds.count("label"), len(kinds) - kinds.count("label")
    return [
        f"{judged:,} labels were looked at; {labels:,} of them may be wrong, the most doubtful "
        "first.",
        f"{pairs:,} pictures are there twice, or nearly so: {kinds.count('two labels'):,} under "
        f"another label, {kinds.count('two parts'):,} in another part of the data set, and "
        f"{kinds.count('twice'):,} in the same class and part.",
    ]

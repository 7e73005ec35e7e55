"""`--fit auto`: how pictures should come into a square frame, from their own shapes.

docs/decisions/0040-how-a-picture-fits.md has the measurements.
"""

from collections.abc import Iterator
from statistics import median
from typing import Literal, NamedTuple

from snapensemble.contracts.errors import InvalidImage
from snapensemble.contracts.pictures.cost import picture_cost
from snapensemble.contracts.pictures.fit import Fit
from snapensemble.contracts.pixels import SERVER_LIMITS
from snapensemble.trainer.data.sources.source import Source

FitChoice = Literal["auto", "cover", "pad", "stretch"]
SAMPLE = 500  # pictures that are looked at
LONG = 2.0  # sides to one another, from which on covering a square shows less than half
SHARE_LONG = 0.25  # of the pictures, from which on they are not covered
ALIKE = 1.1  # so many times the middle ratio at most, and at least its inverse
SHARE_ALIKE = 0.9


class ChosenFit(NamedTuple):
    """What was chosen, and why, in a line."""

    fit: Fit
    why: str


def choose_fit(source: Source, max_image_cost: float) -> ChosenFit:
    """Choose how pictures of these shapes come into a square frame.

    Pictures that a square covers well, as photographs of 4:3 and 3:2 are, are covered. If many
    would lose more than half of themselves, all are stretched where they all have one shape, so
    that each is changed alike, and padded else.

    Args:
        source: the pictures that teach; of many an even sample is looked at.
        max_image_cost: what decoding one may cost, in times what a server accepts.
    """
    ratios = sorted(_ratios(source, max_image_cost))
    if not ratios:
        return ChosenFit("cover", "fit: cover, no picture says how large it is")
    long = sum(max(ratio, 1 / ratio) > LONG for ratio in ratios) / len(ratios)
    middle = median(ratios)
    alike = sum(1 / ALIKE <= ratio / middle <= ALIKE for ratio in ratios) / len(ratios)
    shapes = (
        f"{long:.0%} of {len(ratios):,} pictures have a side more than {LONG:.0f} times the other; "
        f"the middle one is {_as_words(middle)}"
    )
    if long < SHARE_LONG:
        return ChosenFit("cover", f"fit: cover, which cuts their ends off: {shapes}")
    if alike >= SHARE_ALIKE:
        return ChosenFit(
            "stretch", f"fit: stretch, which keeps their ends: {shapes}, as are nearly all"
        )
    return ChosenFit("pad", f"fit: pad, which keeps their ends: {shapes}")


def _ratios(source: Source, max_image_cost: float) -> Iterator[float]:
    """Width by height of each picture of a sample as it is stored, of those that say so."""
    limits = SERVER_LIMITS.times(max_image_cost)
    for index in range(0, len(source), max(1, -(-len(source) // SAMPLE))):
        try:
            cost = picture_cost(source.read(index), limits, width=1, height=1)
        except (InvalidImage, OSError):
            continue
        yield cost.width / cost.height


def _as_words(ratio: float) -> str:
    return f"{ratio:.2g}:1" if ratio >= 1 else f"1:{1 / ratio:.2g}"

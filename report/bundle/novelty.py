"""How well pictures of other things are told from a bundle's own, in figures and in words.

What a distance is, and what a threshold promises, says contracts.novelty.

Shapes: N images.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from snapensemble.contracts.metrics import Floats, auroc
from snapensemble.contracts.novelty import NoveltyRecord
from snapensemble.report.bundle.records import NoveltyFigures, NoveltyShares
from snapensemble.report.figures import auroc_interval


class Scored(NamedTuple):
    """Some pictures, and what a bundle says of each."""

    data: str  # where they are from: a directory, or a data set
    distance_N: Floats
    confidence_N: Floats  # the largest probability


class NovelShares(NamedTuple):
    """Which share of some pictures is called novel, by rising share of promised false alarms."""

    pictures: str
    shares: tuple[float, ...]


def novelty_figures(
    own: Scored, others: Scored, record: NoveltyRecord, split: Literal["train", "val", "test"]
) -> NoveltyFigures:
    """Measure how well distance and confidence tell the others from a bundle's own pictures.

    Args:
        own: at least one picture of what the bundle knows.
        others: at least one picture of other things.
        record: the bundle's thresholds.
        split: which part of its data set the own pictures are.
    """
    sizes = len(own.distance_N), len(others.distance_N)
    by_distance = auroc(own.distance_N, others.distance_N)
    by_confidence = auroc(-own.confidence_N, -others.confidence_N)
    return NoveltyFigures(
        data=others.data,
        images=sizes[1],
        own_data=own.data,
        own_split=split,
        own_images=sizes[0],
        auroc=by_distance,
        auroc_interval=auroc_interval(by_distance, *sizes),
        auroc_of_confidence=by_confidence,
        auroc_of_confidence_interval=auroc_interval(by_confidence, *sizes),
        shares=tuple(
            NoveltyShares(
                false_alarms=threshold.false_alarms,
                own=float((own.distance_N > threshold.distance).mean()),
                others=float((others.distance_N > threshold.distance).mean()),
            )
            for threshold in record.thresholds
        ),
    )


def with_measured(
    before: Sequence[NoveltyFigures], found: NoveltyFigures
) -> tuple[NoveltyFigures, ...]:
    """All measurements; a new one of the same pictures takes the place of the earlier one."""
    return (*(each for each in before if each.data != found.data), found)


def novel_shares(measured: Sequence[NoveltyFigures]) -> list[NovelShares]:
    """A row for each set of pictures, the own ones before the others; equal rows are one."""
    own = [
        NovelShares(
            f"its own: {own_pictures(each)}",
            tuple(share.own for share in each.shares),
        )
        for each in measured
    ]
    others = [
        NovelShares(each.data, tuple(share.others for share in each.shares)) for each in measured
    ]
    return list(dict.fromkeys([*own, *others]))


def own_pictures(found: NoveltyFigures) -> str:
    """Which of the bundle's own pictures the others were told from, as a phrase."""
    return f"{found.own_images:,} of {found.own_data}, {found.own_split}"


def area(value: float, interval: tuple[float, float]) -> str:
    """An AUROC with its interval, as a phrase."""
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def novelty_lines(found: NoveltyFigures) -> list[str]:
    """What the commands print of a measurement."""
    return [
        f"{found.images:,} pictures of {found.data}: AUROC "
        f"{area(found.auroc, found.auroc_interval)} by distance, "
        f"{area(found.auroc_of_confidence, found.auroc_of_confidence_interval)} by the largest "
        f"probability, against its own, {own_pictures(found)}",
        *(
            f"novel at {share.false_alarms:.0%} false alarms: {share.own:.1%} of its own, "
            f"{share.others:.1%} of the others"
            for share in found.shares
        ),
    ]

"""Ways to serve a bundle: what each costs, and how good its answers and sets are.

Shapes: M members, N images, K classes.
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from snapensemble.contracts.bundle import BundleManifest, Precision, Price
from snapensemble.contracts.cascade import run_cascade
from snapensemble.contracts.metrics import Floats, Labels, all_figures, mean_probabilities
from snapensemble.contracts.prediction_sets import SetQuantile, covered_and_sizes
from snapensemble.report.bundle.records import ClassFigures, Option, SetFigures, SpeedRecord


class ClassCoverage(NamedTuple):
    """How often sets hold the right class where it is this one."""

    name: str
    images: int
    shares: tuple[float, ...]  # of the images, by kind of set


def precision_of(bundle: BundleManifest) -> Precision:
    """The precision of the members and their trunk: int8 if any of them is."""
    return "int8" if any(part.precision == "int8" for part in bundle.parts) else "fp32"


def full_answers(bundle: BundleManifest, probs_MNK: Floats) -> Floats:
    """probs_NK of the calibrated average of every member."""
    return mean_probabilities(probs_MNK, bundle.weights_M, bundle.temperature)


def serving_options(
    bundle: BundleManifest, probs_MNK: Floats, labels_N: Labels, precision: Precision
) -> tuple[Option, ...]:
    """Measure the average of every member, and then each point of the cascade, cheapest first.

    Args:
        bundle: carries weights, temperatures and thresholds.
        probs_MNK: the members' answers in that precision.
        labels_N: the right classes.
        precision: that of `probs_MNK`; the active point is marked only if it is the bundle's own.
    """
    full = Option(
        precision=precision,
        cascade=False,
        members_per_image=len(probs_MNK),
        figures=all_figures(full_answers(bundle, probs_MNK), labels_N),
    )
    if bundle.cascade is None or len(probs_MNK) == 1:  # after one member there is none to save
        return (full,)
    active = bundle.cascade.point() if precision == precision_of(bundle) else None
    points = []
    for point in bundle.cascade.points:
        cascade = bundle.cascade.at(point, bundle.weights_M)
        probs_NK, used_N = run_cascade(probs_MNK, cascade, bundle.temperature)
        points.append(
            Option(
                precision=precision,
                cascade=True,
                active=point is active,
                members_per_image=float(used_N.mean()),
                figures=all_figures(probs_NK, labels_N),
            )
        )
    return (full, *points)


def cost(option: Option, speed: SpeedRecord | None, price: Price | None = None) -> float:
    """Time per image in units of one fp32 network.

    Args:
        option: says how many members an image meets.
        speed: says what int8 saves; nothing, if it was not timed.
        price: says what members on a shared trunk take; otherwise each takes as much as a network.
    """
    ratio = speed.int8_time if speed is not None and option.precision == "int8" else None
    members = option.members_per_image
    networks = members if price is None else price.of_members(members)
    return networks * (1.0 if ratio is None else ratio)


def all_set_figures(
    bundle: BundleManifest, probs_MNK: Floats, labels_N: Labels, *, fitted_here: bool
) -> tuple[SetFigures, ...]:
    """Measure each method and coverage, for every member and for the active cascade.

    Args:
        bundle: carries the quantiles.
        probs_MNK: the members' answers.
        labels_N: the right classes.
        fitted_here: whether the quantiles come from these very images.
    """
    if bundle.calibration is None:
        return ()
    fitted_on = None if fitted_here else bundle.calibration.images
    probs_NK = full_answers(bundle, probs_MNK)
    found = [
        set_figures(probs_NK, labels_N, quantile, cascade=False, fitted_on=fitted_on)
        for quantile in bundle.calibration.sets
    ]
    cascade = bundle.cascade_at()
    if bundle.cascade is not None and cascade is not None and len(probs_MNK) > 1:
        probs_NK, _ = run_cascade(probs_MNK, cascade, bundle.temperature)
        found += [
            set_figures(probs_NK, labels_N, quantile, cascade=True, fitted_on=fitted_on)
            for quantile in bundle.cascade.point().sets
        ]
    return tuple(found)


def set_figures(
    probs_NK: Floats,
    labels_N: Labels,
    quantile: SetQuantile,
    *,
    cascade: bool,
    fitted_on: int | None,
) -> SetFigures:
    """Measure one kind of set.

    Args:
        probs_NK: calibrated answers.
        labels_N: the right classes.
        quantile: decides which classes are in a set.
        cascade: whether a cascade gave the answers.
        fitted_on: how many other images gave the quantile; None if it comes from these images.
    """
    covered_N, size_N = covered_and_sizes(probs_NK, labels_N, quantile)
    return SetFigures(
        cascade=cascade,
        method=quantile.method,
        promised=quantile.coverage,
        coverage=float(covered_N.mean()),
        chance=None if fitted_on is None else chance(quantile.coverage, len(labels_N), fitted_on),
        mean_size=float(size_N.mean()),
        sizes=tuple(
            (size, count) for size, count in enumerate(np.bincount(size_N).tolist()) if count
        ),
        covered=tuple(
            np.bincount(labels_N[covered_N], minlength=probs_NK.shape[1]).tolist(),
        ),
    )


def class_coverage(
    sets: Sequence[SetFigures], found: Sequence[ClassFigures], classes: Sequence[str]
) -> list[ClassCoverage]:
    """How often sets hold the right class, by class; the least covered one first.

    Args:
        sets: kinds of sets, as measured.
        found: how many images each class has, in any order.
        classes: the names in the manifest's order.
    """
    images = {one.name: one.images for one in found}
    rows = [
        ClassCoverage(name, images[name], tuple(one.covered[k] / images[name] for one in sets))
        for k, name in enumerate(classes)
        if images[name]
    ]
    return sorted(rows, key=lambda row: (row.shares, -row.images))


def chance(coverage: float, images: int, fitted_on: int) -> float:
    """How far a measured coverage strays by chance alone: two standard deviations.

    Both the images measured and those that gave the quantile are a sample; with n of the latter
    the true coverage follows a beta distribution of about n + 1 trials (Vovk 2012).
    """
    return min(2 * sqrt(coverage * (1 - coverage) * (1 / images + 1 / (fitted_on + 2))), 1.0)

"""Choosing the thresholds at which images leave a cascade, by their cost and their loss. Pure.

One half of validation chooses a path of thresholds from safe to cheap. The other half tests them in
this order, until one fails: Pareto testing (Laufer-Goldshtein et al. 2023), with the fixed sequence
of Learn then Test (Angelopoulos et al. 2021). However many are tried, one that is beyond the limits
is taken with a probability of at most 1 - CONFIDENCE.

Shapes: M members, N images, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.cascade import (
    Cascade,
    CascadePoint,
    CascadeRecord,
    first_weights,
    margin,
    run_cascade,
)
from snapensemble.contracts.metrics import (
    Answers,
    Floats,
    mean_probabilities,
    nlls,
    reweighted,
    val_figures,
)
from snapensemble.contracts.prediction_sets import SetKind, fit_quantiles
from snapensemble.export.confidence import (
    CONFIDENCE,
    bound_errors,
    nll_rise_bound,
    nll_scale,
    upper_bound,
)
from snapensemble.export.config import MIN_IMAGES
from snapensemble.export.temperature import fit_temperature

# Margins between the two likeliest classes, after the temperature of the depth.
THRESHOLDS = (
    0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97,
    0.98, 0.985, 0.99, 0.993, 0.995, 0.997, 0.998, 0.999, 0.9995, 0.9999,
)  # fmt: skip

STEP = 1 / 40  # of the members, that one point costs less than the one before at least

Choice = tuple[float | None, ...]  # thresholds after 1, 2, ..., M - 1 members


@dataclass(frozen=True, slots=True)
class Exits:
    """What leaving after 1, 2, ..., M members gives each image; the last row is everybody's."""

    margin_MN: Floats
    nll_MN: Floats  # nats
    drop_MN: Floats  # in accuracy, as the full ensemble expects it of images like these

    @classmethod
    def of(
        cls,
        answers: Answers,
        weights_M: Sequence[float],
        temperatures_M: Sequence[float],
        log_shares_K: Floats | None = None,
    ) -> "Exits":
        """Measure every image at every depth; the shares are as `fit_cascade` has them."""
        margins, losses, tops = [], [], []
        for depth, temperature in enumerate(temperatures_M, 1):
            probs_NK = mean_probabilities(
                answers.probs_MNK[:depth], first_weights(weights_M, depth), temperature
            )
            margins.append(margin(probs_NK))
            losses.append(nlls(probs_NK, answers.labels_N))
            tops.append(probs_NK.argmax(axis=1))
        # After the last turn these are the full ensemble's probabilities.
        expected_NK = reweighted(probs_NK, log_shares_K)
        kept_MN = np.take_along_axis(expected_NK, np.array(tops).T, axis=1).T
        return cls(np.array(margins), np.array(losses), kept_MN[-1] - kept_MN)

    @property
    def rise_MN(self) -> Floats:  # noqa: N802 # a shape suffix
        """How much higher the NLL is than that of all members, nats."""
        return np.asarray(self.nll_MN - self.nll_MN[-1])

    def left_at(self, choice: Choice) -> NDArray[np.intp]:
        """row_N, that of the depth at which each image leaves."""
        row_N = np.full(self.margin_MN.shape[1], len(choice))
        for row in reversed(range(len(choice))):
            threshold = choice[row]
            if threshold is not None:
                row_N[self.margin_MN[row] >= threshold] = row
        return row_N


# Gives the choices to test, beginning with the one that lets nobody leave.
Path = Callable[[Exits, Floats], list[Choice]]


def path_per_depth(exits: Exits, loss_MN: Floats) -> list[Choice]:
    """Thresholds of their own for each depth, from safe to cheap.

    One threshold at a time goes where it saves most, until none moves, if a loss as large as the
    limits counts as much as one member. All of them together then move through THRESHOLDS.

    Args:
        exits: of the images that choose.
        loss_MN: what each image loses at each depth, in units of the limits.
    """
    M, N = loss_MN.shape
    cost_MN = np.arange(1, M + 1)[:, None] + loss_MN
    reached_TMN = np.array([exits.margin_MN[:-1] >= threshold for threshold in THRESHOLDS])
    places = [len(THRESHOLDS)] * (M - 1)
    for _ in range(10):  # turns; three do nearly always
        before = tuple(places)
        for row in range(M - 1):
            places[row] = len(THRESHOLDS)
            left_N = exits.left_at(choice_at(places))
            saved_N = np.where(left_N > row, cost_MN[left_N, np.arange(N)] - cost_MN[row], 0.0)
            saved_T = reached_TMN[:, row] @ saved_N
            if saved_T.max() > 0:
                places[row] = int(saved_T.argmax())
        if tuple(places) == before:
            break
    return path_through(places)


def path_through(places: Sequence[int]) -> list[Choice]:
    """Thresholds that move together, from those that let nobody leave to the smallest ones.

    Args:
        places: where in THRESHOLDS they are at one time; beyond the end, nobody leaves there.
    """
    T = len(THRESHOLDS)
    steps = (choice_at([place + step for place in places]) for step in range(T, -T - 1, -1))
    return list(dict.fromkeys([(None,) * len(places), *steps]))


def choice_at(places: Sequence[int]) -> Choice:
    """The thresholds at some places; before the beginning, the smallest one."""
    return tuple(THRESHOLDS[max(p, 0)] if p < len(THRESHOLDS) else None for p in places)


def fit_cascade(
    selection: Answers,
    calibration: Answers,
    weights_M: Sequence[float],
    temperature: float,
    *,
    max_accuracy_drop: float,
    max_nll_rise: float,
    asked: bool = False,
    sets: SetKind = "marginal",
    log_shares_K: Floats | None = None,
    path: Path = path_per_depth,
) -> CascadeRecord | None:
    """The thresholds and temperatures that need the fewest members within the limits.

    The drop in accuracy is what the full ensemble expects of it: the mean, over images, of its
    probability of its own answer less that of the cascade's. Counting right answers instead could
    bound a drop by 0.2 points with 1,500 images at the least.

    Args:
        selection: answers to the images that choose what is tested.
        calibration: answers to other images, which test it and give the record's figures.
        weights_M: one per member, see `Cascade`.
        temperature: the temperature of the average of all members.
        max_accuracy_drop: fraction.
        max_nll_rise: relative to the full ensemble.
        asked: whether an estimate will do where no bound keeps the limits.
        sets: the kind of each point's prediction sets.
        log_shares_K: with which temperatures are fitted, see `fit_on_validation`, and the drop is
            expected.
        path: gives the thresholds to test.

    Returns:
        None if there is one member, if there are too few images, or if no image may leave early
        within the limits.
    """
    M, enough = len(weights_M), len(calibration) >= MIN_IMAGES
    if M == 1 or not (enough or asked):
        return None
    temperatures = tuple(
        fit_temperature(
            mean_probabilities(selection.probs_MNK[:d], first_weights(weights_M, d)),
            selection.labels_N,
            log_shares_K,
        )
        for d in range(1, M)
    )
    choosing, testing = (
        Exits.of(half, weights_M, (*temperatures, temperature), log_shares_K)
        for half in (selection, calibration)
    )
    # In units of the limits, so that both count the same.
    loss_MN = choosing.drop_MN / max(max_accuracy_drop, 1e-4) + choosing.rise_MN / (
        max(max_nll_rise, 1e-3) * nll_scale(choosing.nll_MN[-1]).mean()
    )
    points: list[CascadePoint] = []
    for choice in _apart(path(choosing, loss_MN), choosing):
        cascade = Cascade(
            rule="threshold", thresholds=choice, temperatures=temperatures, weights_M=weights_M
        )
        probs_NK, used_N = run_cascade(calibration.probs_MNK, cascade, temperature)
        drop_N, rise_N = _losses(choice, testing)
        drop_bound, rise_bound = _bounds(choice, choosing, testing)
        if points:
            drop_bound = max(drop_bound, points[-1].accuracy_drop_bound or 0.0)
            rise_bound = max(rise_bound, points[-1].nll_rise_bound or 0.0)
        points.append(
            CascadePoint(
                thresholds=choice,
                accuracy_drop=float(np.clip(drop_N.mean(), 0, 1)),
                nll_rise=float(rise_N.mean() / nll_scale(testing.nll_MN[-1]).mean()),
                accuracy_drop_bound=drop_bound,
                nll_rise_bound=rise_bound,
                members_per_image=float(used_N.mean()),
                val=val_figures(probs_NK, calibration.labels_N),
                sets=fit_quantiles(probs_NK, calibration.labels_N, sets),
                abstention=bound_errors(probs_NK, calibration.labels_N),
            )
        )
    record = CascadeRecord(
        rule="threshold",
        temperatures=temperatures,
        max_accuracy_drop=max_accuracy_drop,
        max_nll_rise=max_nll_rise,
        promise="bound",
        confidence=CONFIDENCE,
        images=len(calibration),
        points=tuple(reversed(points)),
    )
    if enough and record.point().members_per_image < M:
        return record
    estimate = record.model_copy(update={"promise": "estimate"})
    return estimate if asked and estimate.point().members_per_image < M else None


def _apart(choices: Sequence[Choice], exits: Exits) -> list[Choice]:
    """The first choice and those after it that each save another STEP of all members."""
    M = len(exits.margin_MN)
    kept, cost = [choices[0]], float(M)
    for choice in choices[1:]:
        members = float(exits.left_at(choice).mean()) + 1
        if members <= cost - STEP * M:
            kept.append(choice)
            cost = members
    return kept


def _losses(choice: Choice, exits: Exits) -> tuple[Floats, Floats]:
    """drop_N and rise_N of a cascade."""
    row_N = exits.left_at(choice)
    images_N = np.arange(len(row_N))
    return exits.drop_MN[row_N, images_N], exits.rise_MN[row_N, images_N]


def _bounds(choice: Choice, choosing: Exits, testing: Exits) -> tuple[float, float]:
    """The upper bounds on a cascade's drop in accuracy and relative rise of the NLL.

    The NLL of another image may rise as that of the worst one of both halves. Few images are
    answered otherwise or none, so another one may lose as much as any does at any depth.
    """
    drop_N, rise_N = _losses(choice, testing)
    if not (drop_N.any() or rise_N.any()):
        return 0.0, 0.0
    worst_drop = max(float(exits.drop_MN.max()) for exits in (choosing, testing))
    worst_rise = float(_losses(choice, choosing)[1].max())
    return (
        float(np.clip(upper_bound(drop_N, worst_drop), 0, 1)),
        nll_rise_bound(rise_N, testing.nll_MN[-1], worst_rise),
    )

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from snapensemble.contracts.cascade import CascadeRecord, run_cascade
from snapensemble.contracts.metrics import (
    Answers,
    accuracy,
    mean_probabilities,
    nll,
    nll_rise,
    softmax,
    val_figures,
)
from snapensemble.export.cascade import (
    THRESHOLDS,
    Choice,
    Exits,
    fit_cascade,
    path_per_depth,
    path_through,
)
from snapensemble.export.config import MIN_IMAGES
from snapensemble.export.temperature import fit_temperature

WEIGHTS = (0.25,) * 4


def answers(seed: int, images: int = 3000, spread: float = 0.7) -> Answers:
    """Answers of four members that share most of their mistakes."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 5, images)
    shared_NK = 3 * np.eye(5)[labels_N] + 1.5 * rng.normal(size=(images, 5))
    return Answers(
        softmax(np.stack([shared_NK + spread * rng.normal(size=(images, 5)) for _ in WEIGHTS])),
        labels_N,
    )


SELECTION, CALIBRATION = answers(0), answers(1)
TEMPERATURE = fit_temperature(mean_probabilities(SELECTION.probs_MNK), SELECTION.labels_N)


def fitted(
    selection: Answers = SELECTION, calibration: Answers = CALIBRATION, **changes: Any
) -> CascadeRecord | None:
    changes = {"max_accuracy_drop": 0.005, "max_nll_rise": 0.05, **changes}
    return fit_cascade(selection, calibration, WEIGHTS, TEMPERATURE, **changes)


@cache
def fresh() -> Answers:
    """So many images that what holds for them is the truth."""
    return answers(2, images=40_000)


def truth(record: CascadeRecord) -> tuple[float, float, float]:
    """The members per image, the drop in accuracy and the rise of the NLL of what is in use."""
    cascade = record.at(record.point(), WEIGHTS)
    probs_NK, used_N = run_cascade(fresh().probs_MNK, cascade, TEMPERATURE)
    full_NK = mean_probabilities(fresh().probs_MNK, WEIGHTS, TEMPERATURE)
    labels_N = fresh().labels_N
    return (
        float(used_N.mean()),
        accuracy(full_NK, labels_N) - accuracy(probs_NK, labels_N),
        nll_rise(nll(probs_NK, labels_N), nll(full_NK, labels_N)),
    )


def test_a_cascade_saves_members_and_keeps_its_limits_on_other_images() -> None:
    record = fitted()
    assert record is not None and record.promise == "bound"
    assert (record.confidence, record.images) == (0.95, len(CALIBRATION))
    members, drop, rise = truth(record)
    assert members < 3
    assert members == pytest.approx(record.point().members_per_image, abs=0.1)
    assert drop <= 0.005 and rise <= 0.05


def test_a_bound_is_above_its_figure_and_grows_as_members_are_saved() -> None:
    record = fitted()
    assert record is not None
    bounds = []
    for point in record.points:
        drop, rise = record.kept_by(point)
        assert drop >= point.accuracy_drop and rise >= point.nll_rise
        bounds.append((drop, rise))
    assert all(a >= c and b >= d for (a, b), (c, d) in pairwise(bounds))
    assert bounds[-1] == (0, 0) and record.points[-1].members_per_image == 4


def test_a_larger_tolerance_asks_no_more_members() -> None:
    record = fitted()
    assert record is not None
    record = record.model_copy(update={"max_nll_rise": 10.0})
    costs = [record.point(tolerance).members_per_image for tolerance in (0.0, 0.005, 0.02, 0.1)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] == 4


def test_the_record_says_what_the_images_say_that_chose_no_thresholds() -> None:
    record = fitted()
    assert record is not None
    point = record.point()
    cascade = record.at(point, WEIGHTS)
    probs_NK, used_N = run_cascade(CALIBRATION.probs_MNK, cascade, TEMPERATURE)
    full_NK = mean_probabilities(CALIBRATION.probs_MNK, WEIGHTS, TEMPERATURE)
    labels_N = CALIBRATION.labels_N
    assert point.val == val_figures(probs_NK, labels_N)
    assert point.members_per_image == pytest.approx(used_N.mean())
    assert point.nll_rise == pytest.approx(nll_rise(point.val.nll, nll(full_NK, labels_N)))
    lost_N = full_NK.max(axis=1) - full_NK[np.arange(len(full_NK)), probs_NK.argmax(axis=1)]
    assert point.accuracy_drop == pytest.approx(lost_N.mean())
    assert {q.coverage for q in point.sets} == {0.9, 0.95}


def test_the_images_that_test_choose_no_thresholds() -> None:
    record, other = fitted(), fitted(calibration=answers(9))
    assert record is not None and other is not None
    assert other.temperatures == record.temperatures
    assert [p.thresholds for p in other.points] == [p.thresholds for p in record.points]


def test_each_depth_has_a_threshold_of_its_own_and_that_saves_members() -> None:
    def one_threshold(exits: Exits, _: np.ndarray) -> list[Choice]:
        return path_through([0] * (len(exits.nll_MN) - 1))

    record, shared = fitted(), fitted(path=one_threshold)
    assert record is not None and shared is not None
    assert len(set(record.point().thresholds)) > 1 and len(set(shared.point().thresholds)) == 1
    assert record.point().members_per_image < shared.point().members_per_image


def test_a_path_goes_from_nobody_to_everybody_in_nested_steps() -> None:
    exits = Exits.of(SELECTION, WEIGHTS, (1.0,) * 4)
    path = path_per_depth(exits, exits.rise_MN / 0.02)
    assert path[0] == (None, None, None) and path[-1] == (THRESHOLDS[0],) * 3
    rows = [exits.left_at(choice) for choice in path]
    assert all((after <= before).all() for before, after in pairwise(rows))


def accepted(choice: Choice, images: int, max_nll_rise: float, draws: int) -> int:
    """How often a choice is taken that is tested alone, by the images that choose and as many."""
    taken = 0
    for seed in range(draws):
        halves = (answers(100 + 2 * seed + half, images) for half in (0, 1))
        record = fitted(
            *halves,
            max_accuracy_drop=1.0,
            max_nll_rise=max_nll_rise,
            path=lambda *_: [(None,) * 3, choice],
        )
        taken += record is not None
    return taken


@pytest.mark.parametrize("images", [500, 2000])
def test_a_rise_beyond_the_limit_is_taken_in_one_of_twenty_draws_and_a_small_one_often(
    images: int,
) -> None:
    choice = (0.6, 0.5, 0.4)
    record = fitted(max_accuracy_drop=1.0, max_nll_rise=9.0, path=lambda *_: [(None,) * 3, choice])
    assert record is not None
    rise = truth(record)[2]
    assert rise > 0.02  # there is something to find
    assert accepted(choice, images, 0.98 * rise, draws=100) <= 11  # 5 % and more than 2 deviations
    assert accepted(choice, images, 4 * rise, draws=20) >= 17


def test_a_search_breaks_its_promise_no_more_often_than_one_test() -> None:
    broken = given = 0
    for seed in range(40):
        record = fitted(answers(300 + 2 * seed, 600), answers(301 + 2 * seed, 600))
        if record is not None:
            _, drop, rise = truth(record)
            given += 1
            broken += drop > 0.005 or rise > 0.05
    assert given >= 20
    assert broken <= 5  # 5 % of 40, and two deviations


def test_with_few_images_there_is_no_cascade_unless_asked_and_then_an_estimate() -> None:
    few = [answers(seed, MIN_IMAGES - 1) for seed in (5, 6)]
    assert fitted(*few) is None
    record = fitted(*few, asked=True)
    assert record is not None and record.promise == "estimate"
    point = record.point()
    assert record.kept_by(point) == (point.accuracy_drop, point.nll_rise)
    assert point.members_per_image < 4


def test_where_no_bound_keeps_the_limits_an_estimate_needs_asking() -> None:
    strict: dict[str, Any] = {"max_accuracy_drop": 0.0005, "max_nll_rise": 0.001}
    assert fitted(**strict) is None
    record = fitted(**strict, asked=True)
    assert record is not None and record.promise == "estimate"


def test_one_member_has_no_cascade() -> None:
    alone = replace(SELECTION, probs_MNK=SELECTION.probs_MNK[:1])
    limits: dict[str, Any] = {"max_accuracy_drop": 0.1, "max_nll_rise": 0.1}
    assert fit_cascade(alone, alone, (1.0,), 1.0, **limits, asked=True) is None


def test_where_no_image_is_ever_sure_there_is_no_cascade() -> None:
    rng = np.random.default_rng(0)
    unsure = Answers(softmax(1e-4 * rng.normal(size=(2, 600, 5))), rng.integers(0, 5, 600))
    limits: dict[str, Any] = {"max_accuracy_drop": 1.0, "max_nll_rise": 9.0}
    assert fit_cascade(unsure, unsure, (0.5, 0.5), 1.0, **limits, asked=True) is None


def test_answers_for_equal_classes_lose_what_images_with_shares_of_their_own_say() -> None:
    shares_K = np.array([0.6, 0.3, 0.07, 0.03])

    def drawn(seed: int, images: int) -> Answers:
        rng = np.random.default_rng(seed)
        labels_N = rng.choice(4, images, p=shares_K)
        common_NK = 2.2 * np.eye(4)[labels_N] + 1.2 * rng.normal(size=(images, 4))
        return Answers(softmax(common_NK + rng.normal(size=(3, images, 4))), labels_N)

    selection, calibration = drawn(0, 2_000), drawn(1, 40_000)
    weights, log_shares_K, choice = (1 / 3,) * 3, np.log(shares_K), (0.02, 0.02)
    temperature = fit_temperature(
        mean_probabilities(selection.probs_MNK), selection.labels_N, log_shares_K
    )
    record = fit_cascade(
        selection, calibration, weights, temperature,
        max_accuracy_drop=1.0, max_nll_rise=9.0, log_shares_K=log_shares_K,
        path=lambda *_: [(None, None), choice],
    )  # fmt: skip
    assert record is not None
    probs_NK, _ = run_cascade(
        calibration.probs_MNK, record.at(record.point(), weights), temperature
    )
    full_NK = mean_probabilities(calibration.probs_MNK, weights, temperature)
    labels_N = calibration.labels_N
    counted = accuracy(full_NK, labels_N) - accuracy(probs_NK, labels_N)
    assert record.point().thresholds == choice
    assert record.point().accuracy_drop == pytest.approx(counted, rel=0.15)

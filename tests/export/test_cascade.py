from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from snapensemble.contracts.cascade import CascadeRecord, run_cascade
from snapensemble.contracts.metrics import (
    Answers,
    accuracy,
    mean_probabilities,
    nll,
    softmax,
    val_figures,
)
from snapensemble.export.cascade import fit_cascade
from snapensemble.export.temperature import fit_temperature

WEIGHTS = (0.25,) * 4


def answers(seed: int, images: int = 1500, spread: float = 0.7) -> Answers:
    """Answers of four members that share most of their mistakes."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 5, images)
    shared_NK = 4 * np.eye(5)[labels_N] + 1.5 * rng.normal(size=(images, 5))
    return Answers(
        softmax(np.stack([shared_NK + spread * rng.normal(size=(images, 5)) for _ in WEIGHTS])),
        labels_N,
    )


SELECTION, CALIBRATION = answers(0), answers(1)
TEMPERATURE = fit_temperature(mean_probabilities(SELECTION.probs_MNK), SELECTION.labels_N)


def fitted(**limits: Any) -> CascadeRecord | None:
    limits = {"max_accuracy_drop": 0.001, "max_nll_rise": 0.01, **limits}
    return fit_cascade(SELECTION, CALIBRATION, WEIGHTS, TEMPERATURE, **limits)


def test_a_cascade_saves_members_and_keeps_its_limits_on_other_images() -> None:
    record = fitted()
    assert record is not None
    fresh, point = answers(2, images=6000), record.point()
    cascade = record.at(point, WEIGHTS)
    probs_NK, used_N = run_cascade(fresh.probs_MNK, cascade, TEMPERATURE)
    full_NK = mean_probabilities(fresh.probs_MNK, WEIGHTS, TEMPERATURE)
    assert used_N.mean() < 2.5
    assert used_N.mean() == pytest.approx(point.members_per_image, abs=0.1)
    assert nll(probs_NK, fresh.labels_N) < 1.02 * nll(full_NK, fresh.labels_N)
    assert accuracy(probs_NK, fresh.labels_N) > accuracy(full_NK, fresh.labels_N) - 0.003


def test_points_cost_more_and_lose_less_one_after_the_other() -> None:
    record = fitted()
    assert record is not None
    for index, point in enumerate(record.points):
        for cheaper in record.points[:index]:
            assert point.accuracy_drop < cheaper.accuracy_drop or point.nll_rise < cheaper.nll_rise


def test_a_larger_tolerance_asks_no_more_members() -> None:
    costs = []
    for tolerance in (0.0, 0.001, 0.01, 0.1):
        record = fitted(max_accuracy_drop=tolerance, max_nll_rise=10.0)
        assert record is not None
        costs.append(record.point().members_per_image)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_the_record_says_what_the_images_say_that_chose_nothing() -> None:
    record = fitted()
    assert record is not None
    point = record.point()
    cascade = record.at(point, WEIGHTS)
    probs_NK, used_N = run_cascade(CALIBRATION.probs_MNK, cascade, TEMPERATURE)
    assert point.val == val_figures(probs_NK, CALIBRATION.labels_N)
    assert point.members_per_image == pytest.approx(used_N.mean())
    assert {q.coverage for q in point.sets} == {0.9, 0.95}


def test_the_calibration_images_choose_nothing() -> None:
    other = fit_cascade(
        SELECTION, answers(9), WEIGHTS, TEMPERATURE, max_accuracy_drop=0.001, max_nll_rise=0.01
    )
    record = fitted()
    assert record is not None and other is not None
    assert (other.rule, other.temperatures) == (record.rule, record.temperatures)
    assert [p.thresholds for p in other.points] == [p.thresholds for p in record.points]


def test_one_member_has_no_cascade() -> None:
    alone = replace(SELECTION, probs_MNK=SELECTION.probs_MNK[:1])
    found = fit_cascade(alone, alone, (1.0,), 1.0, max_accuracy_drop=0.1, max_nll_rise=0.1)
    assert found is None


def test_where_no_image_is_ever_sure_there_is_no_cascade() -> None:
    rng = np.random.default_rng(0)
    unsure = Answers(softmax(0.01 * rng.normal(size=(2, 400, 5))), rng.integers(0, 5, 400))
    found = fit_cascade(unsure, unsure, (0.5, 0.5), 1.0, max_accuracy_drop=1.0, max_nll_rise=9.0)
    assert found is None

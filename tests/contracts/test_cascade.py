import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.cascade import (
    Cascade,
    CascadePoint,
    CascadeRecord,
    LeaveRule,
    first_weights,
    margin,
    run_cascade,
)
from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.metrics import Floats, mean_probabilities, softmax

WEIGHTS = (0.5, 0.3, 0.2)


def members(seed: int, images: int = 20, classes: int = 4) -> Floats:
    rng = np.random.default_rng(seed)
    return softmax(rng.normal(size=(3, images, classes)) * 2 + rng.normal(size=(images, classes)))


def cascade(*thresholds: float | None, rule: LeaveRule = "threshold") -> Cascade:
    return Cascade(
        rule=rule,
        thresholds=thresholds,
        temperatures=(0.8, 0.9),
        weights_M=WEIGHTS,
    )


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_an_image_leaves_at_the_first_depth_whose_margin_is_safe(
    seed: int, first: float, second: float
) -> None:
    probs_MBK = members(seed)
    answers_BK, used_B = run_cascade(probs_MBK, cascade(first, second), temperature=1.3)
    for image in range(20):
        depth = 3
        for d, threshold in ((1, first), (2, second)):
            lead = np.sort(
                mean_probabilities(
                    probs_MBK[:d, [image]], first_weights(WEIGHTS, d), (0.8, 0.9)[d - 1]
                )[0]
            )
            if lead[-1] - lead[-2] >= threshold:
                depth = d
                break
        expected_K = mean_probabilities(
            probs_MBK[:depth, [image]], first_weights(WEIGHTS, depth), (0.8, 0.9, 1.3)[depth - 1]
        )[0]
        assert used_B[image] == depth
        assert answers_BK[image] == pytest.approx(expected_K)


def test_where_nobody_may_leave_everybody_gets_the_full_answer() -> None:
    probs_MBK = members(0)
    answers_BK, used_B = run_cascade(probs_MBK, cascade(None, None), temperature=1.3)
    assert (used_B == 3).all()
    assert answers_BK == pytest.approx(mean_probabilities(probs_MBK, WEIGHTS, 1.3))


def test_one_member_is_a_cascade_in_which_everybody_is_asked_once() -> None:
    probs_MBK = members(0)[:1]
    alone = Cascade(rule="threshold", thresholds=(), temperatures=(), weights_M=(1.0,))
    answers_BK, used_B = run_cascade(probs_MBK, alone, temperature=1.0)
    assert (used_B == 1).all()
    assert answers_BK == pytest.approx(probs_MBK[0])


def test_the_interval_rule_lets_images_leave_whose_members_agree() -> None:
    agree = [[0.8, 0.2], [0.79, 0.21]]
    differ = [[0.95, 0.05], [0.45, 0.55]]
    probs_MBK = np.array([agree, differ]).swapaxes(0, 1)
    rule = Cascade(
        rule="interval", thresholds=(None, 2.0), temperatures=(1, 1), weights_M=(1 / 3,) * 3
    )
    assert rule.leaves(probs_MBK).tolist() == [True, False]
    # The leads are 0.6 and 0.58, 0.9 and -0.1: means 0.59 and 0.4, deviations 0.014 and 0.707.
    close = Cascade(
        rule="interval", thresholds=(None, 0.56), temperatures=(1, 1), weights_M=(1 / 3,) * 3
    )
    assert close.leaves(probs_MBK).tolist() == [True, True]


def test_a_margin_is_the_lead_of_the_first_class() -> None:
    assert margin(np.array([[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]])) == pytest.approx([0.5, 0.0])


def test_first_weights_sum_to_one() -> None:
    assert first_weights(WEIGHTS, 2) == pytest.approx([0.625, 0.375])


def point(cost: float, drop: float, rise: float = 0.0) -> CascadePoint:
    return CascadePoint(
        thresholds=(None, None),
        accuracy_drop=drop,
        nll_rise=rise,
        members_per_image=cost,
        val=ValFigures(nll=0.1, accuracy=0.9),
    )


@pytest.mark.parametrize(
    ("tolerance", "cost"), [(None, 1.5), (0.02, 1.2), (0.001, 1.5), (0.0, 2.0), (0.00001, 2.0)]
)
def test_a_tolerance_picks_the_cheapest_point_that_keeps_it(
    tolerance: float | None, cost: float
) -> None:
    record = CascadeRecord(
        rule="threshold",
        temperatures=(1.0, 1.0),
        max_accuracy_drop=0.001,
        max_nll_rise=0.01,
        points=(point(1.1, 0.0, rise=0.5), point(1.2, 0.01), point(1.5, 0.001), point(2.0, 0.0)),
    )
    assert record.point(tolerance).members_per_image == cost


def test_where_no_point_keeps_the_limits_the_dearest_is_taken() -> None:
    record = CascadeRecord(
        rule="threshold",
        temperatures=(1.0, 1.0),
        max_accuracy_drop=0.001,
        max_nll_rise=0.01,
        points=(point(1.2, 0.01), point(2.5, 0.001, rise=0.02)),
    )
    assert record.point().members_per_image == 2.5


def bounded(cost: float, drop_bound: float, rise_bound: float) -> CascadePoint:
    """A point whose own figures are far within any limit."""
    bounds = {"accuracy_drop_bound": drop_bound, "nll_rise_bound": rise_bound}
    return point(cost, 0.0).model_copy(update=bounds)


def bound_record(**changes: Any) -> CascadeRecord:
    fields: dict[str, Any] = {
        "rule": "threshold",
        "temperatures": (1.0, 1.0),
        "max_accuracy_drop": 0.001,
        "max_nll_rise": 0.01,
        "promise": "bound",
        "confidence": 0.95,
        "images": 500,
        "points": (bounded(1.1, 0.002, 0.001), bounded(1.5, 0.001, 0.001), bounded(3, 0, 0)),
    }
    return CascadeRecord(**{**fields, **changes})


def test_where_limits_are_promised_their_bounds_keep_them() -> None:
    record = bound_record()
    assert record.point().members_per_image == 1.5
    assert record.point(0.002).members_per_image == 1.1
    assert record.model_copy(update={"promise": "estimate"}).point().members_per_image == 1.1


@pytest.mark.parametrize(
    "without", [{"confidence": None}, {"points": (bounded(1.1, 0, 0), point(3, 0.0))}]
)
def test_a_promise_without_its_bounds_is_refused(without: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="two bounds per point"):
        bound_record(**without)


def test_a_cascade_of_an_earlier_version_is_an_estimate() -> None:
    new = {"promise", "confidence", "images"}
    new_of_points = {"__all__": {"accuracy_drop_bound", "nll_rise_bound"}}
    content = bound_record().model_dump(
        mode="json", exclude={**dict.fromkeys(new, True), "points": new_of_points}
    )
    record = CascadeRecord.model_validate_json(json.dumps(content))
    assert record.promise == "estimate" and record.point().members_per_image == 1.1

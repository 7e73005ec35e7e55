import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.abstention import AbstentionPoint, AbstentionRecord, answers
from tests.factories import abstention_record


def test_the_point_that_answers_the_most_images_within_the_risk_is_taken() -> None:
    record = abstention_record(0.6)
    everyone, surest = record.points
    assert record.at(0.25) == record.at(0.2) == everyone
    assert record.at(0.199) == record.at(0.1) == surest
    assert record.at(0.099) is None
    assert record.lowest_risk == 0.1


@pytest.mark.parametrize(
    ("threshold", "answered"), [(None, True), (0.0, True), (0.59, True), (0.6, False), (1.0, False)]
)
def test_an_image_is_answered_if_its_likeliest_class_is_beyond_the_threshold(
    threshold: float | None, answered: bool
) -> None:
    point = AbstentionPoint(threshold=threshold, answered=1, errors=0, error_bound=0.1)
    assert answers(point, [0.1, 0.6, 0.3]) is answered


@given(st.floats(0, 1))
def test_the_smallest_share_can_be_asked_for_as_it_is_told(error_bound: float) -> None:
    point = AbstentionPoint(threshold=None, answered=1, errors=0, error_bound=error_bound)
    record = AbstentionRecord(confidence=0.95, images=9, points=(point,))
    assert record.at(float(f"{record.lowest_risk:.4g}")) == point
    assert abs(record.lowest_risk - error_bound) <= 1.1e-4

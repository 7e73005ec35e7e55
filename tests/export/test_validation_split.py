import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.export.calibration import split_validation


@given(st.lists(st.integers(0, 5), min_size=2, max_size=200))
def test_every_image_is_in_one_half_and_classes_are_shared_evenly(labels: list[int]) -> None:
    labels_N = np.array(labels)
    split = split_validation(labels_N)
    together = sorted([*split.selection_N, *split.calibration_N])
    assert together == list(range(len(labels)))
    assert len(split.selection_N) - len(split.calibration_N) in (0, 1)
    for label in set(labels):
        shares = [
            (labels_N[part] == label).sum() for part in (split.selection_N, split.calibration_N)
        ]
        assert abs(int(shares[0]) - int(shares[1])) <= 1


def test_the_halves_are_always_the_same_and_do_not_follow_the_order_of_the_images() -> None:
    labels_N = np.repeat([0, 1], 500)
    first, again = split_validation(labels_N), split_validation(labels_N)
    assert np.array_equal(first.selection_N, again.selection_N)
    # Every second image would be a half too, but of a folder that holds bursts it would be no
    # independent one.
    assert not np.array_equal(first.selection_N, np.arange(0, 1000, 2))


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(InvalidConfig, match="at least 2 are needed"):
        split_validation(np.array([0]))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.novelty import FALSE_ALARMS, directions, distances, fit_thresholds


def test_a_class_is_the_mean_of_the_directions_of_its_images() -> None:
    features_NC = np.array([[1.0, 0, 0], [0, 50.0, 0], [0, 0, 2.0]])
    directions_KC = directions(features_NC, np.array([0, 0, 2]), 4)
    half = 0.5**0.5
    expected = [[half, half, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(directions_KC, expected)
    found_N = distances(
        np.array([[3.0, 3.0, 0], [0, 0, 0], [-1.0, -1.0, -1.0]]), directions_KC[:3:2]
    )
    np.testing.assert_allclose(found_N, [0, 1, 1 + 3**-0.5])


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_a_distance_does_not_depend_on_how_bright_the_features_are(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    features_NC, directions_KC = rng.normal(size=(5, 8)), rng.normal(size=(3, 8))
    found_N = distances(features_NC, directions_KC)
    np.testing.assert_allclose(distances(scale * features_NC, directions_KC), found_N, atol=1e-9)


@pytest.mark.parametrize("images", [30, 99, 400])
def test_pictures_like_the_known_ones_are_called_novel_as_seldom_as_promised(images: int) -> None:
    rng = np.random.default_rng(0)
    alarms: dict[float, list[float]] = {}
    for _ in range(1_000):
        for threshold in fit_thresholds(rng.exponential(size=images) / 10).thresholds:
            share = float(np.exp(-10 * threshold.distance))
            alarms.setdefault(threshold.false_alarms, []).append(share)
    assert list(alarms) == [share for share in FALSE_ALARMS if images + 1 >= 1 / share]
    for share, found in alarms.items():
        error = np.std(found) / len(found) ** 0.5
        assert share - 3 * error - 1 / (images + 1) < np.mean(found) < share + 3 * error


def test_the_threshold_keeps_the_share_that_is_asked_for_or_a_smaller_one() -> None:
    record = fit_thresholds(np.linspace(0, 1, 200))
    assert [each.false_alarms for each in record.thresholds] == list(FALSE_ALARMS)
    found = [record.at(share) for share in (0.009, 0.01, 0.03, 0.5)]
    assert found[0] is None
    assert [each.false_alarms for each in found[1:] if each] == [0.01, 0.02, 0.1]
    assert fit_thresholds(np.zeros(5)).thresholds == ()

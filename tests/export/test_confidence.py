import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from snapensemble.contracts.metrics import Floats, Labels
from snapensemble.export.confidence import (
    bound_errors,
    images_needed,
    nll_rise_bound,
    upper_bound,
)
from snapensemble.report.figures import highest_share, lowest_share


def test_nothing_seen_is_bounded_as_the_exact_binomial_bound_does() -> None:
    assert upper_bound(np.zeros(600), largest=1.0) == pytest.approx(1 - 0.05 ** (1 / 600), rel=0.01)


def test_many_like_losses_are_bounded_as_the_normal_distribution_does() -> None:
    losses_N = np.tile([1.0, -1.0], 20_000)
    bound = norm.ppf(0.95) * losses_N.std() / np.sqrt(len(losses_N))
    assert upper_bound(losses_N, largest=1.0) == pytest.approx(bound, rel=0.02)


@given(st.integers(0, 1000), st.floats(0, 5), st.floats(0.1, 10))
def test_a_bound_is_above_the_mean_and_grows_with_the_unit_and_the_largest_loss(
    seed: int, largest: float, unit: float
) -> None:
    losses_N = np.random.default_rng(seed).standard_t(3, size=50)
    bound = upper_bound(losses_N, largest)
    assert bound > losses_N.mean()
    assert upper_bound(losses_N, largest + 1) > bound - 1e-12
    assert upper_bound(unit * losses_N, unit * largest) == pytest.approx(unit * bound)


@pytest.mark.parametrize("images", [200, 1000])
@pytest.mark.parametrize("rare", [0.005, 0.05])
def test_a_heavy_tail_is_beyond_its_bound_in_one_of_twenty_samples_at_most(
    images: int, rare: float
) -> None:
    """Mostly small changes to both sides; a rare image loses a hundred times as much."""
    rng = np.random.default_rng(0)
    size = (1000, images)
    losses = 0.02 * rng.normal(size=size) + (rng.random(size) < rare) * rng.exponential(2.0, size)
    missed = np.mean([upper_bound(losses_N, largest=4.0) < 2 * rare for losses_N in losses])
    students = losses.mean(axis=1) + 1.645 * losses.std(axis=1) / np.sqrt(images)
    assert missed <= 0.065  # 5 % and two deviations of 1,000 draws
    # Student's bound, which this replaces, fails where the tail is rare.
    if rare * images < 10:
        assert np.mean(students < 2 * rare) > 0.1


def test_the_rise_of_an_nll_is_bounded_relative_to_what_it_was() -> None:
    rng = np.random.default_rng(0)
    before_N = rng.exponential(0.3, 4000)
    rise_N = 0.02 * before_N + 0.05 * rng.normal(size=4000)
    bound = nll_rise_bound(rise_N, before_N, largest=0.0)
    # 2 %, and 1.645 times 0.05 over the root of 4,000 relative to 0.3.
    assert bound == pytest.approx(0.02 + 1.645 * 0.05 / np.sqrt(4000) / 0.3, abs=0.004)
    assert nll_rise_bound(rise_N / 1000, before_N / 1000, largest=0.0) < bound / 10


def test_as_many_images_as_are_said_to_be_needed_are_needed() -> None:
    losses_N = np.repeat([1.0, -1.0, 0.0], [6, 5, 989])
    needed = images_needed(losses_N, 1.0, limit=0.005)
    assert needed is not None and needed > 1000
    assert upper_bound(losses_N, 1.0, needed / 1000) <= 0.005
    assert upper_bound(losses_N, 1.0, 0.98 * needed / 1000) > 0.005
    assert images_needed(np.zeros(90), 1.0, limit=0.005) == pytest.approx(598, abs=7)
    assert images_needed(np.ones(50), 1.0, limit=0.5) is None


def test_a_share_has_its_exact_lower_bound() -> None:
    assert lowest_share(90, 90) == pytest.approx(0.05 ** (1 / 90))
    assert lowest_share(0, 90) == 0


def test_the_bound_on_a_share_is_that_of_clopper_and_pearson() -> None:
    assert highest_share(0, 60) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert binom.cdf(7, 200, highest_share(7, 200)) == pytest.approx(0.05)
    assert highest_share(3, 3) == 1.0


def answers_of(rng: np.random.Generator, images: int) -> tuple[Floats, Labels]:
    """Two classes, and answers that are over-confident: right as often as the root says."""
    sure_N = rng.uniform(0.5, 1, images)
    right_N = rng.random(images) < 0.5 + 2 * (sure_N - 0.5) ** 2
    return np.stack([sure_N, 1 - sure_N], axis=1), (~right_N).astype(np.int64)


def true_error(threshold: float | None) -> float:
    """The share of wrong answers among those of `answers_of` beyond a threshold."""
    sure = np.linspace(max(threshold or 0.5, 0.5), 1, 10_001)
    return float(np.mean(0.5 - 2 * (sure - 0.5) ** 2))


@pytest.mark.parametrize("images", [40, 400])
def test_all_bounds_on_wrong_answers_hold_at_once_as_often_as_they_say(images: int) -> None:
    """Also of the threshold that is chosen afterwards, by the bounds themselves."""
    rng = np.random.default_rng(0)
    records = [bound_errors(*answers_of(rng, images)) for _ in range(1_000)]
    broken = [
        any(point.error_bound < true_error(point.threshold) for point in record.points)
        for record in records
    ]
    assert np.mean(broken) <= 0.065  # 5 % and two deviations of 1,000 draws
    assert len({len(record.points) for record in records}) == 1
    # Counting errors, which this replaces, would promise too much almost always.
    counted = [
        any(p.errors / (p.answered * images) < true_error(p.threshold) for p in record.points)
        for record in records
    ]
    assert np.mean(counted) > 0.5


@given(st.integers(1, 60), st.integers(0, 1000), st.integers(1, 4))
def test_the_points_say_what_is_found_above_their_thresholds(
    images: int, seed: int, steps: int
) -> None:
    """Also where many images tie."""
    rng = np.random.default_rng(seed)
    sure_N = rng.integers(0, steps + 1, images) / steps / 2 + 0.5
    probs_NK, labels_N = np.stack([sure_N, 1 - sure_N], axis=1), rng.integers(0, 2, images)
    record = bound_errors(probs_NK, labels_N)
    assert record.points[0].threshold is None and record.points[0].answered == 1
    for point in record.points:
        given_N = sure_N > (point.threshold or 0)
        assert point.answered == pytest.approx(given_N.mean()) and given_N.any()
        assert point.errors == labels_N[given_N].sum()
        assert point.errors / given_N.sum() <= point.error_bound <= 1
    assert record.images == images and record.confidence == 0.95

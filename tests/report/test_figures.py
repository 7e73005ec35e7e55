import numpy as np
import pytest

from snapensemble.contracts.metrics import auroc, mean_probabilities, softmax, val_figures
from snapensemble.report.figures import (
    auroc_interval,
    growing_ensemble,
    pairwise_disagreement,
    smoothing_window,
    snapshot_summaries,
    thinned,
    trailing_mean,
)

# Three snapshots' probabilities of two images of two classes; the right answers are 0 and 1.
PROBS_SNK = np.array(
    [
        [[0.8, 0.2], [0.4, 0.6]],
        [[0.6, 0.4], [0.8, 0.2]],
        [[0.2, 0.8], [0.2, 0.8]],
    ]
)
LOGITS_SNK = np.log(PROBS_SNK).astype(np.float32)
LABELS_N = np.array([0, 1])


def test_the_average_grows_one_snapshot_at_a_time_in_the_given_order() -> None:
    figures = growing_ensemble(LOGITS_SNK, LABELS_N, [0, 2, 1])
    # The right classes get 0.8, 0.6; then 0.5, 0.7; then 1.6 / 3, 1.6 / 3.
    expected = [-np.log([0.8, 0.6]).mean(), -np.log([0.5, 0.7]).mean(), -np.log(1.6 / 3)]
    assert [f.nll for f in figures] == pytest.approx(expected, abs=1e-6)
    assert figures[0].accuracy == figures[2].accuracy == 1.0


def test_the_growing_average_is_the_mean_of_probabilities_that_everyone_uses() -> None:
    logits_SNK = np.random.default_rng(0).normal(size=(5, 30, 4)).astype(np.float32)
    labels_N = np.random.default_rng(1).integers(0, 4, 30)
    order = [3, 1, 4, 0, 2]
    for m, figures in enumerate(growing_ensemble(logits_SNK, labels_N, order), start=1):
        expected = val_figures(mean_probabilities(softmax(logits_SNK[order[:m]])), labels_N)
        assert figures.nll == pytest.approx(expected.nll)
        assert figures.accuracy == expected.accuracy


def test_disagreement_is_the_share_of_images_with_another_top_class() -> None:
    # Top classes: 0 1, 0 0, 1 1.
    expected = [[0, 0.5, 0.5], [0.5, 0, 1], [0.5, 1, 0]]
    assert pairwise_disagreement(LOGITS_SNK).tolist() == expected
    assert pairwise_disagreement(LOGITS_SNK[:0]).shape == (0, 0)


def test_each_snapshot_has_four_figures() -> None:
    first, second, _ = snapshot_summaries(LOGITS_SNK, LABELS_N)
    assert first["accuracy"] == 1.0 and second["accuracy"] == 0.5
    assert first["brier"] == pytest.approx((2 * 0.2**2 + 2 * 0.4**2) / 2, abs=1e-6)


def test_a_trailing_mean_looks_back_only() -> None:
    values_T = np.array([4.0, 2.0, 0.0, 6.0])
    assert trailing_mean(values_T, 2).tolist() == [4, 3, 1, 3]
    assert trailing_mean(values_T, 1).tolist() == values_T.tolist()
    assert trailing_mean(values_T[:0], 3).tolist() == []


@pytest.mark.parametrize(
    ("steps", "per_epoch", "window"), [(2250, 25, 25), (100, 25, 10), (9, 3, 3), (10_000, 900, 200)]
)
def test_smoothing_takes_an_epoch_but_little_of_a_long_curve(
    steps: int, per_epoch: int, window: int
) -> None:
    assert smoothing_window(steps, per_epoch) == window


def test_thinning_keeps_every_peak_and_both_ends() -> None:
    values_T = np.random.default_rng(0).normal(size=100_000)
    values_T[[12_345, 67_890]] = [50, -50]
    kept = thinned(values_T, columns=100)
    assert len(kept) <= 400 and (np.diff(kept) > 0).all()
    assert {0, 12_345, 67_890, 99_999} <= set(kept.tolist())


def test_a_short_curve_is_drawn_whole() -> None:
    assert thinned(np.arange(8.0), columns=2).tolist() == list(range(8))


def test_the_limits_of_an_auroc_are_as_many_of_their_own_standard_errors_away() -> None:
    # Hanley & McNeil's variance at each limit, both groups counted as their mean (Newcombe 2006).
    own, others, value = 40, 60, 0.9
    for limit in auroc_interval(value, own, others):
        above, below = limit / (2 - limit), 2 * limit**2 / (1 + limit)
        pairs = (own + others) / 2 - 1
        varies = limit * (1 - limit) + pairs * (above - limit**2) + pairs * (below - limit**2)
        assert abs(limit - value) == pytest.approx(1.959964 * np.sqrt(varies / (own * others)))


def test_the_interval_of_an_auroc_stays_within_its_range_and_is_never_empty() -> None:
    low, high = auroc_interval(1.0, 30, 50)
    assert 0.9 < low < 0.97 and high == 1
    assert auroc_interval(0.0, 30, 50) == pytest.approx((0, 1 - low))
    assert np.diff(auroc_interval(0.8, 400, 400)) < np.diff(auroc_interval(0.8, 40, 40))
    low, high = auroc_interval(1.0, 1, 1)
    assert 0 < low < 0.3 and high == 1


def test_the_interval_of_an_auroc_holds_the_true_one_about_as_often_as_it_says() -> None:
    rng, true, held = np.random.default_rng(0), 0.9213503964748575, 0  # Phi(2 / sqrt 2)
    for _ in range(400):
        low, high = auroc_interval(auroc(rng.normal(size=40), rng.normal(2, size=60)), 40, 60)
        held += low <= true <= high
    assert 0.92 <= held / 400 <= 0.98

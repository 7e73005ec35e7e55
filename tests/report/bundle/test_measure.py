import numpy as np
import pytest

from snapensemble.contracts.cascade import first_weights
from snapensemble.contracts.metrics import ece
from snapensemble.report.bundle.measure import growth, reliability, selective
from tests.report.bundle.bundles import answers

# Four images of two classes. The top classes are 0 0 1 1, with these confidences:
# 0.95 right, 0.92 wrong, 0.55 right, 1 right.
PROBS_NK = np.array([[0.95, 0.05], [0.92, 0.08], [0.45, 0.55], [0.0, 1.0]])
LABELS_N = np.array([0, 1, 1, 1])


def test_reliability_puts_images_into_bins_of_equal_width() -> None:
    bins = reliability(PROBS_NK, LABELS_N, bins=10)
    assert bins.images == (0, 0, 0, 0, 0, 1, 0, 0, 0, 3)
    assert bins.confidence[5] == 0.55 and bins.accuracy[5] == 1.0
    assert bins.confidence[9] == pytest.approx((0.95 + 0.92 + 1.0) / 3)
    assert bins.accuracy[9] == pytest.approx(2 / 3)
    assert bins.confidence[0] is None and bins.accuracy[0] is None


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it() -> None:
    bins = reliability(np.array([[0.5, 0.5], [0.75, 0.25]]), np.array([0, 0]), bins=4)
    assert bins.images == (0, 1, 1, 0)


def test_the_gaps_of_the_bins_add_up_to_the_calibration_error() -> None:
    found = answers(300, seed=5)
    probs_NK = found.probs_MNK[0]
    bins = reliability(probs_NK, found.labels_N)
    gaps = [
        count * abs(accuracy - confidence)
        for count, confidence, accuracy in zip(
            bins.images, bins.confidence, bins.accuracy, strict=True
        )
        if confidence is not None and accuracy is not None
    ]
    assert sum(gaps) / 300 == pytest.approx(ece(probs_NK, found.labels_N))


def test_the_ensemble_grows_by_the_weights_of_its_first_members() -> None:
    probs_MNK = np.array([[[0.8, 0.2]], [[0.2, 0.8]], [[0.5, 0.5]]])
    grown = growth(probs_MNK, np.array([0]), lambda m: first_weights([0.6, 0.2, 0.2], m))
    # 0.8; then (3 * 0.8 + 0.2) / 4 = 0.65; then 0.6 * 0.8 + 0.2 * 0.2 + 0.2 * 0.5 = 0.62.
    assert [f.nll for f in grown] == pytest.approx([-np.log(p) for p in (0.8, 0.65, 0.62)])
    assert [f.accuracy for f in grown] == [1.0, 1.0, 1.0]


def test_answering_fewer_images_answers_the_surest() -> None:
    steps = selective(PROBS_NK, LABELS_N, shares=(1.0, 0.75, 0.5, 0.25))
    assert [s.confidence for s in steps] == [0.55, 0.92, 0.95, 1.0]
    assert [s.answered for s in steps] == [1.0, 0.75, 0.5, 0.25]
    assert [s.wrong for s in steps] == [1, 1, 0, 0]
    assert [s.accuracy for s in steps] == pytest.approx([3 / 4, 2 / 3, 1, 1])


def test_images_that_are_equally_sure_are_answered_together() -> None:
    probs_NK = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]])
    steps = selective(probs_NK, np.array([0, 0, 1, 0]), shares=(1.0, 0.5, 0.25))
    assert [s.answered for s in steps] == [1.0, 0.75]
    assert steps[1].accuracy == pytest.approx(2 / 3)

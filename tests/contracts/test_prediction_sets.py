import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.metrics import Floats, softmax
from snapensemble.contracts.prediction_sets import (
    COVERAGES,
    METHODS,
    Method,
    SetKind,
    class_scores,
    fit_quantile,
    fit_quantiles,
    prediction_sets,
)


def answers(seed: int, images: int, classes: int = 6) -> tuple[Floats, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels_B = rng.integers(0, classes, images)
    logits_BK = 2 * np.eye(classes)[labels_B] + rng.normal(size=(images, classes)) * 1.5
    return softmax(logits_BK), labels_B


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coverage", COVERAGES)
def test_sets_hold_the_right_class_as_often_as_promised(method: Method, coverage: float) -> None:
    covered = []
    for seed in range(200):
        probs_BK, labels_B = answers(seed, 300)
        quantile = fit_quantile(probs_BK[:100], labels_B[:100], method, coverage)
        sets_BK = prediction_sets(probs_BK[100:], quantile)
        covered.append(sets_BK[np.arange(200), labels_B[100:]].mean())
    # Averaged over draws it is at least the coverage and at most 1/101 more, but that the
    # likeliest class is always in.
    assert coverage - 0.005 < np.mean(covered) < coverage + 0.02


def test_scores_worked_out_by_hand() -> None:
    probs_BK = np.array([[0.2, 0.5, 0.3]])
    assert class_scores(probs_BK, "least_ambiguous") == pytest.approx(np.array([[0.8, 0.5, 0.7]]))
    assert class_scores(probs_BK, "adaptive") == pytest.approx(np.array([[0.8, 0.0, 0.5]]))


@pytest.mark.parametrize(
    ("images", "coverage", "rank"), [(9, 0.9, 9), (10, 0.9, 10), (19, 0.95, 19), (99, 0.9, 90)]
)
def test_the_quantile_is_the_score_of_the_promised_rank(
    images: int, coverage: float, rank: int
) -> None:
    probs_BK, labels_B = answers(0, images)
    scores_B = np.sort(1 - probs_BK[np.arange(images), labels_B])
    found = fit_quantile(probs_BK, labels_B, "least_ambiguous", coverage)
    assert found.quantile == pytest.approx(scores_B[rank - 1])


@pytest.mark.parametrize(("images", "coverage"), [(8, 0.9), (18, 0.95), (0, 0.9)])
def test_with_too_few_images_every_class_is_in_the_set(images: int, coverage: float) -> None:
    probs_BK, labels_B = answers(0, images)
    quantile = fit_quantile(probs_BK, labels_B, "least_ambiguous", coverage)
    assert quantile.quantile is None
    assert prediction_sets(answers(1, 3)[0], quantile).all()


@given(st.integers(0, 500), st.sampled_from(METHODS), st.sampled_from(COVERAGES))
def test_a_set_holds_the_likeliest_classes_and_never_none(
    seed: int, method: Method, coverage: float
) -> None:
    probs_BK, labels_B = answers(seed, 40)
    sets_BK = prediction_sets(probs_BK, fit_quantile(probs_BK, labels_B, method, coverage))
    assert sets_BK.any(axis=1).all()
    least_inside_B = np.where(sets_BK, probs_BK, np.inf).min(axis=1)
    most_outside_B = np.where(sets_BK, -np.inf, probs_BK).max(axis=1)
    assert (least_inside_B >= most_outside_B).all()
    assert sets_BK[np.arange(40), probs_BK.argmax(axis=1)].all()


@given(st.integers(0, 500), st.sampled_from(METHODS))
def test_every_image_that_fitted_the_quantile_scores_as_it_did(seed: int, method: Method) -> None:
    probs_BK, labels_B = answers(seed, 30)
    quantile = fit_quantile(probs_BK, labels_B, method, 0.9)
    alone = [prediction_sets(probs_BK[i], quantile)[labels_B[i]] for i in range(30)]
    assert sum(alone) >= 28  # the 28th smallest score is the quantile


def test_a_bundle_carries_both_methods_at_both_coverages() -> None:
    found = fit_quantiles(*answers(0, 50))
    assert [(q.method, q.coverage) for q in found] == [
        ("least_ambiguous", 0.9), ("least_ambiguous", 0.95), ("adaptive", 0.9), ("adaptive", 0.95),
    ]  # fmt: skip


def uneven(seed: int, images: int) -> tuple[Floats, np.ndarray]:
    """Answers to images of three classes, the last of which is rare and hardly recognised."""
    rng = np.random.default_rng(seed)
    labels_B = rng.choice(3, images, p=[0.45, 0.45, 0.1])
    strength_B = np.array([4.0, 3.0, 0.5])[labels_B]
    logits_BK = strength_B[:, None] * np.eye(3)[labels_B] + rng.normal(size=(images, 3))
    return softmax(logits_BK), labels_B


@pytest.mark.parametrize("method", METHODS)
def test_class_conditional_sets_hold_each_class_as_often_as_promised(method: Method) -> None:
    covered: dict[SetKind, np.ndarray] = {
        "marginal": np.zeros(3),
        "class-conditional": np.zeros(3),
    }
    for seed in range(100):
        probs_BK, labels_B = uneven(seed, 1500)
        for kind, sums_K in covered.items():
            quantile = fit_quantile(probs_BK[:500], labels_B[:500], method, 0.9, kind)
            in_set_BK = prediction_sets(probs_BK[500:], quantile)
            right_B = in_set_BK[np.arange(1000), labels_B[500:]]
            sums_K += [right_B[labels_B[500:] == label].mean() / 100 for label in range(3)]
    assert covered["marginal"].min() < 0.85
    # Of 50 images of the rare class, the quantile promises up to 1/51 more.
    assert (covered["class-conditional"] > 0.895).all()


def test_a_class_with_too_few_images_is_in_every_set() -> None:
    probs_BK, labels_B = answers(0, 100, classes=3)
    few_B = np.flatnonzero((labels_B != 2) | (np.cumsum(labels_B == 2) <= 8))
    quantile = fit_quantile(
        probs_BK[few_B], labels_B[few_B], "least_ambiguous", 0.9, "class-conditional"
    )
    assert quantile.per_class is not None
    assert [limit is None for limit in quantile.per_class] == [False, False, True]
    assert prediction_sets(probs_BK, quantile)[:, 2].all()
    assert not prediction_sets(probs_BK, quantile)[:, 0].all()


def test_with_one_class_to_fit_both_kinds_are_the_same() -> None:
    probs_BK, _ = answers(0, 60)
    labels_B = np.full(60, 4)
    marginal = fit_quantile(probs_BK, labels_B, "adaptive", 0.9)
    found = fit_quantile(probs_BK, labels_B, "adaptive", 0.9, "class-conditional")
    assert found.per_class == (None, None, None, None, marginal.quantile, None)

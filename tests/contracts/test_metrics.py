from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from snapensemble.contracts.metrics import (
    accuracy,
    auroc,
    brier,
    class_weights,
    disagreement,
    ece,
    entropy,
    errors,
    macro_accuracy,
    mean_probabilities,
    nll,
    softmax,
)

logits_strategy = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 6)),
    elements=st.floats(-80, 80, width=32),
)


@given(logits_strategy)
def test_softmax_equals_the_definition_in_float64(logits_MBK: np.ndarray) -> None:
    exact = np.exp(logits_MBK.astype(np.float64))
    exact /= exact.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(softmax(logits_MBK), exact, rtol=1e-9, atol=1e-300)


def test_softmax_of_huge_logits_is_finite() -> None:
    assert softmax(np.array([[3e38, -3e38]], dtype=np.float32)).tolist() == [[1.0, 0.0]]


@given(logits_strategy)
def test_the_mean_is_over_probabilities(logits_MBK: np.ndarray) -> None:
    exact = np.exp(logits_MBK.astype(np.float64))
    exact = (exact / exact.sum(axis=-1, keepdims=True)).mean(axis=0)
    found = mean_probabilities(softmax(logits_MBK))
    np.testing.assert_allclose(found, exact, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-12)


def test_the_mean_is_not_over_logits() -> None:
    logits_MBK = np.array([[[10.0, 0.0]], [[-1.0, 0.0]]])
    of_logits = softmax(logits_MBK.mean(axis=0))[0, 0]
    assert of_logits > 0.98
    assert mean_probabilities(softmax(logits_MBK))[0, 0] == pytest.approx(0.6344, abs=1e-4)


def test_weights_count() -> None:
    probs_MBK = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert mean_probabilities(probs_MBK, [0.75, 0.25]).tolist() == [[0.75, 0.25]]


@given(logits_strategy, st.floats(0.3, 5))
def test_a_temperature_keeps_the_order(logits_MBK: np.ndarray, temperature: float) -> None:
    probs_MBK = softmax(logits_MBK / 20)
    plain, tempered = (mean_probabilities(probs_MBK, None, t) for t in (1.0, temperature))
    np.testing.assert_allclose(tempered.sum(axis=-1), 1, atol=1e-12)
    assert (
        np.take_along_axis(tempered, plain.argmax(1)[:, None], 1)[:, 0] >= tempered.max(1) - 1e-12
    ).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 120), st.data())
def test_an_answer_is_the_same_to_the_bit_in_any_company(
    seed: int, M: int, K: int, data: st.DataObject
) -> None:
    """Images come together by chance, and the memory of those that are picked lies otherwise."""
    rng = np.random.default_rng(seed)
    probs_MBK = softmax(4 * rng.normal(size=(M, 9, K)))
    weights_M = rng.dirichlet(np.ones(M)).tolist()
    picked_B = np.array(data.draw(st.lists(st.booleans(), min_size=9, max_size=9)))
    some = probs_MBK[:, picked_B]
    figures: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda probs_MBK: mean_probabilities(probs_MBK, weights_M, 1.3),
        lambda probs_MBK: disagreement(probs_MBK, weights_M),
        lambda probs_MBK: entropy(probs_MBK).T,
    ]
    for figure in figures:
        expected = figure(probs_MBK)[picked_B]
        assert np.array_equal(figure(some), expected)
        assert np.array_equal(figure(np.ascontiguousarray(some)), expected)


def test_members_that_agree_do_not_disagree() -> None:
    probs_MBK = np.repeat(softmax(np.array([[[1.0, 2.0, 3.0]]])), 3, axis=0)
    assert disagreement(probs_MBK)[0] == pytest.approx(0, abs=1e-12)


def test_two_certain_members_that_contradict_disagree_by_log_2() -> None:
    probs_MBK = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert disagreement(probs_MBK)[0] == pytest.approx(np.log(2))
    assert entropy(mean_probabilities(probs_MBK))[0] == pytest.approx(np.log(2))


@given(logits_strategy)
def test_disagreement_lies_between_0_and_the_entropy(logits_MBK: np.ndarray) -> None:
    probs_MBK = softmax(logits_MBK)
    found = disagreement(probs_MBK)
    assert (found >= 0).all()
    assert (found <= entropy(mean_probabilities(probs_MBK)) + 1e-9).all()


def test_the_figures_of_a_worked_example() -> None:
    probs_BK = np.array([[0.7, 0.3], [0.4, 0.6]])
    labels_B = np.array([0, 0])
    assert accuracy(probs_BK, labels_B) == 0.5
    assert nll(probs_BK, labels_B) == pytest.approx(-(np.log(0.7) + np.log(0.4)) / 2)
    assert brier(probs_BK, labels_B) == pytest.approx((0.18 + 0.72) / 2)
    # Two bins hold one image each: gaps of 0.3 and 0.6, each with half of the images.
    assert ece(probs_BK, labels_B) == pytest.approx(0.45)


def test_every_class_that_has_images_counts_the_same_for_macro_accuracy() -> None:
    labels_B = np.array([0, 0, 0, 0, 3])
    top_B = np.array([0, 0, 0, 1, 1])
    assert macro_accuracy(np.eye(5)[top_B], labels_B) == (3 / 4 + 0 / 1) / 2
    assert macro_accuracy(np.eye(5)[labels_B], labels_B) == 1.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_macro_errors_are_weighed_so_that_their_mean_is_what_macro_accuracy_lacks(
    answered: list[tuple[int, int]],
) -> None:
    labels_B, top_B = np.array(answered).T
    probs_BK = np.eye(6)[top_B]
    macro_B, plain_B = (errors(probs_BK, labels_B, macro=macro) for macro in (True, False))
    recalls = [(top_B[labels_B == k] == k).mean() for k in set(labels_B.tolist())]
    assert 1 - macro_B.mean() == pytest.approx(np.mean(recalls))
    assert 1 - macro_B.mean() == pytest.approx(macro_accuracy(probs_BK, labels_B))
    assert 1 - plain_B.mean() == pytest.approx(accuracy(probs_BK, labels_B))
    assert class_weights(labels_B).mean() == pytest.approx(1)
    assert 0 <= macro_accuracy(probs_BK, labels_B) <= 1


def test_a_certain_mistake_costs_much_but_not_infinity() -> None:
    assert nll(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_calibrated_answers_have_no_calibration_error() -> None:
    probs_BK = np.tile([[0.75, 0.25]], (4, 1))
    assert ece(probs_BK, np.array([0, 0, 0, 1])) == pytest.approx(0)


scores_strategy = st.lists(st.integers(0, 5), min_size=1, max_size=20).map(np.array)


@given(scores_strategy, scores_strategy)
def test_the_auroc_is_how_often_one_of_the_others_scores_more_and_half_of_the_equals(
    own_N: NDArray[np.float64], others_N: NDArray[np.float64]
) -> None:
    pairs = [(other > own) + (other == own) / 2 for own in own_N for other in others_N]
    assert auroc(own_N, others_N) == pytest.approx(np.mean(pairs))
    assert auroc(-own_N, -others_N) == pytest.approx(1 - np.mean(pairs))

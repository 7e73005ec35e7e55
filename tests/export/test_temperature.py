import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import snapensemble.export.temperature
from snapensemble.contracts.metrics import Floats, ece, nll, softmax, tempered
from snapensemble.export.temperature import fit_temperature


def answers(truth: float, images: int, seed: int = 0) -> tuple[Floats, np.ndarray]:
    """Probabilities that are right as often as they say once they are tempered with `truth`."""
    rng = np.random.default_rng(seed)
    probs_BK = softmax(rng.normal(size=(images, 5)) * 3)
    calibrated_BK = tempered(probs_BK, truth)
    labels_B = (calibrated_BK.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)
    return probs_BK, labels_B


@pytest.mark.parametrize("truth", [0.5, 1.0, 1.7, 3.0])
def test_the_temperature_that_made_the_answers_is_found(truth: float) -> None:
    probs_BK, labels_B = answers(truth, 20_000)
    assert fit_temperature(probs_BK, labels_B) == pytest.approx(truth, rel=0.05)


def test_overconfident_answers_become_calibrated_on_images_that_did_not_fit() -> None:
    temperature = fit_temperature(*answers(2.5, 5_000, seed=1))
    probs_BK, labels_B = answers(2.5, 5_000, seed=2)
    after_BK = tempered(probs_BK, temperature)
    assert ece(after_BK, labels_B) < 0.02 < 0.1 < ece(probs_BK, labels_B)
    assert nll(after_BK, labels_B) < nll(probs_BK, labels_B)


@given(st.integers(0, 1000), st.floats(0.3, 4))
def test_no_temperature_nearby_has_a_lower_nll(seed: int, truth: float) -> None:
    probs_BK, labels_B = answers(truth, 3_000, seed)
    found = fit_temperature(probs_BK, labels_B)
    lowest = nll(tempered(probs_BK, found), labels_B)
    # Ten percent away: nearer ones differ by less than what the prior is worth.
    for other in (0.9 * found, 1.1 * found):
        assert lowest < nll(tempered(probs_BK, other), labels_B)


@given(st.integers(0, 1000))
def test_the_likeliest_class_stays_the_likeliest(seed: int) -> None:
    probs_BK, labels_B = answers(2.0, 100, seed)
    after_BK = tempered(probs_BK, fit_temperature(probs_BK, labels_B))
    assert np.array_equal(after_BK.argmax(axis=1), probs_BK.argmax(axis=1))


def test_a_few_right_answers_are_no_evidence_for_certainty() -> None:
    probs_BK = np.full((20, 10), 0.01)
    probs_BK[:, 0] = 0.91
    assert 0.7 < fit_temperature(probs_BK, np.zeros(20, dtype=int)) < 1


def test_two_thousand_images_hardly_notice_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    probs_BK, labels_B = answers(1.8, 2_000)
    with_prior = fit_temperature(probs_BK, labels_B)
    monkeypatch.setattr(snapensemble.export.temperature, "PRIOR_DEVIATION", 1e9)
    assert with_prior == pytest.approx(fit_temperature(probs_BK, labels_B), rel=0.01)


def test_probabilities_of_zero_are_survived() -> None:
    probs_BK = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(probs_BK, np.array([0, 1, 1])) > 1

import numpy as np
import pytest

from snapensemble.contracts.metrics import disagreement, mean_probabilities, softmax
from snapensemble.export.calibration import fit_reference

WEIGHTS = (0.5, 0.3, 0.2)


def test_the_reference_is_of_answers_as_they_will_be_served() -> None:
    probs_MNK = softmax(np.random.default_rng(0).normal(size=(3, 400, 4)))
    record = fit_reference(probs_MNK, WEIGHTS, temperature=0.5)
    assert record.images == 400
    confidence_N = mean_probabilities(probs_MNK, WEIGHTS, 0.5).max(axis=1)
    assert record.confidence.edges[4] == pytest.approx(np.median(confidence_N), abs=1e-6)
    disagreement_N = disagreement(probs_MNK, WEIGHTS)
    assert record.disagreement.edges[4] == pytest.approx(np.median(disagreement_N), abs=1e-6)
    assert record.confidence.shares == pytest.approx((0.1,) * 10)
    assert record.disagreement.shares == pytest.approx((0.1,) * 10)


def test_one_member_never_disagrees() -> None:
    probs_MNK = softmax(np.random.default_rng(0).normal(size=(1, 50, 4)))
    assert fit_reference(probs_MNK, (1.0,), 1.0).disagreement.shares == (0.0, 1.0)

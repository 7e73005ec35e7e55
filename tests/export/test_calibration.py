import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import Answers, disagreement, mean_probabilities, softmax
from snapensemble.export.bundle import why_no_cascade
from snapensemble.export.calibration import (
    MAX_SET_CLASSES,
    fit_on_validation,
    fit_reference,
    split_validation,
)
from snapensemble.export.config import ExportConfig

WEIGHTS = (0.5, 0.3, 0.2)


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


def noise(images: int, classes: int = 4) -> Answers:
    """Answers of three members that are right more often than not."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, classes, images)
    logits_MNK = 4 * np.eye(classes)[labels_N] + rng.normal(size=(3, images, classes))
    return Answers(softmax(logits_MNK), labels_N)


def test_sets_of_both_kinds_reach_the_bundle_and_every_point_of_its_cascade() -> None:
    answers = noise(1000)
    split = split_validation(answers.labels_N)
    for kind in ("marginal", "class-conditional"):
        config = ExportConfig(sets=kind, cascade=True)
        fitted = fit_on_validation(answers, split, WEIGHTS, config)
        assert fitted.cascade is not None
        for sets in (fitted.calibration.sets, *(p.sets for p in fitted.cascade.points)):
            assert len(sets) == 4
            assert all((q.per_class is None) == (kind == "marginal") for q in sets)


def test_more_classes_than_a_manifest_holds_have_no_class_conditional_sets() -> None:
    answers = noise(4, classes=MAX_SET_CLASSES + 1)
    config = ExportConfig(sets="class-conditional")
    with pytest.raises(InvalidConfig, match="at most 1,000 classes, here are 1,001"):
        fit_on_validation(answers, split_validation(answers.labels_N), WEIGHTS, config)


@pytest.mark.parametrize(
    ("members", "asked", "said"),
    [
        (1, True, "it takes several members, and one is served"),
        (1, None, None),
        (1, False, None),
        (3, None, "20 images chose nothing, and 500 are needed"),
        (3, False, None),
    ],
)
def test_a_cascade_that_somebody_may_miss_is_said_to_lack(
    members: int, asked: bool | None, said: str | None
) -> None:
    answers, config = noise(40), ExportConfig(cascade=asked)
    some = Answers(answers.probs_MNK[:members], answers.labels_N)
    weights_M = (1 / members,) * members
    fitted = fit_on_validation(some, split_validation(some.labels_N), weights_M, config)
    why = why_no_cascade(members, fitted, config)
    assert (why is None) == (said is None) and (said or "") in (why or "")

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.bundle import QuantizationRecord
from snapensemble.contracts.metrics import accuracy, mean_probabilities, nll
from snapensemble.export.acceptance import (
    Int8Limits,
    QuantizationRefused,
    describe_int8,
    judge_int8,
)

LABELS = np.arange(100) % 2


def members(*confidence_M: float, wrong: int = 0) -> np.ndarray:
    """probs_MNK of two classes; each member is right with its confidence, but for some images."""
    probs_MNK = np.empty((len(confidence_M), 100, 2))
    for probs_NK, confidence in zip(probs_MNK, confidence_M, strict=True):
        right_N = np.where(np.arange(100) < wrong, 1 - confidence, confidence)
        probs_NK[np.arange(100), LABELS] = right_N
        probs_NK[np.arange(100), 1 - LABELS] = 1 - right_N
    return probs_MNK


def judge(fp32: np.ndarray, int8: np.ndarray, **limits: float) -> QuantizationRecord:
    weights_M = [1 / len(fp32)] * len(fp32)
    limits = {"max_accuracy_drop": 0.005, "max_nll_rise": 0.05, "min_agreement": 0.97, **limits}
    return judge_int8(fp32, int8, weights_M, LABELS, Int8Limits(**limits))


def test_the_record_has_the_figures_and_the_limits() -> None:
    record = judge(members(0.8), members(0.8, wrong=1), max_accuracy_drop=0.02, max_nll_rise=0.2)
    assert record.images == 100
    assert record.accuracy_drop == pytest.approx(0.01)
    assert record.agreement == pytest.approx(0.99)
    rise = 0.99 + 0.01 * np.log(0.2) / np.log(0.8) - 1
    assert record.nll_rise == pytest.approx(rise)
    assert (record.max_accuracy_drop, record.max_nll_rise, record.min_agreement) == (
        0.02, 0.2, 0.97,
    )  # fmt: skip


def test_what_counts_is_the_weighted_average_of_the_members() -> None:
    rng = np.random.default_rng(0)
    fp32, int8 = rng.dirichlet([1, 1], (2, 3, 100))
    weights_M = [0.5, 0.3, 0.2]
    limits = Int8Limits(max_accuracy_drop=1, max_nll_rise=10, min_agreement=0)
    record = judge_int8(fp32, int8, weights_M, LABELS, limits)
    before, after = (mean_probabilities(probs, weights_M) for probs in (fp32, int8))
    assert record.accuracy_drop == pytest.approx(accuracy(before, LABELS) - accuracy(after, LABELS))
    assert record.nll_rise == pytest.approx(nll(after, LABELS) / nll(before, LABELS) - 1)


def test_a_member_that_int8_spoils_may_be_outvoted() -> None:
    judge(members(0.9, 0.9, 0.9), members(0.9, 0.9, 0.89))
    with pytest.raises(QuantizationRefused, match="NLL rises by 10.60%"):
        judge(members(0.9), members(0.89))


def test_a_figure_at_its_limit_is_not_beyond_it() -> None:
    spoilt = members(0.8, wrong=3)
    record = judge(members(0.8), spoilt, max_accuracy_drop=0.03, max_nll_rise=1, min_agreement=0.97)
    assert (record.accuracy_drop, record.agreement) == (0.03, 0.97)


@pytest.mark.parametrize(
    ("int8", "limits", "flag"),
    [
        (members(0.8, wrong=1), {"max_nll_rise": 1}, "--max-int8-accuracy-drop"),
        (members(0.7), {}, "--max-int8-nll-rise"),
        (
            members(0.8, wrong=4),
            {"max_nll_rise": 9, "max_accuracy_drop": 1},
            "--min-int8-agreement",
        ),
    ],
)
def test_each_limit_refuses_and_names_its_flag_alone(
    int8: np.ndarray, limits: dict[str, float], flag: str
) -> None:
    with pytest.raises(QuantizationRefused) as refused:
        judge(members(0.8), int8, **limits)
    flags = ("--max-int8-accuracy-drop", "--max-int8-nll-rise", "--min-int8-agreement")
    assert [name for name in flags if name in str(refused.value)] == [flag]


def test_a_refusal_says_every_figure_and_its_limit() -> None:
    message = (
        "int8 changes the ensemble's answers to 100 validation images too much: accuracy falls by "
        "4.00 points \\(limit 0.50; --max-int8-accuracy-drop\\), NLL rises by 24.85% \\(limit "
        "5.00%; --max-int8-nll-rise\\), 96.00% keep their top class \\(at least 97.00%; "
        "--min-int8-agreement\\); change the limit, or export with --quantize none"
    )
    with pytest.raises(QuantizationRefused, match=message):
        judge(members(0.8), members(0.8, wrong=4))


def test_a_better_answer_is_never_too_different_in_accuracy_and_nll() -> None:
    record = judge(members(0.8, wrong=2), members(0.9), max_accuracy_drop=0, max_nll_rise=0)
    assert record.accuracy_drop < 0 and record.nll_rise < 0
    assert describe_int8(record).startswith(
        "accuracy rises by 2.00 points (limit 0.00), NLL falls by "
    )


def test_the_rise_of_almost_nothing_is_measured_against_a_hundredth_of_a_nat() -> None:
    assert judge(members(1.0), members(1.0)).nll_rise == 0
    assert judge(members(0.9999), members(0.9998)).nll_rise == pytest.approx(0.01, rel=0.01)
    with pytest.raises(QuantizationRefused, match="NLL rises"):
        judge(members(1.0), members(0.9))


@given(st.floats(0.55, 0.95), st.integers(0, 40))
def test_the_same_answers_pass_the_strictest_limits(confidence: float, wrong: int) -> None:
    probs = members(confidence, wrong=wrong)
    record = judge(probs, probs, max_accuracy_drop=0, max_nll_rise=0, min_agreement=1)
    assert (record.accuracy_drop, record.nll_rise, record.agreement) == (0, 0, 1)

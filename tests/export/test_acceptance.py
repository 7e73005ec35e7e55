import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.bundle import QuantizationRecord
from snapensemble.contracts.cascade import Promise
from snapensemble.contracts.metrics import accuracy, mean_probabilities, nll
from snapensemble.export.acceptance import QuantizationRefused, describe_int8, judge_int8
from snapensemble.export.config import Int8Limits

LABELS = np.arange(100) % 2


def members(*confidence_M: float, wrong: int = 0) -> np.ndarray:
    """probs_MNK of two classes; each member is right with its confidence, but for some images."""
    probs_MNK = np.empty((len(confidence_M), 100, 2))
    for probs_NK, confidence in zip(probs_MNK, confidence_M, strict=True):
        right_N = np.where(np.arange(100) < wrong, 1 - confidence, confidence)
        probs_NK[np.arange(100), LABELS] = right_N
        probs_NK[np.arange(100), 1 - LABELS] = 1 - right_N
    return probs_MNK


def limits_of(promise: Promise = "estimate", **limits: float) -> Int8Limits:
    limits = {"max_accuracy_drop": 0.005, "max_nll_rise": 0.05, "min_agreement": 0.97, **limits}
    return Int8Limits(promise=promise, **limits)


def judge(fp32: np.ndarray, int8: np.ndarray, **limits: float) -> QuantizationRecord:
    """Judge by the estimates themselves."""
    weights_M = [1 / len(fp32)] * len(fp32)
    return judge_int8(fp32, int8, weights_M, LABELS, limits_of("estimate", **limits))


def draw(
    rng: np.random.Generator, images: int, *, worse: float, better: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """fp32, int8 and labels; int8 turns a share of the images wrong, and another one right."""
    labels_N = rng.integers(0, 2, images)
    sure_N = rng.uniform(0.55, 0.95, images)
    chance_N = rng.random(images)
    right_N = chance_N < 0.9
    changed_N = (right_N & (chance_N < worse)) | (~right_N & (chance_N > 1 - better))

    def probs(right_N: np.ndarray) -> np.ndarray:
        of_label_N = np.where(right_N, sure_N, 1 - sure_N)
        first_N = np.where(labels_N == 0, of_label_N, 1 - of_label_N)
        return np.stack([first_N, 1 - first_N], axis=1)[None]

    return probs(right_N), probs(right_N ^ changed_N), labels_N


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
    limits = limits_of(max_accuracy_drop=1, max_nll_rise=10, min_agreement=0)
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
        "int8 changes the ensemble's answers to 100 validation images too much: an estimate: "
        "accuracy falls by 4.00 points \\(limit 0.50; --max-int8-accuracy-drop\\), NLL rises "
        "by 24.85% \\(limit 5.00%; --max-int8-nll-rise\\), 96.00% keep their top class \\(at "
        "least 97.00%; --min-int8-agreement\\); change the limit, or export with --quantize none"
    )
    with pytest.raises(QuantizationRefused, match=message):
        judge(members(0.8), members(0.8, wrong=4))


def test_a_better_answer_is_never_too_different_in_accuracy_and_nll() -> None:
    record = judge(members(0.8, wrong=2), members(0.9), max_accuracy_drop=0, max_nll_rise=0)
    assert record.accuracy_drop < 0 and record.nll_rise < 0
    assert describe_int8(record).startswith(
        "an estimate: accuracy rises by 2.00 points (limit 0.00), NLL falls by "
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


@pytest.mark.parametrize("images", [200, 1000, 4000])
@pytest.mark.parametrize("better", [0.0, 0.01])
def test_a_true_drop_beyond_the_limit_is_taken_in_one_of_twenty_samples_at_most(
    images: int, better: float
) -> None:
    limits = limits_of("bound", max_nll_rise=9, min_agreement=0)
    rng, taken = np.random.default_rng(0), 0
    for _ in range(400):
        fp32, int8, labels_N = draw(rng, images, worse=0.0051 + better, better=better)
        try:
            judge_int8(fp32, int8, [1.0], labels_N, limits)
        except QuantizationRefused:
            continue
        taken += 1
    assert taken <= 30  # 5 %, and more than two deviations of 400 draws


def test_harmless_int8_is_taken_where_the_images_suffice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        fp32, int8, labels_N = draw(rng, 4000, worse=0.002, better=0.002)
        record = judge_int8(fp32, int8, [1.0], labels_N, limits_of("bound"))
        assert record.promise == "bound" and record.confidence == 0.95
        assert record.accuracy_drop_bound is not None and record.agreement_bound is not None
        assert record.accuracy_drop < record.accuracy_drop_bound <= 0.005
        assert 0.97 <= record.agreement_bound < record.agreement
        assert "accuracy falls by no more than" in describe_int8(record)


def test_a_refusal_for_want_of_images_says_how_many_would_do_and_what_else() -> None:
    same = members(0.8)
    with pytest.raises(QuantizationRefused) as refused:
        judge_int8(same, same, [1.0], LABELS, limits_of("bound"))
    message = str(refused.value)
    assert message.startswith("100 validation images cannot show that int8 keeps its limits")
    assert "about 60" in message and "--int8-gate estimate" in message
    assert "accuracy falls by no more than 3.00 points (+0.00 measured, limit 0.50; " in message


def test_a_refusal_for_what_int8_changes_asks_for_no_more_images() -> None:
    with pytest.raises(QuantizationRefused, match="too much") as refused:
        judge_int8(members(0.8), members(0.8, wrong=4), [1.0], LABELS, limits_of("bound"))
    assert "--int8-gate" not in str(refused.value)


@pytest.mark.parametrize("limit", [{"max_accuracy_drop": 0}, {"min_agreement": 1}])
def test_a_limit_that_no_image_can_show_is_not_said_to_be_exceeded(limit: dict[str, float]) -> None:
    same = members(0.8)
    with pytest.raises(QuantizationRefused) as refused:
        judge_int8(same, same, [1.0], LABELS, limits_of("bound", **limit))
    assert "cannot show that int8 keeps its limits, none could; --int8-gate" in str(refused.value)

"""The check that int8 members answer as the float32 ones do, on validation images.

Shapes: M members, N validation images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from snapensemble.contracts.bundle import QuantizationRecord
from snapensemble.contracts.errors import SnapensembleError
from snapensemble.contracts.metrics import Floats, Labels, mean_probabilities, nll, nll_rise


class QuantizationRefused(SnapensembleError):
    """The network cannot be computed in int8, or answers too differently when it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Limits:
    """How much int8 may change; docs/decisions/0011 has what it changes."""

    max_accuracy_drop: float  # fraction
    max_nll_rise: float  # relative
    min_agreement: float  # share of images


def judge_int8(
    fp32_MNK: Floats,
    int8_MNK: Floats,
    weights_M: Sequence[float],
    labels_N: Labels,
    limits: Int8Limits,
) -> QuantizationRecord:
    """Measure what int8 changes in the averaged probabilities.

    Args:
        fp32_MNK: the float32 members' probabilities.
        int8_MNK: the same members' probabilities in int8.
        weights_M: one per member, summing to 1.
        labels_N: the right classes.
        limits: int8 is refused beyond any of them.

    Raises:
        QuantizationRefused: a limit is exceeded; the message has every figure.
    """
    before_NK = mean_probabilities(fp32_MNK, weights_M)
    after_NK = mean_probabilities(int8_MNK, weights_M)
    top_before_N, top_after_N = before_NK.argmax(axis=1), after_NK.argmax(axis=1)
    lost = int((top_before_N == labels_N).sum()) - int((top_after_N == labels_N).sum())
    record = QuantizationRecord(
        images=len(labels_N),
        accuracy_drop=lost / len(labels_N),
        nll_rise=nll_rise(nll(after_NK, labels_N), nll(before_NK, labels_N)),
        agreement=float((top_before_N == top_after_N).mean()),
        max_accuracy_drop=limits.max_accuracy_drop,
        max_nll_rise=limits.max_nll_rise,
        min_agreement=limits.min_agreement,
    )
    if exceeded(record):
        raise QuantizationRefused(
            f"int8 changes the ensemble's answers to {record.images} validation images too much: "
            f"{describe_int8(record)}; change the limit, or export with --quantize none"
        )
    return record


def exceeded(record: QuantizationRecord) -> list[str]:
    """The flags of the limits that a record exceeds."""
    kept = {
        "--max-int8-accuracy-drop": record.accuracy_drop <= record.max_accuracy_drop,
        "--max-int8-nll-rise": record.nll_rise <= record.max_nll_rise,
        "--min-int8-agreement": record.agreement >= record.min_agreement,
    }
    return [flag for flag, within in kept.items() if not within]


def describe_int8(record: QuantizationRecord) -> str:
    """Each figure beside its limit, with the flag of a limit that is exceeded."""
    beyond = exceeded(record)
    figures = (
        (
            "--max-int8-accuracy-drop",
            f"accuracy {rises_or_falls(-record.accuracy_drop)} by "
            f"{abs(record.accuracy_drop) * 100:.2f} points "
            f"(limit {record.max_accuracy_drop * 100:.2f}",
        ),
        (
            "--max-int8-nll-rise",
            f"NLL {rises_or_falls(record.nll_rise)} by {abs(record.nll_rise):.2%} "
            f"(limit {record.max_nll_rise:.2%}",
        ),
        (
            "--min-int8-agreement",
            f"{record.agreement:.2%} keep their top class (at least {record.min_agreement:.2%}",
        ),
    )
    return ", ".join(
        f"{figure}; {flag})" if flag in beyond else f"{figure})" for flag, figure in figures
    )


def rises_or_falls(change: float) -> str:
    """The direction of a change as a word."""
    return "rises" if change > 0 else "falls"

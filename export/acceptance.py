"""The check that int8 members answer as the float32 ones do, on validation images.

All validation images may judge: int8 has chosen nothing on them. Half of them have chosen the
members, by their answers in float32, which on average makes int8 look worse than it is.

Shapes: M members, N validation images, K classes.
"""

from collections.abc import Sequence

from snapensemble.contracts.bundle import QuantizationRecord
from snapensemble.contracts.errors import SnapensembleError
from snapensemble.contracts.metrics import Floats, Labels, mean_probabilities, nlls
from snapensemble.export.confidence import (
    CONFIDENCE,
    images_needed,
    nll_rise_bound,
    nll_scale,
    upper_bound,
)
from snapensemble.export.config import Int8Limits
from snapensemble.report.figures import lowest_share

FLAGS = ("--max-int8-accuracy-drop", "--max-int8-nll-rise", "--min-int8-agreement")


class QuantizationRefused(SnapensembleError):
    """The network cannot be computed in int8, or answers too differently when it is."""


def judge_int8(
    fp32_MNK: Floats,
    int8_MNK: Floats,
    weights_M: Sequence[float],
    labels_N: Labels,
    limits: Int8Limits,
) -> QuantizationRecord:
    """Measure what int8 changes in the averaged probabilities, image by image.

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
    lost_N = (top_before_N == labels_N) - (top_after_N == labels_N).astype(float)
    before_N = nlls(before_NK, labels_N)
    rise_N, scale_N = nlls(after_NK, labels_N) - before_N, nll_scale(before_N)
    same, N = int((top_before_N == top_after_N).sum()), len(labels_N)
    record = QuantizationRecord(
        images=N,
        accuracy_drop=float(lost_N.sum()) / N,
        nll_rise=float(rise_N.mean() / scale_N.mean()),
        agreement=same / N,
        max_accuracy_drop=limits.max_accuracy_drop,
        max_nll_rise=limits.max_nll_rise,
        min_agreement=limits.min_agreement,
        promise=limits.promise,
        confidence=CONFIDENCE,
        accuracy_drop_bound=upper_bound(lost_N, largest=1.0),
        nll_rise_bound=nll_rise_bound(rise_N, before_N, largest=0.0),
        agreement_bound=lowest_share(same, N),
    )
    beyond = exceeded(record)
    if not beyond:
        return record
    needed = (
        images_needed(lost_N, 1.0, limits.max_accuracy_drop),
        images_needed(rise_N - limits.max_nll_rise * scale_N, 0.0, 0.0),
        images_needed((top_before_N != top_after_N).astype(float), 1.0, 1 - limits.min_agreement),
    )
    raise QuantizationRefused(
        f"{_why(record, beyond, dict(zip(FLAGS, needed, strict=True)))}: {describe_int8(record)}; "
        "change the limit, or export with --quantize none"
    )


def _why(record: QuantizationRecord, beyond: Sequence[str], needed: dict[str, int | None]) -> str:
    """Whether int8 is too different, or the images are too few to say that it is not."""
    if exceeded(record.model_copy(update={"promise": "estimate"})):
        return (
            f"int8 changes the ensemble's answers to {record.images:,} validation images too much"
        )
    images = [count for flag in beyond if (count := needed[flag]) is not None]
    could = f"about {max(images):,} like them could" if len(images) == len(beyond) else "none could"
    return (
        f"{record.images:,} validation images cannot show that int8 keeps its limits, {could}; "
        "--int8-gate estimate takes it without that promise"
    )


def exceeded(record: QuantizationRecord) -> list[str]:
    """The flags of the limits that a record exceeds, by its bounds if these are its promise."""
    drop, rise, agreement = record.accuracy_drop, record.nll_rise, record.agreement
    if record.promise == "bound":
        bounds = record.accuracy_drop_bound, record.nll_rise_bound, record.agreement_bound
        drop, rise, agreement = (bound for bound in bounds if bound is not None)
    kept = (
        drop <= record.max_accuracy_drop,
        rise <= record.max_nll_rise,
        agreement >= record.min_agreement,
    )
    return [flag for flag, within in zip(FLAGS, kept, strict=True) if not within]


def describe_int8(record: QuantizationRecord) -> str:
    """Each figure beside its limit, with the flag of a limit that is exceeded."""
    head, figures = _estimates(record) if record.promise == "estimate" else _bounds(record)
    limits = (
        f"limit {record.max_accuracy_drop * 100:.2f}",
        f"limit {record.max_nll_rise:.2%}",
        f"at least {record.min_agreement:.2%}",
    )
    beyond = exceeded(record)
    return head + ", ".join(
        f"{figure}{limit}; {flag})" if flag in beyond else f"{figure}{limit})"
        for flag, figure, limit in zip(FLAGS, figures, limits, strict=True)
    )


def _estimates(record: QuantizationRecord) -> tuple[str, tuple[str, ...]]:
    return "an estimate: ", (
        f"accuracy {rises_or_falls(-record.accuracy_drop)} by "
        f"{abs(record.accuracy_drop) * 100:.2f} points (",
        f"NLL {rises_or_falls(record.nll_rise)} by {abs(record.nll_rise):.2%} (",
        f"{record.agreement:.2%} keep their top class (",
    )


def _bounds(record: QuantizationRecord) -> tuple[str, tuple[str, ...]]:
    drop, rise = record.accuracy_drop_bound or 0.0, record.nll_rise_bound or 0.0
    return f"with {record.confidence:.0%} confidence ", (
        f"accuracy falls by no more than {drop * 100:.2f} points "
        f"({record.accuracy_drop * 100:+.2f} measured, ",
        f"NLL rises by no more than {rise:.2%} ({record.nll_rise:+.2%} measured, ",
        f"no fewer than {record.agreement_bound:.2%} keep their top class "
        f"({record.agreement:.2%} measured, ",
    )


def rises_or_falls(change: float) -> str:
    """The direction of a change as a word."""
    return "rises" if change > 0 else "falls"

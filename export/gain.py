"""What an ensemble gains over single networks, with intervals, on images that chose nothing. Pure.

Shapes: S snapshots, N images, K classes.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from snapensemble.contracts.bundle import Gain
from snapensemble.contracts.metrics import Answers, Floats, losses, nll, tempered
from snapensemble.export.selection import Chosen
from snapensemble.export.temperature import fit_temperature

CONFIDENCE = 0.95  # two-sided


def gains_over_singles(
    selection: Answers,
    held_out: Answers,
    served_NK: Floats,
    chosen: Chosen,
    names_S: Sequence[str],
    last: int,
) -> tuple[Gain, ...]:
    """Compare what is served with the last snapshot, and with the best network of all.

    Args:
        selection: every snapshot's answers to the selection half of validation, which fit the
            single networks' temperatures, and say which of them is the best.
        held_out: their answers to the calibration half, which chose nothing.
        served_NK: the calibrated answers to the calibration half of what is served.
        chosen: the members.
        names_S: the snapshots' names.
        last: which of them is the last snapshot.

    Returns:
        One entry, or two, without a network that is served alone: nothing is gained over itself.
    """
    temperatures_S = [fit_temperature(probs, selection.labels_N) for probs in selection.probs_MNK]
    calibrated = [
        tempered(probs, T) for probs, T in zip(selection.probs_MNK, temperatures_S, strict=True)
    ]
    best = int(np.argmin([nll(probs, selection.labels_N) for probs in calibrated]))
    singles = {"last": last} if best == last else {"last": last, "best_single": best}
    labels_N = held_out.labels_N
    gains = []
    for over, single in singles.items():
        if chosen.indices == (single,) or len(labels_N) < 2:
            continue
        single_NK = tempered(held_out.probs_MNK[single], temperatures_S[single])
        right_N = (served_NK.argmax(axis=1) == labels_N).astype(np.float64)
        single_right_N = single_NK.argmax(axis=1) == labels_N
        gains.append(
            Gain(
                over=over,
                member=names_S[single],
                images=len(labels_N),
                confidence=CONFIDENCE,
                nll=paired_interval(losses(single_NK, labels_N) - losses(served_NK, labels_N)),
                accuracy=paired_interval(right_N - single_right_N),
            )
        )
    return tuple(gains)


def paired_interval(gains_N: Floats) -> tuple[float, float, float]:
    """The mean of paired differences and its two-sided 95 % interval by Student's t."""
    mean, N = float(gains_N.mean()), len(gains_N)
    error = float(gains_N.std(ddof=1)) / N**0.5
    reach = float(student.ppf((1 + CONFIDENCE) / 2, N - 1)) * error
    return mean, mean - reach, mean + reach

"""How sure the ensemble is of held-out images, for the server to compare with. Pure.

Shapes: M members, N images, K classes.
"""

from collections.abc import Sequence

from contracts.drift import ReferenceRecord, shares_of
from contracts.figures import Floats, disagreement, mean_probabilities


def fit_reference(
    probs_MNK: Floats, weights_M: Sequence[float], temperature: float
) -> ReferenceRecord:
    """Shares of images by confidence and by disagreement, as full answers have them.

    Args:
        probs_MNK: the members' answers to the calibration half of validation.
        weights_M: one per member, summing to 1.
        temperature: of the average.
    """
    return ReferenceRecord(
        images=probs_MNK.shape[1],
        confidence=shares_of(mean_probabilities(probs_MNK, weights_M, temperature).max(axis=-1)),
        disagreement=shares_of(disagreement(probs_MNK, weights_M)),
    )

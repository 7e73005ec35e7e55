"""What members say of some images, together with what is right.

Shapes: M members, N images, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.figures import Floats, Labels


@dataclass(frozen=True, slots=True)
class Answers:
    """One distribution per member and image, members in the order of a bundle."""

    probs_MNK: Floats
    labels_N: Labels

    def __post_init__(self) -> None:
        """Refuse what does not belong together."""
        if self.probs_MNK.ndim != 3 or self.probs_MNK.shape[1] != len(self.labels_N):
            raise ValueError(
                f"probs_MNK has shape {self.probs_MNK.shape}, there are {len(self.labels_N)} labels"
            )

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels_N)

    def only(self, images_N: NDArray[np.intp]) -> "Answers":
        """The answers to some of the images."""
        return Answers(self.probs_MNK[:, images_N], self.labels_N[images_N])

"""A frozen first layer that makes the pixels of small patches independent of each other.

From Page 2019 ("How to train your ResNet", part 8) as Jordan 2024 has it (arXiv:2404.00498,
section 3.2): the network need not learn how neighbouring pixels go together.

Shapes: N images, C channels, H height, W width, D = C x 2 x 2 values of a patch, P patches.
"""

from collections.abc import Callable, Iterable
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor, nn


class PatchWhitening(nn.Conv2d):
    """A 2x2 convolution onto the patches' principal components, each scaled to variance 1.

    Every component comes twice, with both signs, so that a ReLU after it loses nothing. The weights
    are not trained. Until `fit` they pass the pixels on; a snapshot brings them along.
    """

    SIDE: ClassVar[int] = 2  # pixels
    MAX_IMAGES: ClassVar[int] = 5000
    # Added to each variance: directions in which patches hardly vary are noise, not to be
    # scaled up (Jordan's value).
    EPSILON: ClassVar[float] = 5e-4

    def __init__(self, channels: int) -> None:
        size = channels * self.SIDE**2
        # Nothing is drawn from the random state for what is not trained.
        with torch.random.fork_rng(devices=[]):
            super().__init__(channels, 2 * size, self.SIDE, bias=False)
        self.weight.requires_grad = False
        self._set(torch.eye(size))

    def fit(self, images_NCHW: Tensor, normalise: Callable[[Tensor], Tensor]) -> None:
        """Compute the weights from up to `MAX_IMAGES` images, spread evenly over those given.

        Args:
            images_NCHW: uint8.
            normalise: what the network does to images before this layer.
        """
        some_NCHW = images_NCHW[:: ceil(len(images_NCHW) / self.MAX_IMAGES)]
        parts = torch.split(some_NCHW.to(self.weight.device), 256)
        covariance_DD = _covariance(_patches(normalise(part), self.SIDE) for part in parts)
        variance_D, directions_DD = torch.linalg.eigh(covariance_DD)
        # eigh orders by variance and leaves the sign open: the largest entry is made positive.
        largest_1D = directions_DD.abs().argmax(dim=0, keepdim=True)
        directions_DD = directions_DD * directions_DD.gather(0, largest_1D).sign()
        # A variance of 0 may come out slightly below it.
        scale_D = 1 / torch.sqrt(variance_D.clamp(min=0) + self.EPSILON)
        self._set((directions_DD * scale_D).T)

    def _set(self, rows_DD: Tensor) -> None:
        rows = torch.cat([rows_DD, -rows_DD]).view_as(self.weight)
        with torch.no_grad():
            self.weight.copy_(rows)


def _patches(images_NCHW: Tensor, side: int) -> Tensor:
    windows = images_NCHW.unfold(2, side, 1).unfold(3, side, 1)  # N C H W side side
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, images_NCHW.shape[1] * side**2)


def _covariance(parts: Iterable[Tensor]) -> Tensor:
    """The covariance of all parts' rows, in float64: it is a sum over millions of patches."""
    count, sum_D, product_DD = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        part_PD = part.double()
        count += len(part_PD)
        sum_D = sum_D + part_PD.sum(dim=0)
        product_DD = product_DD + part_PD.T @ part_PD
    mean_D = sum_D / count
    return product_DD / count - mean_D[:, None] * mean_D

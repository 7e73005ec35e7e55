"""Class activation maps: where in its image the members find what speaks for a class.

A member that ends in a mean over positions and a linear layer gives that layer's answer for each
position of its last feature maps (Zhou et al. 2016, arXiv:1512.04150): evidence, in logits, whose
mean over positions is the member's logit. The map of an ensemble is the mean of its members'
evidence, by their weights.

Shapes: d members asked, n classes, C channels, h w height and width of feature maps, H W of images.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.serving.inference.aggregate import Summary

MAX_CLASSES = 5  # of one request
PREDICTED = "true"  # asks about the class that the answer names
NOTHING = "false"  # asks about none, as if it were not there
Maps = NDArray[np.float32]  # evidence_nhw, or a part's feature maps_Chw


@dataclass(frozen=True, slots=True)
class Asked:
    """The classes that a request asks about."""

    classes: tuple[int, ...]  # by their index, in the order of the answer
    predicted: bool = False  # whether the class that the answer names comes before them

    @property
    def rows(self) -> slice | list[int]:
        """The classes whose evidence is needed; nobody knows yet which class will be named."""
        return slice(None) if self.predicted else list(self.classes)

    @property
    def most(self) -> int:
        """How many maps there are at most."""
        return len(self.classes) + self.predicted

    def evidence_bytes(self, classes: int, positions: int) -> int:
        """The bytes of one member's evidence, of so many classes and positions."""
        return 4 * positions * (classes if self.predicted else len(self.classes))


@dataclass(frozen=True, slots=True)
class Explanation:
    """The map of one class, as a grey picture of the frame that the members saw."""

    index: int  # of the class
    png: str  # base64; 0 stands for `low`, 255 for `high`
    low: float  # evidence, in logits
    high: float


@runtime_checkable
class GivesMaps(Protocol):
    """What a micro-batch knows of a part whose answers can be explained."""

    def with_maps(self, inputs_B: NDArray[np.generic]) -> tuple[NDArray[np.float32], Maps | None]:
        """What the part gives, and its own feature maps_BChw if it has any."""

    def evidence(self, maps_Chw: Maps, rows: slice | list[int]) -> Maps:
        """evidence_nhw of a member, for feature maps of its own or of the trunk before it."""


def explanations(
    evidence_d: Sequence[Maps], asked: Asked, summary: Summary, bundle: BundleManifest
) -> tuple[Explanation, ...]:
    """The maps of an image, one for each class asked.

    Args:
        evidence_d: of the members asked, which are the first ones; see `Asked.rows`.
        asked: about which classes.
        summary: the answer for the image.
        bundle: what is served.
    """
    indices = list(dict.fromkeys([*summary.order_K[:1], *asked.classes]))
    if not asked.predicted:
        indices = list(asked.classes)
    weights_d = bundle.weights_of_first(len(evidence_d))
    return tuple(
        _explanation(
            index,
            sum(
                weight * _enlarged(evidence_nhw[index if asked.predicted else place], bundle)
                for weight, evidence_nhw in zip(weights_d, evidence_d, strict=True)
            ),
        )
        for place, index in enumerate(indices)
    )


def png_bytes(bundle: BundleManifest) -> int:
    """The most bytes that a map's picture can have: no row is longer than its pixels and a byte.

    What does not get smaller is stored in blocks of 16 kB and more, with 5 bytes for each.
    """
    raw = bundle.image.height * (bundle.image.width + 1)
    return raw + raw // 1000 + 1000


def _enlarged(evidence_hw: Maps, bundle: BundleManifest) -> Maps:
    """evidence_HW, in between by bilinear interpolation."""
    size = bundle.image.width, bundle.image.height
    picture = Image.fromarray(np.ascontiguousarray(evidence_hw)).resize(
        size, Image.Resampling.BILINEAR
    )
    return np.asarray(picture)


def _explanation(index: int, evidence_HW: NDArray[np.floating]) -> Explanation:
    low, high = float(evidence_HW.min()), float(evidence_HW.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"the evidence for class {index} is no number everywhere")
    scale = 255 / (high - low) if high > low else 0.0
    grey_HW = np.rint((evidence_HW - low) * scale).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey_HW).save(file, "PNG", compress_level=1)
    return Explanation(index, base64.b64encode(file.getvalue()).decode(), low, high)

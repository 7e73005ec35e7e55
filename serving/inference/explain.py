"""Class activation maps: where in its image the members find what speaks for a class.

A member that ends in a mean over positions and a linear layer gives that layer's answer for each
position of its last feature maps (Zhou et al. 2016, arXiv:1512.04150): evidence, in logits, whose
mean over positions is the member's logit. The map of an ensemble is the mean of its members'
evidence, by their weights.

Shapes: d members asked, n classes, C channels, h w height and width of feature maps, H W of images.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.novelty import NoveltyThreshold
from snapensemble.serving.inference.aggregate import Summary

MAX_CLASSES = 5  # of one request
PREDICTED = "true"  # asks about the class that the answer names
NOTHING = "false"  # asks about none, as if it were not there
Maps = NDArray[np.float32]  # evidence_nhw, or a part's feature maps_Chw


@dataclass(frozen=True, slots=True)
class Explanation:
    """The map of one class, as a grey picture of the frame that the members saw."""

    index: int  # of the class
    png: str  # base64; 0 stands for `low`, 255 for `high`
    low: float  # evidence, in logits
    high: float


@dataclass(frozen=True, slots=True)
class Asked:
    """The classes that a request asks about, and whether its pictures are novel."""

    bundle: BundleManifest
    classes: tuple[int, ...]  # by their index, in the order of the answer
    predicted: bool = False  # whether the class that the answer names comes before them
    novelty: NoveltyThreshold | None = None  # beyond which distance a picture is

    @property
    def explains(self) -> bool:
        """Whether there will be maps in the answer."""
        return self.predicted or bool(self.classes)

    def needs_maps_of(self, place: int) -> bool:
        """Whether the feature maps of a member, or of the trunk before place 0, are needed."""
        return self.explains or place <= 0

    @property
    def rows(self) -> slice | list[int]:
        """The classes whose evidence is needed; nobody knows yet which class will be named."""
        return slice(None) if self.predicted else list(self.classes)

    def explanations(self, evidence_d: Sequence[Maps], summary: Summary) -> tuple[Explanation, ...]:
        """The maps of an image, one for each class.

        Args:
            evidence_d: evidence_nhw of each member asked, which are the first ones, for `rows`.
            summary: the answer for the image.
        """
        places = dict(zip(self.classes, range(len(self.classes)), strict=True))
        if self.predicted:
            named = dict.fromkeys([summary.order_K[0], *self.classes])
            places = {index: index for index in named}
        weights_d = self.bundle.weights_of_first(len(evidence_d))
        size = self.bundle.image.width, self.bundle.image.height
        found = []
        for index, place in places.items():
            evidence_HW = sum(
                weight * _enlarged(evidence_nhw[place], size)
                for weight, evidence_nhw in zip(weights_d, evidence_d, strict=True)
            )
            assert not isinstance(evidence_HW, int)
            found.append(_explanation(index, evidence_HW))
        return tuple(found)

    def max_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """The most bytes that explaining one image takes, until its answer is sent.

        They are those of the members' evidence, of a trunk's maps, and of each map as a picture:
        its bytes, in base64, and in the answer's body.

        Args:
            shapes: (C, h, w) of the feature maps that explain each member.
        """
        classes = len(self.bundle.classes) if self.predicted else len(self.classes)
        evidence = sum(classes * h * w for _, h, w in shapes)
        shared = 0 if self.bundle.trunk is None else math.prod(shapes[0])
        raw = self.bundle.image.height * (self.bundle.image.width + 1)
        # What does not get smaller is stored in blocks of 16 kB and more, with 5 bytes for each.
        png = raw + raw // 1000 + 1000
        return 4 * (evidence + shared) + 4 * (len(self.classes) + self.predicted) * png


@runtime_checkable
class GivesMaps(Protocol):
    """What a micro-batch knows of a part whose answers can be explained."""

    has_class_weights: bool  # whether it is a member, which has a last layer

    def with_maps(self, inputs_B: NDArray[np.generic]) -> tuple[NDArray[np.float32], Maps | None]:
        """What the part gives, and its own feature maps_BChw if it has any."""

    def evidence(self, maps_Chw: Maps, rows: slice | list[int]) -> Maps:
        """evidence_nhw of a member, for feature maps of its own or of the trunk before it."""

    def distance(self, maps_Chw: Maps) -> float:
        """How far an image with these feature maps is from what taught, see contracts.novelty."""


def _enlarged(evidence_hw: Maps, size: tuple[int, int]) -> Maps:
    """evidence_HW of a width and a height, by bilinear interpolation."""
    picture = Image.fromarray(np.ascontiguousarray(evidence_hw))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _explanation(index: int, evidence_HW: NDArray[np.floating]) -> Explanation:
    low, high = float(evidence_HW.min()), float(evidence_HW.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"the evidence for class {index} is no number everywhere")
    scale = 255 / (high - low) if high > low else 0.0
    grey_HW = np.rint((evidence_HW - low) * scale).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey_HW).save(file, "PNG", compress_level=1)
    return Explanation(index, base64.b64encode(file.getvalue()).decode(), low, high)

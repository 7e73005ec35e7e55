"""Image bytes -> image_CHW: the one implementation, used by training and serving alike.

Shapes: C channels, H height, W width. All arrays are uint8.
"""

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from pydantic import Field, model_validator

from snapensemble.contracts.errors import TakesTime
from snapensemble.contracts.manifest import Record
from snapensemble.contracts.pictures.cost import picture_cost
from snapensemble.contracts.pictures.decode import in_frame, load_picture
from snapensemble.contracts.pictures.fit import Fit
from snapensemble.contracts.pictures.heif import READS_HEIC
from snapensemble.contracts.pictures.limits import PictureLimits

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".mpo"),
    *(".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
    *((".heic", ".heif") if READS_HEIC else ()),
)
SERVER_LIMITS = PictureLimits()
MAX_PIXELS = SERVER_LIMITS.max_pixels
MAX_SIDE = 4096  # of what a network takes, not of a picture

ChannelValues = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]


class ImageContract(Record):
    """What one image is: the shape of the graph's input and how bytes become it.

    `mean` and `std` are per channel, in units of full scale (pixel / 255); the normalisation
    itself is inside the exported graph. `fit` says how a picture of another shape comes into the
    frame, see `contracts.pictures.fit`.
    """

    channels: Literal[1, 3]
    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    mean: ChannelValues
    std: ChannelValues
    fit: Fit = "cover"
    interpolation: Literal["bilinear-antialias"] = "bilinear-antialias"

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "ImageContract":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        return self

    def decode(
        self,
        data: bytes,
        *,
        limits: PictureLimits = SERVER_LIMITS,
        patience_s: float = math.inf,
        patience_bytes: float = math.inf,
    ) -> NDArray[np.uint8]:
        """Decode a picture into image_CHW; see `decode_image`."""
        return decode_image(
            data,
            channels=self.channels,
            height=self.height,
            width=self.width,
            fit=self.fit,
            limits=limits,
            patience_s=patience_s,
            patience_bytes=patience_bytes,
        )

    def frame(self, picture: Image) -> NDArray[np.uint8]:
        """Make image_CHW of a picture that is decoded; see `frame_image`."""
        return frame_image(
            picture,
            channels=self.channels,
            height=self.height,
            width=self.width,
            fit=self.fit,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image: (C, H, W)."""
        return self.channels, self.height, self.width


def decode_image(
    data: bytes,
    *,
    channels: int,
    height: int,
    width: int,
    fit: Fit = "cover",
    limits: PictureLimits = SERVER_LIMITS,
    patience_s: float = math.inf,
    patience_bytes: float = math.inf,
) -> NDArray[np.uint8]:
    """Decode an encoded picture into what the graph takes.

    The first frame counts. EXIF orientation is applied, 16 bits become 8 by their upper half,
    and what is transparent is seen against white.

    Args:
        data: the encoded picture.
        channels: 1 or 3.
        height: of the result, in pixels.
        width: of the result, in pixels.
        fit: how a picture of another shape comes into it, see `contracts.pictures.fit`.
        limits: what decoding may cost.
        patience_s: processor time that the caller has, perhaps less than the limits allow.
        patience_bytes: memory that the caller has, perhaps less than the limits allow.

    Returns:
        image_CHW, uint8, C-contiguous.

    Raises:
        ImageTooLarge: the header claims more pixels than the limits allow.
        ImageTooCostly: decoding takes more work or memory than they allow.
        InvalidImage: the picture is empty, not one of `FORMATS`, truncated or damaged.
        TakesTime: decoding takes more than the caller has, but no more than the limits allow.
        MemoryError: there is no memory now, which is not the picture's fault.
    """
    cost = picture_cost(data, limits, width=width, height=height, fit=fit)
    if cost.seconds > patience_s or cost.memory > patience_bytes:
        raise TakesTime(cost.seconds, cost.memory)
    picture = load_picture(data, cost, limits, patience_s=patience_s)
    return frame_image(picture, channels=channels, height=height, width=width, fit=fit)


def frame_image(
    picture: Image, *, channels: int, height: int, width: int, fit: Fit = "cover"
) -> NDArray[np.uint8]:
    """Make what the graph takes of a picture that is decoded; the rest is as for `decode_image`.

    Raises:
        InvalidImage: the pixels have no agreed range.
    """
    mode = "L" if channels == 1 else "RGB"
    pixels = in_frame(picture, mode, height=height, width=width, fit=fit)
    if pixels.ndim == 2:
        return np.array(pixels[None])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))

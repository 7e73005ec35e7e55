"""Image bytes -> image_CHW: the one implementation, used by training and serving alike.

Shapes: C channels, H height, W width. All arrays are uint8.
"""

import io
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from pydantic import Field, model_validator

from contracts.errors import ImageTooLarge, InvalidImage
from contracts.records import Record

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 40_000_000
MAX_SCANS = 100
MAX_SIDE = 4096  # of what a network takes, not of a picture

# Pillow's own limit only warns up to twice its value. Every image here is checked against
# `max_pixels` from its header, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

_EXIF_ORIENTATION = 0x0112
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ChannelValues = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]


class ImageContract(Record):
    """What one image is: the shape of the graph's input and how bytes become it.

    `mean` and `std` are per channel, in units of full scale (pixel / 255); the normalisation
    itself is inside the exported graph.
    """

    channels: Literal[1, 3]
    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    mean: ChannelValues
    std: ChannelValues
    # The picture covers the frame: scaled until both sides fit, the overhang cut off evenly.
    fit: Literal["cover"] = "cover"
    interpolation: Literal["bilinear-antialias"] = "bilinear-antialias"

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "ImageContract":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        return self

    def decode(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """image_CHW of an encoded picture; see `decode_image`."""
        return decode_image(
            data,
            channels=self.channels,
            height=self.height,
            width=self.width,
            max_pixels=max_pixels,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width


def decode_image(
    data: bytes, *, channels: int, height: int, width: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode an encoded picture into what the graph takes.

    The first frame counts. EXIF orientation is applied, 16 bits become 8 by their upper half,
    and what is transparent is seen against white.

    Returns:
        image_CHW, uint8, C-contiguous.

    Raises:
        ImageTooLarge: more than `max_pixels`, by the header.
        InvalidImage: empty, not one of `FORMATS`, truncated or damaged.
    """
    if not data:
        raise InvalidImage("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            refuse_large(picture.width, picture.height, max_pixels)
            _refuse_costly(picture, data, max_pixels)
            # JPEG can decode at 1/2, 1/4 or 1/8; twice the target keeps the quality.
            picture.draft(None, (2 * max(width, height), 2 * max(width, height)))
            picture.load()
            flat = _to_mode(_upright(picture), "L" if channels == 1 else "RGB")
    except InvalidImage:
        raise
    except UnidentifiedImageError:
        raise InvalidImage(
            f"not an image: {len(data)} bytes that are none of {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        raise InvalidImage(f"the image cannot be decoded: {error}") from error
    return fit_image(flat, height=height, width=width)


def refuse_large(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageTooLarge if width x height exceeds `max_pixels`."""
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image claims {width} x {height} = {width * height / 1e6:.1f} megapixels, "
            f"at most {max_pixels / 1e6:.1f} are accepted"
        )


def fit_image(picture: Image.Image, *, height: int, width: int) -> NDArray[np.uint8]:
    """Scale an L or RGB picture to cover height x width, cutting the overhang off evenly.

    A picture that has the size already keeps its exact pixels.

    Returns:
        image_CHW, uint8.
    """
    if picture.size != (width, height):
        scale = max(width / picture.width, height / picture.height)
        span_x, span_y = width / scale, height / scale
        left, top = (picture.width - span_x) / 2, (picture.height - span_y) / 2
        # Rounding must not carry the box over the edge.
        box = (max(left, 0.0), max(top, 0.0), left + span_x, top + span_y)
        box = (box[0], box[1], min(box[2], picture.width), min(box[3], picture.height))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
    pixels: NDArray[np.uint8] = np.asarray(picture, dtype=np.uint8)
    if pixels.ndim == 2:
        return np.array(pixels[None])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _refuse_costly(picture: Image.Image, data: bytes, max_pixels: int) -> None:
    """What would cost far more than the header's size tells."""
    if isinstance(picture, TiffImageFile):
        # Tiles are decoded whole, however little of them lies inside the picture.
        tile = [picture.tag_v2.get(tag, 1) for tag in (_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH)]
        refuse_large(int(tile[0]), int(tile[1]), max_pixels)
    elif picture.format == "JPEG":
        # A scan of a few bytes costs a pass over all pixels; real pictures have about ten. The two
        # bytes cannot be pixels: in these a 255 is always followed by a 0.
        scans = data.count(b"\xff\xda")
        if scans > MAX_SCANS:
            raise InvalidImage(f"the JPEG has {scans} scans, at most {MAX_SCANS} are accepted")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation: Any = picture.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return picture
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if method is None else picture.transpose(method)


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # convert("L") would clip at 255 instead of scaling.
        wide = np.asarray(picture.convert("I"), dtype=np.int32)
        picture = Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise InvalidImage(
            f"{'float' if picture.mode == 'F' else 'wide integer'} pixels have no agreed range; "
            "expected 8 or unsigned 16 bits per channel"
        )
    if picture.mode == "La":  # Pillow has no other way from it
        picture = picture.convert("LA")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        picture = Image.alpha_composite(white, rgba).convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)

"""What `predict` takes for a picture in Python: a path, bytes, a Pillow image, or an array.

Neither numpy nor Pillow is imported before there is something of theirs.
"""

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

from snapensemble.contracts.errors import InvalidConfig, InvalidData, InvalidImage
from snapensemble.contracts.files import read_picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Encoded: TypeAlias = bytes | bytearray | memoryview
Picture: TypeAlias = "str | os.PathLike[str] | Encoded | Image | NDArray[np.uint8]"

# Of Pillow's modes those that a PNG file keeps as they are; see `plain`.
_KEPT = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_WITHOUT_RANGE = {"I", "F"}  # the decoder refuses them as well
_WITH_ALPHA = {"PA", "RGBa"}
_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}


class BadPicture(InvalidData):
    """One picture cannot be answered; the message begins with its name.

    Attributes:
        index: its place among the pictures that were given, from 0.
        name: its path, or `picture 3` where it has none.
        reason: the error of whoever has refused it.
    """

    def __init__(self, index: int, name: str, reason: Exception, text: str | None = None) -> None:
        # Not by `super`: a client's error is of two kinds, whose arguments differ.
        InvalidData.__init__(self, f"{name}: {reason if text is None else text}")
        self.index = index
        self.name = name
        self.reason = reason


def as_several(pictures: "Picture | Iterable[Picture]") -> "tuple[Iterable[Picture], bool]":
    """The pictures one after another, and whether it is one that was given."""
    single = (str, os.PathLike, bytes, bytearray, memoryview)
    if isinstance(pictures, single) or _is_array_or_image(pictures):
        return [cast("Picture", pictures)], True
    if not isinstance(pictures, Iterable):
        raise InvalidConfig(
            "expected a picture (a path, bytes, a Pillow image, an array) or several, got "
            f"{type(pictures).__name__}"
        )
    return pictures, False


def name_of(picture: "Picture", index: int) -> str:
    """What messages call a picture."""
    if isinstance(picture, str | os.PathLike):
        return os.fspath(picture)
    return str(getattr(picture, "filename", "") or f"picture {index}")


def loaded(picture: "Picture") -> "bytes | Image":
    """The encoded bytes of a picture, or its pixels where it is decoded already.

    Raises:
        InvalidData: the file cannot be read.
        InvalidImage: the array is none of a picture, or there are no pixels.
    """
    if isinstance(picture, str | os.PathLike):
        try:
            return read_picture(Path(picture))
        except (OSError, ValueError) as error:  # ValueError: a character that no path has
            raise InvalidData(getattr(error, "strerror", None) or str(error)) from error
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if not _is_array_or_image(picture):
        raise InvalidImage(
            f"expected a path, bytes, a Pillow image or an array, got {type(picture).__name__}"
        )
    try:
        return plain(picture if _is_image(picture) else of_array(picture))
    except (InvalidImage, MemoryError):
        raise
    except Exception as error:  # Pillow and other people's arrays raise a dozen types
        raise InvalidImage(f"its pixels cannot be read: {error}") from error


def encoded(picture: "Picture") -> bytes:
    """The bytes of a picture; pixels become a PNG file, which loses nothing.

    Raises:
        InvalidData, InvalidImage: as for `loaded`.
    """
    found = loaded(picture)
    if isinstance(found, bytes):
        return found
    buffer = io.BytesIO()
    found.save(buffer, "PNG", compress_level=1, icc_profile=None)
    return buffer.getvalue()


def plain(image: "Image") -> "Image":
    """The upright image in a mode that a PNG file keeps, so that it is the same here and there.

    Raises:
        InvalidImage: its pixels have no agreed range, or there are none.
    """
    from PIL import ImageOps

    if image.mode in _WITHOUT_RANGE:
        raise InvalidImage(
            f"pixels of mode {image.mode} have no agreed range; give 8 or unsigned 16 bits"
        )
    image.load()
    if not image.width * image.height:
        raise InvalidImage(f"expected pixels, got {image.width} x {image.height}")
    try:
        upright = ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # a damaged Exif block says nothing about the pixels
        upright = image
    if upright.mode == "La":  # the only mode that Pillow converts it to
        upright = upright.convert("LA")
    if upright.mode in _KEPT:
        return upright
    return upright.convert("RGBA" if upright.mode in _WITH_ALPHA else "RGB")


def of_array(array: Any) -> "Image":
    """The picture of an array: height x width, grey, or with 1, 3 (RGB) or 4 (RGBA) channels.

    Raises:
        InvalidImage: the array has another shape or type.
    """
    import numpy as np
    from PIL import Image

    pixels = np.asarray(array)
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not pixels.size:
        raise InvalidImage(
            f"expected an array of uint8 from 0 to 255, got {pixels.dtype} of shape {pixels.shape}"
        )
    if not grey and (pixels.ndim != 3 or pixels.shape[2] not in _CHANNELS):
        raise InvalidImage(
            f"expected an array of height x width, or height x width x 1, 3 or 4 channels, got the "
            f"shape {pixels.shape}; several pictures are a list of arrays"
        )
    if not grey and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _is_array_or_image(picture: object) -> bool:
    # An image, which may be closed, encodes its pixels to show that it can be an array.
    return (
        _is_image(picture)
        or hasattr(picture, "__array_interface__")
        or hasattr(picture, "__array__")
    )


def _is_image(picture: object) -> "TypeGuard[Image]":
    module = sys.modules.get("PIL.Image")  # there is no image of it before it is imported
    return module is not None and isinstance(picture, module.Image)

"""Encoded bytes -> a picture of Pillow's, in the format that was scanned and within its time."""

import io
import time
from collections.abc import Callable

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from contracts.errors import ImageTooCostly, InvalidImage, TakesTime
from contracts.picture_cost import PictureCost
from contracts.picture_limits import Format, PictureLimits

# Pillow's own limit only warns up to twice its value. Every picture here has been scanned.
Image.MAX_IMAGE_PIXELS = None

# No other than the one whose format was scanned may look at the bytes.
_OPENERS: dict[Format, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": jpeg_factory,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
}
_NO_MEMORY = "out of memory error"  # Pillow's words where a decoder gets none


class TimedBytes(io.BytesIO):
    """A file in memory that ends with an error when its reader has used up its time.

    Decoders pull 64 KiB at a time, so what no header proves (deflated data that is all tables of
    codes) is cut off a few milliseconds late. Time is processor time of the reading thread.

    Args:
        data: the file.
        seconds: for the reader.
        too_late: the error.
    """

    def __init__(self, data: bytes, seconds: float, too_late: Exception) -> None:
        super().__init__(data)
        self._end = time.thread_time() + seconds
        self.too_late = too_late
        self.is_cut_off = False

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes, or the error."""
        if time.thread_time() > self._end:
            self.is_cut_off = True
            raise self.too_late
        return super().read(size)


def load_picture(
    data: bytes, cost: PictureCost, limits: PictureLimits, *, side: int, patience_s: float
) -> Image.Image:
    """A picture with its pixels.

    Args:
        data: the encoded picture.
        cost: what the scan of it has found.
        limits: what decoding may cost.
        side: what both sides must have at least; a JPEG may be reduced to about that.
        patience_s: processor time that the caller has.

    Raises:
        InvalidImage: damaged, or Pillow sees something else in it than the scan.
        ImageTooCostly: decoding took longer than the limits allow.
        TakesTime: longer than `patience_s`.
        MemoryError: there is no memory.
    """
    within_s = min(patience_s, limits.max_seconds)
    file = io.BytesIO(data)
    if cost.seconds + cost.doubt_s > within_s:
        file = TimedBytes(data, within_s, _too_late(cost, limits, patience_s))
    try:
        return _loaded(file, cost, side)
    except (InvalidImage, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        if isinstance(file, TimedBytes) and file.is_cut_off:
            raise file.too_late from None
        if _NO_MEMORY in str(error):
            raise MemoryError(str(error)) from error
        raise InvalidImage(f"the image cannot be decoded: {error}") from error


def _loaded(file: io.BytesIO, cost: PictureCost, side: int) -> Image.Image:
    """Nothing but calls of Pillow: what they raise is said to be the picture's fault."""
    picture = _OPENERS[cost.format](file)
    size = picture.size
    # An Exif orientation of a TIFF swaps what Pillow says, not what it decodes.
    if size != (cost.width, cost.height) and size != (cost.height, cost.width):
        raise InvalidImage(
            f"the image has two sizes: {cost.width} x {cost.height} and {size[0]} x {size[1]}"
        )
    picture.draft(None, (side, side))
    picture.load()
    return picture


def _too_late(cost: PictureCost, limits: PictureLimits, patience_s: float) -> Exception:
    if patience_s < limits.max_seconds:
        return TakesTime(limits.max_seconds, cost.memory)
    return ImageTooCostly(
        f"decoding the {cost.format} took more than {limits.max_seconds:.1f} s of processor time: "
        "its data is made to be slow; save it again"
    )

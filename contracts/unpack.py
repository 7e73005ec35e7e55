"""Encoded bytes -> a picture of Pillow's, in the format that was scanned and within its time."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from contracts.errors import ImageTooCostly, InvalidImage, TakesTime
from contracts.picture_cost import PictureCost
from contracts.picture_limits import PictureLimits

# Pillow's own limit only warns up to twice its value. Every picture here has been scanned.
Image.MAX_IMAGE_PIXELS = None

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
        self._too_late = too_late
        self.is_cut_off = False

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes, or the error."""
        if time.thread_time() > self._end:
            self.is_cut_off = True
            raise self._too_late
        return super().read(size)


@contextmanager
def open_picture(
    data: bytes, cost: PictureCost, limits: PictureLimits, *, side: int, patience_s: float
) -> Iterator[Image.Image]:
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
    too_late: Exception
    if patience_s < limits.max_seconds:
        too_late = TakesTime(limits.max_seconds, cost.memory)
    else:
        too_late = ImageTooCostly(
            f"decoding the {cost.format} took more than {limits.max_seconds:.1f} s of processor "
            "time: its data is made to be slow; save it again"
        )
    file = TimedBytes(data, min(patience_s, limits.max_seconds), too_late)
    with _reading(file, too_late, cost):
        picture = Image.open(file, formats=(cost.format,))
    with picture:
        with _reading(file, too_late, cost):
            # An Exif orientation of a TIFF swaps what Pillow says, not what it decodes.
            if {*picture.size} != {cost.width, cost.height}:
                raise InvalidImage(
                    f"the image has two sizes: {cost.width} x {cost.height} and "
                    f"{picture.width} x {picture.height}"
                )
            picture.draft(None, (side, side))
            picture.load()
        yield picture


@contextmanager
def _reading(file: TimedBytes, too_late: Exception, cost: PictureCost) -> Iterator[None]:
    """Say in the words of the product what Pillow raises; nothing else runs in here."""
    try:
        yield
    except (InvalidImage, MemoryError):
        raise
    except Exception as error:  # its decoders raise a dozen types on damaged files
        if file.is_cut_off:
            raise too_late from None
        if _NO_MEMORY in str(error):
            raise MemoryError(str(error)) from error
        if isinstance(error, UnidentifiedImageError):
            raise InvalidImage(f"the {cost.format} cannot be decoded: it is damaged") from None
        raise InvalidImage(f"the image cannot be decoded: {error}") from error

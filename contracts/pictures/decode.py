"""Decode a picture into the RGB or grey pixels of a frame.

The picture is opened in the format that was scanned and decoded within its time. A large one is
then taken in strips of upright rows, each made RGB or grey; their bands are gathered, a byte a
pixel, and reduced one by one: no second picture of its size is made, and nothing holds the
interpreter for long.
"""

import io
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage, TakesTime
from snapensemble.contracts.pictures.cost import STRIP_PIXELS, PictureCost
from snapensemble.contracts.pictures.fit import Fit, fitted
from snapensemble.contracts.pictures.limits import Format, PictureLimits

# Pillow's own limit only warns up to twice its value. Every picture here has been scanned.
Image.MAX_IMAGE_PIXELS = None

# A picture is decoded by the thread that asks, whose processor time is counted.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _heif_opener(file: io.BytesIO) -> Image.Image:
    """Open a HEIC picture. Its library is an extra, and large: it is loaded when it is needed."""
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1
    opened: Image.Image = pillow_heif.HeifImageFile(file)  # type: ignore[no-untyped-call]
    return opened


# Only the decoder of the format that was scanned may see the bytes.
_OPENERS: dict[Format, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": jpeg_factory,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
    "HEIF": _heif_opener,
}
_NO_MEMORY = "out of memory error"  # Pillow's message where a decoder gets no memory
_ROWS_PIXELS = STRIP_PIXELS // 4  # pixels in a strip of rows
_EXIF_ORIENTATION = 0x0112
_SAYS_ORIENTATION = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_ONLY_IN_INFO = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"}
_WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FROM_BELOW = (Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM)
_COLUMNS = (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270)
_COLUMNS_FROM_RIGHT = (Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90)


class TimedBytes(io.BytesIO):
    """A file in memory that ends with an error when its reader has used up its time.

    Decoders pull 64 KiB at a time, so what no header proves (deflated data that is all tables of
    codes) is cut off a few milliseconds late. Time is processor time of the reading thread.

    Args:
        data: the bytes of the file.
        seconds: the time that the reader has.
        too_late: the error that is raised after it.
    """

    def __init__(self, data: bytes, seconds: float, too_late: Exception) -> None:
        super().__init__(data)
        self._end = time.thread_time() + seconds
        self.too_late = too_late
        self.is_cut_off = False

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes, or the error where the time is used up."""
        if time.thread_time() > self._end:
            self.is_cut_off = True
            raise self.too_late
        return super().read(size)


def load_picture(
    data: bytes, cost: PictureCost, limits: PictureLimits, *, patience_s: float
) -> Image.Image:
    """Open a picture and decode its pixels.

    Args:
        data: the encoded picture.
        cost: what the scan of it has found.
        limits: what decoding may cost.
        patience_s: processor time that the caller has.

    Raises:
        InvalidImage: it is damaged, or Pillow sees something else in it than the scan.
        ImageTooCostly: decoding took longer than the limits allow.
        TakesTime: decoding took longer than `patience_s`.
        MemoryError: there is no memory.
    """
    within_s = min(patience_s, limits.max_seconds)
    file = io.BytesIO(data)
    if cost.seconds + cost.doubt_s > within_s:
        file = TimedBytes(data, within_s, _too_late(cost, limits, patience_s))
    try:
        return _loaded(file, cost)
    except (InvalidImage, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        if isinstance(file, TimedBytes) and file.is_cut_off:
            raise file.too_late from None
        if _NO_MEMORY in str(error):
            raise MemoryError(str(error)) from error
        raise InvalidImage(f"the image cannot be decoded: {error}") from error


def in_frame(
    picture: Image.Image, mode: str, *, height: int, width: int, fit: Fit
) -> NDArray[np.uint8]:
    """Scale a loaded picture into a frame of height x width.

    A picture that has the size already keeps its exact pixels.

    Args:
        picture: of any mode; its Exif orientation is applied.
        mode: "RGB" or "L".
        height: of the result, in pixels.
        width: of the result, in pixels.
        fit: how it comes into a frame of another shape, see `contracts.pictures.fit`.

    Returns:
        pixels_HWC for "RGB", pixels_HW for "L"; uint8.

    Raises:
        InvalidImage: the pixels have no agreed range.
    """

    def scaled(flat: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(fitted(flat, height=height, width=width, fit=fit), dtype=np.uint8)

    turn = _turn(picture)
    strips = picture.width * picture.height > STRIP_PIXELS and (
        turn is not None or picture.mode != mode or "transparency" in picture.info
    )
    if not strips:
        upright = picture if turn is None else picture.transpose(turn)
        return scaled(_to_mode(upright, mode))
    size = picture.size if turn not in _COLUMNS + _COLUMNS_FROM_RIGHT else picture.size[::-1]
    bands = [scaled(band) for band in _in_strips(picture, turn, mode, size)]
    return bands[0] if mode == "L" else np.stack(bands, axis=-1)


def _loaded(file: io.BytesIO, cost: PictureCost) -> Image.Image:
    """Call Pillow and nothing else: its errors count as the picture's fault."""
    picture = _OPENERS[cost.format](file)
    size = picture.size
    # An Exif orientation of a TIFF swaps what Pillow says, not what it decodes; a HEIC may be cut.
    is_cut = cost.format == "HEIF" and size[0] * size[1] <= cost.width * cost.height
    if size != (cost.width, cost.height) and size != (cost.height, cost.width) and not is_cut:
        raise InvalidImage(
            f"the image has two sizes: {cost.width} x {cost.height} and {size[0]} x {size[1]}"
        )
    if cost.reduction > 1:
        picture.draft(None, (size[0] // cost.reduction, size[1] // cost.reduction))
    picture.load()
    return picture


def _too_late(cost: PictureCost, limits: PictureLimits, patience_s: float) -> Exception:
    if patience_s < limits.max_seconds:
        return TakesTime(limits.max_seconds, cost.memory)
    return ImageTooCostly(
        f"decoding the {cost.format} took more than {limits.max_seconds:.1f} s of processor time: "
        "its data is made to be slow; save it again"
    )


def _in_strips(
    picture: Image.Image, turn: Image.Transpose | None, mode: str, size: tuple[int, int]
) -> Iterator[Image.Image]:
    """Yield the bands of the upright picture, which has this size, in this mode."""
    bands = range(len(mode))
    # Where nothing is computed, one band at a time costs less memory and hardly more time.
    is_mode = picture.mode == mode and "transparency" not in picture.info
    for together in [[band] for band in bands] if is_mode else [list(bands)]:
        planes = [Image.new("L", size) for _ in together]
        for at, strip in _upright_strips(picture, turn, size[1]):
            flat = _to_mode(strip, mode)
            for band, plane in zip(together, planes, strict=True):
                plane.paste(flat.getchannel(band), (0, at))
        while planes:
            yield planes.pop(0)


def _upright_strips(
    picture: Image.Image, turn: Image.Transpose | None, rows: int
) -> Iterator[tuple[int, Image.Image]]:
    """Yield strips of the upright picture's rows, each with the number of its first row."""
    by_columns = turn in _COLUMNS + _COLUMNS_FROM_RIGHT
    from_end = turn in _FROM_BELOW + _COLUMNS_FROM_RIGHT
    length, across = picture.size if by_columns else picture.size[::-1]
    step = max(1, _ROWS_PIXELS // across)
    for at in range(0, rows, step):
        end = min(at + step, rows)
        near, far = (length - end, length - at) if from_end else (at, end)
        part = (near, 0, far, across) if by_columns else (0, near, across, far)
        strip = picture.crop(part)
        yield at, strip if turn is None else strip.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    if picture.format in _ONLY_IN_INFO and not (_SAYS_ORIENTATION & picture.info.keys()):
        return None  # Pillow would find the same more slowly
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # a damaged Exif block says nothing about the pixels
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # convert("L") would clip at 255 instead of scaling.
        wide = np.asarray(_converted(picture, "I"), dtype=np.int32)
        picture = Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise InvalidImage(
            f"{'float' if picture.mode == 'F' else 'wide integer'} pixels have no agreed range; "
            "expected 8 or unsigned 16 bits per channel"
        )
    if picture.mode == "La":  # the only mode that Pillow converts it to
        picture = _converted(picture, "LA")
    if picture.mode in _WITH_ALPHA or "transparency" in picture.info:
        picture = _on_white(_converted(picture, "RGBA"))
    return picture if picture.mode == mode else _converted(picture, mode)


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB as `Image.alpha_composite` with white makes it, but other threads may run meanwhile."""
    opaque = picture.convert("RGB")
    if picture.getchannel("A").getextrema() == (255, 255):
        return opaque
    white = Image.new("RGB", picture.size, "white")
    white.paste(opaque, (0, 0), picture)
    return white


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    try:
        return picture.convert(mode)
    except (ValueError, TypeError) as error:  # no such conversion, or a damaged transparency
        raise InvalidImage(f"pixels of mode {picture.mode} cannot be shown: {error}") from error

"""What decoding a picture can cost, found in its bytes before any decoder sees them."""

import struct
from typing import NamedTuple

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage
from snapensemble.contracts.pictures.fit import Fit
from snapensemble.contracts.pictures.heif import scan_heif
from snapensemble.contracts.pictures.jpeg import scan_jpeg
from snapensemble.contracts.pictures.limits import NS, Format, PictureLimits, Scan
from snapensemble.contracts.pictures.others import scan_bmp, scan_gif, scan_webp
from snapensemble.contracts.pictures.png import SIGNATURE, scan_png
from snapensemble.contracts.pictures.tiff import MAGIC, scan_tiff

FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
# A larger picture is made RGB or grey in strips: there is no second copy, and work is in pieces.
STRIP_PIXELS = 1 << 20
_RESIZE, _TURN = 4, 2  # nanoseconds a pixel


class PictureCost(NamedTuple):
    """A bound on what decoding takes.

    Args:
        format: the only format in which the picture may be opened.
        width: in pixels, of the picture as it is stored.
        height: in pixels, of the picture as it is stored.
        seconds: processor time, unless the compressed data is made to be slow.
        doubt_s: seconds more if it is; `load_picture` cuts them off.
        memory: bytes needed at once, beside the encoded picture.
        reduction: the factor by which the decoder reduces the picture.
    """

    format: Format
    width: int
    height: int
    seconds: float
    doubt_s: float
    memory: int
    reduction: int = 1


def picture_cost(
    data: bytes, limits: PictureLimits, *, width: int, height: int, fit: Fit = "cover"
) -> PictureCost:
    """Bound what it costs to decode a picture into width x height pixels, fitted so.

    Raises:
        ImageTooLarge: the header claims more than `limits.max_pixels`.
        ImageTooCostly: decoding takes more of anything else than the limits allow.
        InvalidImage: the picture is empty, of another format, or its structure is damaged.
    """
    if not data:
        raise InvalidImage("the image is empty (0 bytes)")
    try:
        scan = _scan(data, limits, (width, height), fit)
    except (struct.error, IndexError):
        raise InvalidImage("the image is cut off in its header") from None
    total_s = scan.seconds + scan.flatten_s + scan.decoded * (_RESIZE + _TURN) * NS
    if total_s > limits.max_seconds:
        raise ImageTooCostly(
            f"decoding the image would take {total_s:.1f} s of processor time ({scan.format}, "
            f"{scan.why}), at most {limits.max_seconds:.1f} s are accepted; save it smaller, or as "
            "a baseline JPEG"
        )
    memory = _memory(scan, width)
    if memory > limits.max_memory:
        raise ImageTooCostly(
            f"decoding the image would take {memory / 2**20:.0f} MiB ({scan.format}, {scan.why}), "
            f"at most {limits.max_memory / 2**20:.0f} MiB are accepted; save it smaller"
        )
    size = scan.width, scan.height
    return PictureCost(scan.format, *size, total_s, scan.doubt_s, memory, scan.reduction)


def _scan(data: bytes, limits: PictureLimits, target: tuple[int, int], fit: Fit) -> Scan:
    if data.startswith(b"\xff\xd8\xff"):
        return scan_jpeg(data, limits, target, fit)
    if data.startswith(SIGNATURE):
        return scan_png(data, limits)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return scan_webp(data, limits)
    if data.startswith(b"BM"):
        return scan_bmp(data, limits)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return scan_gif(data, limits)
    if data.startswith(MAGIC):
        return scan_tiff(data, limits)
    if data[4:8] == b"ftyp":
        return scan_heif(data, limits)
    raise InvalidImage(f"not an image: {len(data)} bytes that are none of {', '.join(FORMATS)}")


def _memory(scan: Scan, target_width: int) -> int:
    """Bytes at once, of pixels, planes, row pointers, the decoder, strips and reduced rows."""
    rows = max(scan.width, scan.height) * 48
    strip = min(scan.decoded, STRIP_PIXELS) * 24
    reduced = min(scan.decoded, max(scan.width, scan.height) * target_width) * 4
    # The memory of the decoder is free again when the planes are made.
    planes = max(scan.memory, scan.decoded * scan.planes)
    return scan.decoded * scan.pixel_bytes + planes + rows + strip + reduced

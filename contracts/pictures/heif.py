"""What an AVIF or HEIC picture costs: its boxes are bounded, and every frame in them is counted."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage
from snapensemble.contracts.pictures.av1 import scan_av1
from snapensemble.contracts.pictures.boxes import BoxFile
from snapensemble.contracts.pictures.directory import refuse_costly_exif
from snapensemble.contracts.pictures.hevc import scan_hevc
from snapensemble.contracts.pictures.limits import NS, Coded, Format, PictureLimits, Scan

READS_HEIC = find_spec("pillow_heif") is not None
HEIC_EXTRA = "snapensemble[heic]"

# Nanoseconds, rounded up; those of AVIF as measured, those of HEIC not measured yet.
_PER_SHOWN_PIXEL, _FLATTEN, _PER_ENTRY = 12, 13, 1_000
# Pillow decodes AVIF without letting other threads run: all of a server waits.
_MAX_HELD_S = 0.1


class _Codec(NamedTuple):
    """A kind of coded data, and what a pixel and a byte of it take."""

    format: Format
    kind: bytes
    scan: Callable[[bytes, PictureLimits, Sequence[bytes]], Coded]
    per_pixel: float
    per_byte: float
    holds: bool  # others wait meanwhile


_AVIF = _Codec("AVIF", b"av01", scan_av1, 20, 90, holds=True)
_HEIC = _Codec("HEIF", b"hvc1", scan_hevc, 45, 150, holds=False)


def scan_heif(data: bytes, limits: PictureLimits) -> Scan:
    """Add up what decoder, container library and Pillow would do.

    Everything that is coded counts, whether it is the picture, its transparency or a preview: which
    of it is decoded would follow from many boxes.

    Args:
        data: begins with a box of file types.
        limits: what is accepted.

    Raises:
        InvalidImage: the boxes are damaged, or hold no picture, or one that is not read here.
        ImageTooLarge: too many pixels.
        ImageTooCostly: too many boxes, items or frames, or Exif that is made to be slow.
    """
    file = BoxFile(data, limits)
    codec = _codec(file.brands)
    # As libavif chooses; libheif always takes the item.
    is_track = codec is _AVIF and file.brands[0] != b"avif"
    size = (is_track and file.track_size) or file.size
    if size is None or not size[0] * size[1]:
        raise InvalidImage(f"the {codec.format} does not say how large it is")
    for each in (*file.sizes, size):
        limits.refuse_pixels(*each)
    pixels = size[0] * size[1]
    coded_pixels = coded_bytes = units = parts = 0
    held = 0.0
    for item in file.items:
        if b"Exif" in item.kinds:
            refuse_costly_exif(item.data[4:], limits)
        if codec.kind in item.kinds:
            coded = codec.scan(item.data, limits, file.configurations)
            coded_pixels += coded.pixels * item.uses
            coded_bytes += len(item.data) * item.uses
            held += coded.held * item.uses
            parts += 1
            units += coded.units
            limits.refuse_more(units, limits.max_parts, "{} coded units and more", "save one frame")
    if not parts:
        raise InvalidImage(f"the {codec.format} holds no {codec.kind.decode()} data")
    seconds = (coded_pixels * codec.per_pixel + coded_bytes * codec.per_byte) * NS
    if codec.holds and seconds > _MAX_HELD_S * limits.max_seconds / PictureLimits().max_seconds:
        raise ImageTooCostly(
            f"the {codec.format}'s {coded_pixels / 1e6:.1f} megapixels in {coded_bytes:,} bytes "
            "take too long to decode, and nothing else could be done meanwhile; save it smaller, "
            "or as a JPEG"
        )
    return Scan(
        format=codec.format,
        width=size[0],
        height=size[1],
        pixel_bytes=4,
        decoded=pixels,
        seconds=seconds + (pixels * _PER_SHOWN_PIXEL + file.entries * _PER_ENTRY) * NS,
        # The frames, what they are put together to, and two copies for Pillow.
        memory=int(held) + pixels * (4 + 6 + 2),
        planes=3,
        flatten_s=pixels * (_FLATTEN if parts > 1 else 1) * NS,
        why=f"{coded_pixels / 1e6:.1f} megapixels of {codec.kind.decode()}",
    )


def _codec(brands: tuple[bytes, ...]) -> _Codec:
    if brands[0] in (b"avif", b"avis"):
        return _AVIF
    if brands[0] in (b"mif1", b"msf1") and (b"avif" in brands or b"avis" in brands):
        return _AVIF
    if brands[0] not in (b"heic", b"heix", b"mif1"):
        name = brands[0].decode("latin-1")
        raise InvalidImage(f"a file of the kind {name!r}, expected an AVIF or a HEIC picture")
    if not READS_HEIC:
        raise InvalidImage(f"the image is HEIC, which is read with an extra: install {HEIC_EXTRA}")
    return _HEIC

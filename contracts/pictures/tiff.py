"""What a TIFF costs, from the tags of its first picture: its strips or tiles, and their codec."""

import math
import struct

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage
from snapensemble.contracts.pictures.directory import Directory
from snapensemble.contracts.pictures.jpeg import ARITHMETIC_FRAME, pass_rate
from snapensemble.contracts.pictures.limits import NS, PictureLimits, Scan

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*")  # as Pillow accepts them
_WIDTH, _LENGTH, _BITS, _CODEC, _COLOUR = 256, 257, 258, 259, 262
_OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANES = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_EXTRA = 338
# Directories that Pillow reads when the pixels are there; the last lies in the first.
_INNER = (34665, 34853, 40965)
_RAW, _OLD_JPEG, _JPEG, _LZMA, _ZSTD = 1, 6, 7, 34925, 50000

# Nanoseconds for a raw byte and for an encoded one, as measured, rounded up.
_CODECS = {
    1: (1, 1), 32771: (2, 1), 5: (3, 5), 8: (4, 110), 32946: (4, 110), 32773: (2, 4),
    2: (100, 30), 3: (100, 30), 4: (100, 30), 6: (5, 12), 7: (5, 12), 50000: (4, 60),
    50001: (12, 12),
}  # fmt: skip
_OTHER_CODEC = (25, 30)
_PER_STRIP, _PER_TAG, _PER_PIXEL = 15_000, 30_000, 2
_ZSTD_WINDOW = 1 << 27


def scan_tiff(data: bytes, limits: PictureLimits) -> Scan:
    """Add up what libtiff and Pillow would do; raises what `scan_png` raises."""
    tags = _directory(data, limits)
    width, height = tags.integer(_WIDTH, 0), tags.integer(_LENGTH, 0)
    if width <= 0 or height <= 0:
        raise InvalidImage("the TIFF does not say how large it is")
    limits.refuse_pixels(width, height)
    samples = tags.integer(_SAMPLES, 3 if tags.count(_BITS) == 3 else 1)
    bits = max(tags.integers(_BITS), default=1)
    if not (0 < samples <= 6 and 0 < bits <= 64):
        raise InvalidImage(f"the TIFF has {samples} samples of {bits} bits, expected RGB or grey")
    codec = tags.integer(_CODEC, 1)
    if codec == _LZMA:
        raise ImageTooCostly(
            "the TIFF is compressed by LZMA, whose memory nothing bounds; save it with Deflate"
        )
    planes = samples if tags.integer(_PLANES, 1) == 2 else 1
    pieces, area = _pieces(tags, width, height, planes, limits)
    per_raw, per_encoded = _CODECS.get(codec, _OTHER_CODEC)
    raw = area * pieces * -(-samples // planes) * bits / 8
    encoded = _encoded(data, tags, codec, pieces)
    passes_s = 0.0
    if codec in (_OLD_JPEG, _JPEG):
        rate = pass_rate(data, arithmetic=ARITHMETIC_FRAME.search(data) is not None)
        passes_s = _jpeg_passes(data, tags, area * samples / 64, limits) * rate * NS
    pixels = width * height
    return Scan(
        format="TIFF",
        width=width,
        height=height,
        pixel_bytes=_pixel_bytes(samples, bits),
        decoded=pixels,
        seconds=(pieces * _PER_STRIP + len(tags.tags) * _PER_TAG + pixels * _PER_PIXEL) * NS
        + (raw * per_raw + encoded * per_encoded) * NS
        + passes_s,
        # A whole strip or tile, and a second where planes or colours are converted.
        memory=int(area * max(4, samples * bits / 8)) * (1 if codec == _RAW else 2)
        + (_ZSTD_WINDOW if codec == _ZSTD else 0)
        + (1 << 20),
        planes=1 if samples == 3 else 3,
        flatten_s=pixels * (13 if tags.count(_EXTRA) or samples in (2, 4) else 3) * NS,
        why=f"{raw / 1e6:.0f} MB of pixels in {pieces:,} strips or tiles",
    )


def _directory(data: bytes, limits: PictureLimits) -> Directory:
    """The first directory; raises ImageTooCostly for one that it points to as well."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2] == 43
    if len(data) < 16:
        raise InvalidImage("the TIFF is cut off in its header")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    tags = Directory(data, at, order, limits, big=big)
    pending = [inner for number in _INNER for inner in tags.integers(number)]
    for depth in range(2):
        limits.refuse_more(len(pending), 8, "{} inner directories", "save it again")
        found = [
            Directory(data, inner, order, limits, big=big)
            for inner in pending
            if inner + 8 <= len(data)
        ]
        pending = [x for each in found for number in _INNER for x in each.integers(number)]
        pending = pending if depth == 0 else []
    return tags


def _pieces(
    tags: Directory, width: int, height: int, planes: int, limits: PictureLimits
) -> tuple[int, int]:
    """How many strips or tiles are decoded, and the pixels in each."""
    if _OFFSETS in tags.tags:
        rows = min(max(1, tags.integer(_ROWS, height)), height)
        needed, area, listed = math.ceil(height / rows), rows * width, tags.count(_OFFSETS)
    else:
        wide, high = tags.integer(_TILE_WIDTH, 0), tags.integer(_TILE_LENGTH, 0)
        if wide <= 0 or high <= 0:
            raise InvalidImage("the TIFF has neither strips nor tiles")
        # Tiles are decoded whole, however little of them lies inside the picture.
        limits.refuse_pixels(wide, high)
        needed = math.ceil(width / wide) * math.ceil(height / high)
        area, listed = wide * high, tags.count(_TILE_OFFSETS)
    needed *= planes
    # Pillow decodes all that are listed, and libtiff all that are needed.
    pieces = max(needed, listed)
    limits.refuse_more(pieces, 2 * limits.max_parts, "{} strips or tiles", "save it with fewer")
    # A little more than the picture: tiles reach over its edges.
    if pieces * area > 4 * max(width * height * planes, 1 << 16) and (
        pieces * area > limits.max_pixels
    ):
        raise ImageTooCostly(
            f"the TIFF's {pieces:,} strips or tiles have {pieces * area / 1e6:.0f} megapixels, the "
            f"picture has {width * height / 1e6:.1f}; save it again"
        )
    return pieces, area


def _encoded(data: bytes, tags: Directory, codec: int, pieces: int) -> int:
    """Bytes that the codec reads; strips that lie on one another are read several times."""
    if codec == _RAW:
        return len(data)
    sizes = list(tags.integers(_COUNTS if _OFFSETS in tags.tags else _TILE_COUNTS))
    if not sizes:
        sizes = [len(data)] * pieces
    total = sum(min(size, len(data)) for size in sizes)
    if total > 2 * len(data) + 4096:
        raise ImageTooCostly(
            f"the TIFF's strips or tiles are {total:,} bytes in a file of {len(data):,}: they lie "
            "on one another; save it again"
        )
    return total


def _jpeg_passes(data: bytes, tags: Directory, blocks: float, limits: PictureLimits) -> float:
    """Blocks times scans, summed over the JPEGs in strips or tiles."""
    striped = _OFFSETS in tags.tags
    offsets = list(tags.integers(_OFFSETS if striped else _TILE_OFFSETS))
    sizes = list(tags.integers(_COUNTS if striped else _TILE_COUNTS))
    if tags.integer(_CODEC, 1) == _OLD_JPEG or len(sizes) != len(offsets):
        offsets, sizes = [0], [len(data)]
    passes = 0.0
    for offset, size in zip(offsets, sizes, strict=True):
        scans = data.count(b"\xff\xda", offset, offset + size)
        limits.refuse_more(scans, limits.max_scans, "{} scans in one strip", "save it again")
        passes += max(1, scans) * blocks
    return passes


def _pixel_bytes(samples: int, bits: int) -> int:
    if samples == 1:
        return 1 if bits <= 8 else 4 if bits > 16 else 2
    return 4

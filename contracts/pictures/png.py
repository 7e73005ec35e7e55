"""What a PNG costs, from its chunks: no pixel is inflated."""

import struct

from snapensemble.contracts.errors import InvalidImage
from snapensemble.contracts.pictures.directory import refuse_costly_exif
from snapensemble.contracts.pictures.limits import NS, PictureLimits, Scan

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Samples per pixel, by colour type.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_INFLATED = (b"zTXt", b"iTXt", b"iCCP")  # each up to 1 MiB
_TEXTS = (*_INFLATED, b"tEXt")

# Nanoseconds, as measured, rounded up. A deflated byte takes 8, but 110 if the data is many tables
# of codes and no pixels.
_PER_CHUNK, _PER_BYTE, _PER_BYTE_OF_TABLES, _PER_RAW_BYTE, _INTERLACED = 6_000, 9, 110, 3.5, 6
_PER_TEXT, _PER_RAW_PROFILE = 4_000_000, 300_000_000


def scan_png(data: bytes, limits: PictureLimits) -> Scan:
    """Add up what zlib and Pillow would do.

    Args:
        data: begins with `SIGNATURE`.
        limits: what is accepted.

    Raises:
        InvalidImage: the chunks are damaged.
        ImageTooLarge: too many pixels.
        ImageTooCostly: too many chunks or texts, or Exif that is made to be slow.
    """
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise InvalidImage("the PNG does not begin with a whole header")
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    limits.refuse_pixels(width, height)
    if depth not in _DEPTHS.get(colour, ()) or not width * height:
        raise InvalidImage(
            f"the PNG claims {width} x {height} pixels of {depth} bits and colour type {colour}, "
            "which no PNG has"
        )
    chunks = texts = profiles = 0
    transparent = colour in (4, 6)
    at = 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        chunks += 1
        if chunks > limits.max_parts:
            limits.refuse_more(
                chunks, limits.max_parts, "{} chunks and more",
                "save it again without metadata, with its pixels in larger chunks",
            )  # fmt: skip
        if kind == b"IEND":
            break
        if kind != b"IDAT":
            if kind == b"IHDR" and at > 8:
                raise InvalidImage("the PNG has two headers")
            transparent = transparent or kind == b"tRNS"
            if kind == b"eXIf":
                refuse_costly_exif(data[at + 8 : at + 8 + length], limits)
            elif kind in _TEXTS:
                name = data[at + 8 : at + 8 + min(length, 80)].split(b"\0", 1)[0]
                texts += kind in _INFLATED
                profiles += name == b"Raw profile type exif"
                if kind == b"tEXt" and name == b"exif":
                    refuse_costly_exif(data[at + 13 : at + 8 + length], limits)
        at += 12 + length
    limits.refuse_more(
        texts, limits.max_texts, "{} compressed texts and profiles",
        "save it again without metadata",
    )  # fmt: skip
    pixels = width * height
    raw = height * (1 + -(-width * depth * _SAMPLES[colour] // 8))
    per_raw = _INTERLACED if interlaced else _PER_RAW_BYTE
    # What is deflated cannot be longer than the pixels and a little for each block.
    deflated = min(len(data), raw + 10_000)
    return Scan(
        format="PNG",
        width=width,
        height=height,
        pixel_bytes=_pixel_bytes(depth, colour),
        decoded=pixels,
        seconds=(chunks * _PER_CHUNK + deflated * _PER_BYTE + raw * per_raw) * NS
        + (texts * _PER_TEXT + bool(profiles) * _PER_RAW_PROFILE + 3 * pixels) * NS,
        doubt_s=len(data) * (_PER_BYTE_OF_TABLES - _PER_BYTE) * NS,
        memory=(texts << 20) + 2 * (raw // height) + (1 << 18),
        planes=3 if transparent or colour == 3 or depth == 16 else 1,
        flatten_s=pixels * (13 if transparent else 8 if depth == 16 else 1) * NS,
        why=f"{raw / 1e6:.0f} MB of pixels",
    )


def _pixel_bytes(depth: int, colour: int) -> int:
    if colour in (0, 3):
        return 2 if depth == 16 else 1
    return 4

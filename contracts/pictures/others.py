"""What WebP, GIF and BMP pictures cost, from their headers and blocks."""

import struct

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage
from snapensemble.contracts.pictures.directory import refuse_costly_exif
from snapensemble.contracts.pictures.limits import NS, PictureLimits, Scan

_WEBP_PER_PIXEL, _WEBP_PER_BYTE, _WEBP_PER_CHUNK = 22, 36, 200
_WEBP_CANVASES = 3  # of 4 bytes a pixel, beside Pillow's own: two of the animation, and a copy
_GIF_PER_PIXEL, _GIF_PER_BYTE, _GIF_PER_BLOCK = 6, 8, 1_000
_BMP_PER_PIXEL, _BMP_PER_RUN_PIXEL, _BMP_PER_RUN_BYTE = 4, 150, 400
_MAX_RUN_S = 0.1  # of Python, which nothing else in the process can use meanwhile
_FLATTEN = 13


def scan_webp(data: bytes, limits: PictureLimits) -> Scan:
    """Scan the chunks of a WebP's container; raises what `scan_png` raises."""
    if len(data) < 25:
        raise InvalidImage("the WebP is cut off in its header")
    width, height = _webp_size(data[12:16], data, 20)
    chunks, at, end = 0, 12, len(data)
    while at + 8 <= end:
        kind = data[at : at + 4]
        (length,) = struct.unpack_from("<I", data, at + 4)
        chunks += 1
        limits.refuse_more(chunks, limits.max_parts, "{} chunks and more", "save one frame")
        if kind in (b"VP8 ", b"VP8L"):
            if at + (13 if kind == b"VP8L" else 18) <= end:
                own = _webp_size(kind, data, at + 8)
                width, height = max(width, own[0]), max(height, own[1])
        elif kind == b"EXIF":
            refuse_costly_exif(data[at + 8 : at + 8 + length], limits)
        at += 8 + length + (length & 1)
    if not width * height:
        raise InvalidImage("the WebP has no pixels")
    limits.refuse_pixels(width, height)
    pixels = width * height
    return Scan(
        format="WEBP",
        width=width,
        height=height,
        pixel_bytes=4,
        decoded=pixels,
        seconds=(pixels * _WEBP_PER_PIXEL + end * _WEBP_PER_BYTE + chunks * _WEBP_PER_CHUNK) * NS,
        memory=pixels * 4 * _WEBP_CANVASES,
        planes=1 if data[12:16] == b"VP8 " else 3,
        flatten_s=0.0 if data[12:16] == b"VP8 " else pixels * _FLATTEN * NS,
        why=f"{width * height / 1e6:.1f} megapixels",
    )


def _webp_size(kind: bytes, data: bytes, at: int) -> tuple[int, int]:
    if kind == b"VP8X":
        wide, high = data[at + 4 : at + 7], data[at + 7 : at + 10]
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[at + 1 : at + 5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, at + 6)
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidImage(f"the WebP begins with {kind!r}, expected pixels or an extended header")


def scan_gif(data: bytes, limits: PictureLimits) -> Scan:
    """Scan the blocks of a GIF before its first frame; raises what `scan_png` raises."""
    if len(data) < 13:
        raise InvalidImage("the GIF is cut off in its header")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    blocks, transparent = 0, False
    while at < len(data) and data[at] not in b",;":
        extension = data[at] == 0x21
        at += 2 if extension else 1  # Pillow passes over what begins no block
        blocks += 1
        while extension and at < len(data) and data[at]:
            transparent = transparent or (data[at] >= 4 and bool(data[at + 1 : at + 2] > b"\0"))
            at += 1 + data[at]
            blocks += 1
            if blocks > limits.max_parts:
                break
        at += extension
        if blocks > limits.max_parts:
            limits.refuse_more(
                blocks, limits.max_parts,
                "{} blocks and more before its first frame",
                "save it again without comments",
            )  # fmt: skip
    if at + 10 > len(data) or data[at] != 0x2C:
        raise InvalidImage("the GIF has no frame")
    left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
    width, height = max(width, left + wide), max(height, top + high)
    limits.refuse_pixels(width, height)
    pixels = width * height
    return Scan(
        format="GIF",
        width=width,
        height=height,
        pixel_bytes=1,
        decoded=pixels,
        seconds=(pixels * _GIF_PER_PIXEL + len(data) * _GIF_PER_BYTE + blocks * _GIF_PER_BLOCK)
        * NS,
        memory=1 << 17,
        planes=3,
        flatten_s=pixels * (_FLATTEN if transparent else 1) * NS,
        why=f"{pixels / 1e6:.1f} megapixels",
    )


def scan_bmp(data: bytes, limits: PictureLimits) -> Scan:
    """Scan the header of a BMP; raises what `scan_png` raises."""
    (size,) = struct.unpack_from("<I", data, 14)
    compression = 0
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif size in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, compression = struct.unpack_from("<IIHHI", data, 18)
        if height >> 24 == 255:  # upside down
            height = (1 << 32) - height
    else:
        raise InvalidImage(f"the BMP's header has {size} bytes, which no version has")
    if not width * height:
        raise InvalidImage("the BMP has no pixels")
    limits.refuse_pixels(width, height)
    pixels = width * height
    seconds = (pixels * _BMP_PER_PIXEL + len(data)) * NS + 0.02  # for a palette of 65,536 colours
    memory = 1 << 18
    if compression in (1, 2):
        run_s = (pixels * _BMP_PER_RUN_PIXEL + len(data) * _BMP_PER_RUN_BYTE) * NS
        if run_s > _MAX_RUN_S * limits.max_seconds / PictureLimits().max_seconds:
            raise ImageTooCostly(
                f"the BMP is run-length encoded, which is slow to decode: {pixels:,} pixels and "
                f"{len(data):,} bytes are too many; save it without compression, or as PNG"
            )
        seconds, memory = seconds + run_s, memory + 3 * pixels
    elif compression not in (0, 3):
        raise InvalidImage(f"the BMP's compression is {compression}, expected 0 to 3")
    return Scan(
        format="BMP",
        width=width,
        height=height,
        pixel_bytes=1 if bits <= 8 else 4,
        decoded=pixels,
        seconds=seconds,
        memory=memory,
        planes=1 if bits in (16, 24) else 3,
        flatten_s=pixels * (_FLATTEN if bits == 32 and compression == 3 else 1) * NS,
        why=f"{pixels / 1e6:.1f} megapixels",
    )

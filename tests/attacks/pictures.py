"""Builders of pictures that are small to send and made to be costly to decode."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

PIXELS = 6_324  # 6,324 x 6,324 are just 40 megapixels


def saved(kind: str, mode: str = "L", size: tuple[int, int] = (16, 16), **options: Any) -> bytes:
    """A small picture without any trick."""
    buffer = io.BytesIO()
    Image.new(mode, size, 100).save(buffer, kind, **options)
    return buffer.getvalue()


def segment(marker: int, data: bytes) -> bytes:
    """One segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(segments: bytes, **options: Any) -> bytes:
    """A JPEG with more segments at its beginning."""
    data = saved("JPEG", **options)
    return data[:2] + segments + data[2:]


def jpeg_claiming(
    width: int, height: int, *, frame: int | None = None, scans: int = 0, restarts: bool = False,
    **options: Any,
) -> bytes:  # fmt: skip
    """A JPEG whose header claims any size, with more scans of a few bytes each."""
    data = bytearray(saved("JPEG", **options))
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    if frame is not None:
        data[at + 1] = frame
    first = data.index(b"\xff\xda")
    again = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00")
    interval = segment(0xDD, b"\0\1") if restarts else b""
    return bytes(data[:first]) + interval + bytes(data[first:-2]) + again * scans + b"\xff\xd9"


def mpo_index(frames: int = 2) -> bytes:
    """The segment that makes an MPO of a JPEG."""
    entries = struct.pack("<LLLHH", 0x030000, 100, 0, 0, 0) * frames
    tags = struct.pack("<HHLL", 0xB001, 4, 1, frames)
    tags += struct.pack("<HHLL", 0xB002, 7, len(entries), 8 + 2 + 24 + 4)
    return segment(0xE2, b"MPF\0II*\0" + struct.pack("<LH", 8, 2) + tags + b"\0\0\0\0" + entries)


def exif_of(tags: int, *, kind: int, values: int) -> bytes:
    """Exif data of many tags whose values all take the same bytes."""
    entries = b"".join(struct.pack("<HHII", 0x0112 + n, kind, values, 8) for n in range(tags))
    body = struct.pack("<H", tags) + entries + b"\0\0\0\0"
    size = {5: 8, 3: 2, 7: 1}[kind] * values
    return b"II*\0" + struct.pack("<I", 8) + body + bytes(max(0, size - len(body) + 8))


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 0, interlaced: int = 0,
    before: bytes = b"", pixels: bytes | None = None, idat: int = 1 << 30,
) -> bytes:  # fmt: skip
    """A PNG with any header, with chunks before its pixels, these cut into chunks of `idat`."""
    if pixels is None:
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        deflate = zlib.compressobj(9)
        rows = bytes(1 + -(-width * depth * samples // 8)) * min(64, 2 * height)
        pixels = b"".join(deflate.compress(rows) for _ in range(-(-height // 64)))
        pixels += deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = b"".join(chunk(b"IDAT", pixels[at : at + idat]) for at in range(0, len(pixels), idat))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + before + data
        + chunk(b"IEND", b"")
    )  # fmt: skip


def tables_of_codes(size: int) -> bytes:
    """A deflate stream of blocks that each hold tables of codes and not one byte of data."""
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend(value >> place & 1 for place in range(count))

    def code(value: int, count: int) -> None:
        bits.extend(value >> place & 1 for place in reversed(range(count)))

    lengths = {**dict.fromkeys(range(19), 4), **dict.fromkeys((16, 17, 9, 13, 14, 15), 5)}
    ordered = sorted((length, symbol) for symbol, length in lengths.items())
    codes, value, previous = {}, 0, 4
    for length, symbol in ordered:
        value <<= length - previous
        codes[symbol], previous = (value, length), length
        value += 1
    for number, count in ((0, 1), (2, 2), (0, 5), (29, 5), (15, 4)):
        put(number, count)
    for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15):
        put(lengths[symbol], 3)
    for length in range(1, 10):  # literals 0 to 8, and the end of the block
        code(*codes[length])
    for zeros in (138, 109):
        code(*codes[18])
        put(zeros - 11, 7)
    code(*codes[9])
    for length in [*range(1, 15), 15, 15]:
        code(*codes[length])
    for _ in range(14):
        code(*codes[0])
    code(0b111111111, 9)
    eight = bits * 8
    block = bytes(
        sum(bit << k for k, bit in enumerate(eight[at : at + 8])) for at in range(0, len(eight), 8)
    )
    return b"\x78\x01" + block * (size // len(block))


def gif(width: int, height: int, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A GIF that claims any size, with blocks before and after its one frame."""
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08" + b"\x02\x00\x01\x00"
    return head + before + frame + after + b";"


def bmp(width: int, height: int, compression: int, bits: int, data: bytes) -> bytes:
    """A BMP with any header."""
    info = struct.pack("<IiiHHIIIIII", 40, width, height, 1, bits, compression, 0, 0, 0, 2, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 8) + info + bytes(8) + data


def tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of (type, count, value or place) by tag; `data` begins at byte 8."""
    entries = b"".join(struct.pack(order + "HHII", tag, *tags[tag]) for tag in sorted(tags))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return start + data + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0"


def striped(
    width: int, height: int, *, codec: int = 1, strips: int = 1, rows: int | None = None,
    strip: bytes = b"", more: dict[int, tuple[int, int, int]] | None = None,
) -> bytes:  # fmt: skip
    """A grey TIFF whose strips all are the same bytes."""
    places = struct.pack(f"<{strips}I", *[8 + 8 * strips] * strips)
    sizes = struct.pack(f"<{strips}I", *[len(strip)] * strips)
    one = strips == 1
    return tiff(
        {
            256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, codec),
            262: (3, 1, 1), 277: (3, 1, 1), 278: (4, 1, height if rows is None else rows),
            273: (4, strips, 8 + 8 if one else 8),
            279: (4, strips, len(strip) if one else 8 + 4 * strips), **(more or {}),
        },
        places + sizes + strip,
    )  # fmt: skip


def webp_chunks(canvas: tuple[int, int], chunks: bytes) -> bytes:
    """A WebP with an extended header that claims any canvas."""
    width, height = canvas
    header = struct.pack("<I", 0x02) + (width - 1).to_bytes(3, "little")
    header += (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + header + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_frame(picture: bytes) -> bytes:
    """An animation's frame of 16 x 16 pixels from a still WebP."""
    pixels = picture[12:]
    head = bytes(6) + (15).to_bytes(3, "little") * 2 + bytes(4)
    return b"ANMF" + struct.pack("<I", len(head) + len(pixels)) + head + pixels

"""What a JPEG costs, from its segments: no entropy-coded byte is decoded.

Pillow reads every segment before the first scan in Python, and libjpeg passes over all pixels for
every scan, however short it is. Frames of an MPO are JPEGs behind one another; all are counted.
"""

import math
import re
import struct

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage
from snapensemble.contracts.pictures.directory import refuse_costly_exif
from snapensemble.contracts.pictures.fit import Fit, reduction
from snapensemble.contracts.pictures.limits import NS, PictureLimits, Scan

SAVE_ANEW = "save it again without metadata"
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and RST0 to RST7 have no length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ARITHMETIC = frozenset(range(0xC9, 0xD0))
ARITHMETIC_FRAME = re.compile(rb"\xff[\xc9-\xcb\xcd-\xcf]")
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_SOI, _EOI, _SOS, _DQT, _APP1, _APP2 = 0xD8, 0xD9, 0xDA, 0xDB, 0xE1, 0xE2
_MAX_TABLE_BYTES, _MAX_EXIF_BYTES, _MAX_RESOURCES = 16_384, 1 << 20, 10_000

# Nanoseconds, as measured, rounded up.
_PER_SEGMENT, _PER_BYTE, _PER_PROGRESSIVE_BYTE = 5_000, 12, 32
_PER_BLOCK_AND_SCAN, _WITH_RESTARTS, _WITH_ARITHMETIC = 45, 60, 1_500
_LOSSLESS_RATE = 1_000
_PER_BLOCK, _PER_PIXEL = 90, 4


def scan_jpeg(data: bytes, limits: PictureLimits, target: tuple[int, int], fit: Fit) -> Scan:
    """Add up what libjpeg and Pillow would do.

    Args:
        data: begins as a JPEG does.
        limits: what is accepted.
        target: width and height that the pixels are reduced to; libjpeg does a part of it.
        fit: how they come into it.

    Raises:
        InvalidImage: the segments are damaged.
        ImageTooLarge: too many pixels.
        ImageTooCostly: too many segments, scans or bytes of metadata.
    """
    head = _Head(data, limits)
    width, height = head.width, head.height
    limits.refuse_pixels(width, height)
    blocks, all_blocks = _blocks(head)
    scans = _scans(data, head.first_scan, limits)
    passes = sum(blocks.get(component, 0) for scan in scans for component in scan)
    part = data if len(scans) > 1 else data[: head.first_scan]  # restarts are set before a scan
    rate = pass_rate(part, arithmetic=head.frame in _ARITHMETIC)
    if head.frame in _LOSSLESS:
        rate = _LOSSLESS_RATE
    per_byte = _PER_PROGRESSIVE_BYTE if head.frame in _PROGRESSIVE else _PER_BYTE
    reduced = reduction(width, height, target, fit)
    decoded = math.ceil(width / reduced) * math.ceil(height / reduced)
    out_s = (all_blocks * _PER_BLOCK / min(reduced, 4) + decoded * len(blocks) * _PER_PIXEL) * NS
    whole = head.frame in _PROGRESSIVE or len(scans) > 1
    return Scan(
        format="JPEG",
        width=width,
        height=height,
        pixel_bytes=1 if len(blocks) == 1 else 4,
        decoded=decoded,
        seconds=head.segments * _PER_SEGMENT * NS
        + (len(data) * per_byte + passes * rate) * NS
        + out_s,
        memory=all_blocks * 128 if whole else width * 64 * len(blocks),
        planes=3 if len(blocks) == 4 else 1,
        flatten_s=decoded * 6 * NS if len(blocks) == 4 else 0.0,
        reduction=reduced,
        why=f"{len(scans)} scans of {width * height / 1e6:.1f} megapixels",
    )


def pass_rate(data: bytes, *, arithmetic: bool) -> int:
    """Nanoseconds that a scan takes for a block of 8 x 8 samples, beside its bytes."""
    if arithmetic:  # its decoder goes on where the bytes have ended
        return _WITH_ARITHMETIC
    return _PER_BLOCK_AND_SCAN if data.find(b"\xff\xdd") < 0 else _WITH_RESTARTS


class _Head:
    """The segments before the first scan, as libjpeg and Pillow read them."""

    def __init__(self, data: bytes, limits: PictureLimits) -> None:
        self.segments = self.width = self.height = self.frame = 0
        self.components: list[tuple[int, int, int]] = []  # number, horizontal and vertical factor
        junk = tables = exif_bytes = 0
        exif: list[bytes] = []
        mpf = b""
        at = 2
        while True:
            marker = _MARKER.search(data, at)
            if marker is None:
                raise InvalidImage("the JPEG ends before its pixels begin")
            end = marker.end()
            junk += end - at - 2
            self.segments += 1
            if junk > limits.max_parts or self.segments > limits.max_segments:
                self._refuse(junk, limits)
            kind, at = data[end - 1], end
            if kind in _ALONE:
                continue
            if kind in (_SOI, _EOI):
                raise InvalidImage("the JPEG is damaged: its pixels are missing")
            (length,) = struct.unpack_from(">H", data, at)
            if length < 2 or at + length > len(data):
                raise InvalidImage("the JPEG is cut off in a segment")
            if kind == _SOS:
                break
            if kind in _FRAMES or kind == 0xDE:
                self._read_frame(kind, data, at, length)
            elif kind == _DQT:
                tables += length
                limits.refuse_more(
                    tables, _MAX_TABLE_BYTES, "{} bytes of quantization tables", SAVE_ANEW
                )
            elif kind == _APP1 and data.startswith(b"Exif\0\0", at + 2):
                exif.append(data[at + 8 if exif else at + 2 : at + length])
                exif_bytes += length
                limits.refuse_more(exif_bytes, _MAX_EXIF_BYTES, "{} bytes of Exif", SAVE_ANEW)
            elif kind == _APP2 and data.startswith(b"MPF\0", at + 2):
                mpf = data[at + 6 : at + length]
            at += length
        if not self.width:
            raise InvalidImage("the JPEG has no frame header before its pixels")
        self.first_scan = marker.end() - 2
        resources = data.count(b"8BIM", 0, self.first_scan)
        limits.refuse_more(resources, _MAX_RESOURCES, "{} Photoshop resources", SAVE_ANEW)
        refuse_costly_exif(b"".join(exif), limits)
        refuse_costly_exif(mpf, limits)

    def _refuse(self, junk: int, limits: PictureLimits) -> None:
        limits.refuse_more(junk, limits.max_parts, "{} bytes between its segments", SAVE_ANEW)
        limits.refuse_more(self.segments, limits.max_segments, "{} segments and more", SAVE_ANEW)

    def _read_frame(self, kind: int, data: bytes, at: int, length: int) -> None:
        if self.width:
            raise InvalidImage("the JPEG has two frame headers")
        _, self.height, self.width, count = struct.unpack_from(">BHHB", data, at + 2)
        if length != 8 + 3 * count or count not in (1, 3, 4) or not self.width * self.height:
            raise InvalidImage("the JPEG's frame header is damaged, or of a kind that is not read")
        self.frame = kind
        for place in range(at + 8, at + length, 3):
            factors = data[place + 1]
            self.components.append((data[place], factors >> 4, factors & 15))
        if not all(1 <= h <= 4 and 1 <= v <= 4 for _, h, v in self.components):
            raise InvalidImage("the JPEG's sampling factors are damaged")


def _blocks(head: _Head) -> tuple[dict[int, int], int]:
    """Blocks of 8 x 8 samples of each component, and of all; partly filled ones count."""
    most_h = max(h for _, h, _ in head.components)
    most_v = max(v for _, _, v in head.components)
    units = math.ceil(head.width / (8 * most_h)) * math.ceil(head.height / (8 * most_v))
    blocks: dict[int, int] = {}
    for number, h, v in head.components:
        blocks[number] = blocks.get(number, 0) + units * h * v
    return blocks, sum(blocks.values())


def _scans(data: bytes, first: int, limits: PictureLimits) -> list[bytes]:
    """Numbers of the components in each scan. Pixels cannot hold its marker: they stuff a 0."""
    scans = []
    at = first
    while at >= 0:
        count = data[at + 4] if at + 4 < len(data) else 0
        scans.append(data[at + 5 : at + 5 + 2 * min(count, 4) : 2])
        if len(scans) > limits.max_scans:
            found = data.count(b"\xff\xda", first)
            raise ImageTooCostly(
                f"the JPEG has {found:,} scans, at most {limits.max_scans} are accepted; real "
                "pictures have about ten: save it again"
            )
        at = data.find(b"\xff\xda", at + 2)
    return scans

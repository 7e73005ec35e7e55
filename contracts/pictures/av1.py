"""What AV1 data decodes to, from the headers in it (AV1 Bitstream Specification, section 5).

No box says it: a decoder follows the sizes in the data, and decodes as many frames as there are.
"""

from collections.abc import Sequence
from typing import NamedTuple

from snapensemble.contracts.errors import InvalidImage
from snapensemble.contracts.pictures.bits import Bits
from snapensemble.contracts.pictures.limits import Coded, PictureLimits

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6  # types of open bitstream units
_KEY_FRAME, _SWITCH_FRAME = 0, 3
_SELECT = 2  # every frame says it
_MOST_HELD = 9  # frames: eight that later ones may look at, and the one that is decoded
_FRAME_BYTES = 2  # a pixel, for what a decoder notes of its blocks
_HEADER_BYTES = 256  # more than the fields that are read here take


class _Sequence(NamedTuple):
    width: int
    height: int
    width_bits: int
    height_bits: int
    is_reduced: bool  # one picture, whose frame has no size of its own
    time_bits: int
    screen_content: int
    integer_motion: int
    id_bits: int
    sample_bytes: float


def scan_av1(data: bytes, limits: PictureLimits, _: Sequence[bytes] = ()) -> Coded:
    """Add up the frames of an item of a picture, or of a sample of a track.

    Raises:
        InvalidImage: it has no sequence header before its frames, or is cut off.
        ImageTooLarge: a frame has too many pixels.
        ImageTooCostly: there are too many units.
    """
    sequence: _Sequence | None = None
    pixels = largest = units = at = 0
    sample_bytes = 0.0
    while at < len(data):
        units += 1
        limits.refuse_more(units, limits.max_segments, "{} AV1 units and more", "save one frame")
        kind, start, end = _unit(data, at)
        head = data[start : min(end, start + _HEADER_BYTES)]
        if kind == _SEQUENCE_HEADER:
            sequence = _sequence(head)
            sample_bytes = max(sample_bytes, sequence.sample_bytes)
        elif kind in (_FRAME_HEADER, _FRAME):
            if sequence is None:
                raise InvalidImage("the AV1 data has a frame before its sequence header")
            width, height = _frame_size(head, sequence)
            limits.refuse_pixels(width, height)
            pixels += width * height
            largest = max(largest, width * height)
        at = end
    if not pixels:
        raise InvalidImage("the AV1 data has no frame")
    held = min(pixels, _MOST_HELD * largest) * (sample_bytes + _FRAME_BYTES)
    return Coded(pixels, held, units)


def _unit(data: bytes, at: int) -> tuple[int, int, int]:
    """Type, start and end of the unit at `at`."""
    head = data[at]
    at += 2 if head & 4 else 1
    size, shift = len(data) - at, 0
    if head & 2:
        size = 0
        for shift in range(0, 56, 7):
            byte = data[at]
            at += 1
            size |= (byte & 127) << shift
            if byte < 128:
                break
    if size < 0 or at + size > len(data):
        raise InvalidImage("the AV1 data is cut off")
    return head >> 3 & 15, at, at + size


def _sequence(head: bytes) -> _Sequence:
    bits = Bits(head)
    read = bits.read
    profile, _, is_reduced = read(3), read(1), bool(read(1))
    time_bits = 0
    if is_reduced:
        read(5)
    else:
        time_bits = _skip_operating_points(bits)
    width_bits, height_bits = read(4) + 1, read(4) + 1
    width, height = read(width_bits) + 1, read(height_bits) + 1
    id_bits = 0
    if not is_reduced and read(1):
        id_bits = read(4) + 2
        id_bits += read(3) + 1
    read(3)
    screen_content = integer_motion = _SELECT
    if not is_reduced:
        read(4)
        has_order = read(1)
        read(2 * has_order)
        screen_content = _SELECT if read(1) else read(1)
        if screen_content:
            integer_motion = _SELECT if read(1) else read(1)
        read(3 * has_order)
    read(3)
    is_deep = read(1)
    sample_bytes = (1.5 if profile == 0 else 3.0) * (1 + is_deep)
    return _Sequence(
        width, height, width_bits, height_bits, is_reduced,
        time_bits, screen_content, integer_motion, id_bits, sample_bytes,
    )  # fmt: skip


def _skip_operating_points(bits: Bits) -> int:
    """Read up to the size; the bits of a frame's time, 0 if frames say none."""
    read = bits.read
    delay_bits = time_bits = 0
    if read(1):  # timing
        read(64)
        is_equal = read(1)
        if is_equal:
            bits.golomb()
        if read(1):  # the decoder's model
            delay_bits = read(5) + 1
            read(32 + 5)
            time_bits = read(5) + 1
            time_bits = 0 if is_equal else time_bits
    has_delay = read(1)
    for _ in range(read(5) + 1):
        read(12)
        if read(5) > 7:
            read(1)
        if delay_bits and read(1):
            read(2 * delay_bits + 1)
        if has_delay and read(1):
            read(4)
    return time_bits


def _frame_size(head: bytes, sequence: _Sequence) -> tuple[int, int]:
    """The largest size that a frame can have: its own, if it says that it has one."""
    if sequence.is_reduced:
        return sequence.width, sequence.height
    read = Bits(head).read
    if read(1):  # a frame that is there already
        return 0, 0
    kind, is_shown = read(2), read(1)
    read(sequence.time_bits if is_shown else 1)
    if kind != _SWITCH_FRAME and not (kind == _KEY_FRAME and is_shown):
        read(1)
    read(1)
    screen_content = read(1) if sequence.screen_content == _SELECT else sequence.screen_content
    if screen_content and sequence.integer_motion == _SELECT:
        read(1)
    read(sequence.id_bits)
    if kind == _SWITCH_FRAME or read(1):
        return 1 << sequence.width_bits, 1 << sequence.height_bits
    return sequence.width, sequence.height

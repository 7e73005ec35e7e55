"""What HEVC data decodes to, from its parameter sets (ITU-T H.265, section 7.3)."""

import struct
from collections.abc import Iterator, Sequence

from snapensemble.contracts.errors import InvalidImage
from snapensemble.contracts.pictures.bits import Bits
from snapensemble.contracts.pictures.limits import Coded, PictureLimits

_SEQUENCE, _PICTURES = 33, range(32)  # types of units: a parameter set, slices
_FRAME_BYTES = 4  # a pixel, for what a decoder notes of its blocks
_SET_BYTES = 512  # more than the fields that are read here take
_ARRAYS_AT = 22  # in a configuration, behind profile and level


def scan_hevc(data: bytes, limits: PictureLimits, configurations: Sequence[bytes]) -> Coded:
    """Add up the slices of an item of a picture, each as if it were a frame of its own.

    Args:
        data: units, each behind its length.
        limits: what is accepted.
        configurations: parameter sets that lie elsewhere in the file; any of them may be meant.

    Raises:
        InvalidImage: there is no parameter set or no slice, or something is cut off.
        ImageTooLarge: a frame has too many pixels.
        ImageTooCostly: there are too many units.
    """
    units = [*_units(data)]
    sets = [*(unit for each in configurations for unit in _configured(each)), *units]
    limits.refuse_more(len(sets), limits.max_segments, "{} HEVC units", "save one frame")
    largest = 0
    sample_bytes = 0.0
    for unit in sets:
        if unit[0] >> 1 & 63 == _SEQUENCE:
            width, height, of_sample = _sequence(unit)
            limits.refuse_pixels(width, height)
            largest, sample_bytes = max(largest, width * height), max(sample_bytes, of_sample)
    slices = sum(unit[0] >> 1 & 63 in _PICTURES for unit in units)
    if not largest or not slices:
        raise InvalidImage("the HEVC data has no parameter set, or no picture")
    return Coded(slices * largest, largest * (sample_bytes + _FRAME_BYTES), len(sets))


def _units(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 6 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        at += 4
        if length < 2 or at + length > len(data):
            raise InvalidImage("the HEVC data is cut off")
        yield data[at : at + length]
        at += length


def _configured(data: bytes) -> Iterator[bytes]:
    """Yield the units in a configuration (ISO/IEC 14496-15, section 8.3.3)."""
    at = _ARRAYS_AT + 1
    for _ in range(data[_ARRAYS_AT]):
        (count,) = struct.unpack_from(">H", data, at + 1)
        at += 3
        for _ in range(count):
            (length,) = struct.unpack_from(">H", data, at)
            if length < 2 or at + 2 + length > len(data):
                raise InvalidImage("the HEVC configuration is cut off")
            yield data[at + 2 : at + 2 + min(length, _SET_BYTES)]
            at += 2 + length


def _sequence(unit: bytes) -> tuple[int, int, float]:
    """Width, height and bytes a pixel."""
    # A decoder passes over the 3 that keeps zeros from looking like a beginning.
    bits = Bits(unit[2:_SET_BYTES].replace(b"\0\0\3", b"\0\0"))
    read = bits.read
    read(4)
    layers = read(3)
    read(1 + 96)
    present = [(read(1), read(1)) for _ in range(layers)]
    read(2 * (8 - layers) if layers else 0)
    for has_profile, has_level in present:
        read(88 * has_profile + 8 * has_level)
    bits.golomb()
    chroma = bits.golomb()
    if chroma == 3:
        read(1)
    width, height = bits.golomb(), bits.golomb()
    if read(1):
        for _ in range(4):
            bits.golomb()
    is_deep = bits.golomb() > 0
    return width, height, {0: 1.0, 1: 1.5, 2: 2.0}.get(chroma, 3.0) * (1 + is_deep)

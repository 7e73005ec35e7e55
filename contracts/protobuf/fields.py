"""The wire format of protocol buffers: the fields of a message that no package has parsed yet.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


class DamagedMessage(ValueError):
    """Bytes that are no message, or not a whole one."""


def fields(part: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message; values of fixed size are not read.

    Args:
        part: the bytes of the message. A value that is bytes, a text, a list of numbers or a
            message is a part of them.

    Raises:
        DamagedMessage: the rest of them is no field, or not a whole one.
    """
    place, end = 0, len(part)
    while place < end:
        key, place = _varint(part, place)
        number, kind = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise DamagedMessage(f"a field of number {number}")
        value: int | memoryview = -1
        if kind == _VARINT:
            value, place = _varint(part, place)
        elif kind == _BYTES:
            size, place = _varint(part, place)
            value = part[place : place + size]
            place += size
        elif kind in (_FIXED_32, _FIXED_64):
            place += 4 if kind == _FIXED_32 else 8
        else:  # groups, which are not written any more
            raise DamagedMessage(f"a field of wire type {kind}")
        if place > end:
            raise DamagedMessage("a field goes beyond the end")
        yield number, value


def _varint(part: memoryview, place: int) -> tuple[int, int]:
    """Read a number of up to ten bytes; also gives the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(part):
            break
        byte = part[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise DamagedMessage("a number does not end")

"""Messages, parsed only where they cannot become far more objects than they have bytes.

An empty message inside a message has two bytes, and the parser takes ninety for it.
"""

from typing import Any

from snapensemble.serving.errors import MalformedBody

MAX_FIELDS = 10_000
LEAST = 2  # bytes of a field: its key and its value, or its length
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # how a field is written, from its key
Descriptor = Any  # google.protobuf.descriptor.Descriptor; the package ships no types


def check_fields(raw: bytes, descriptor: Descriptor) -> None:
    """Count the fields of a message, and of all messages inside it, before any of them is made.

    Numbers of a list are written as one field. Where one takes eight bytes in memory and may have
    one here, each byte counts as a field.

    Args:
        raw: the bytes of the message.
        descriptor: says which fields are messages.

    Raises:
        MalformedBody: there are too many, or the bytes are no fields.
    """
    if len(raw) <= LEAST * MAX_FIELDS:
        return
    fields = 0
    inside = [(0, len(raw), descriptor)]  # messages that have not been looked at
    while inside:
        place, end, descriptor = inside.pop()
        while place < end:
            key, place = _varint(raw, place)
            field, written = descriptor.fields_by_number.get(key >> 3), key & 7
            size = 0
            if written == LENGTH:
                size, place = _varint(raw, place)
                if field is not None and field.message_type is not None:
                    inside.append((place, place + size, field.message_type))
                elif field is not None and field.type in (field.TYPE_INT64, field.TYPE_UINT64):
                    fields += size
            elif written == VARINT:
                _, place = _varint(raw, place)
            elif written in (EIGHT_BYTES, FOUR_BYTES):
                size = 8 if written == EIGHT_BYTES else 4
            else:
                raise MalformedBody(
                    f"the message has a field of kind {written}; expected 0, 1, 2 or 5"
                )
            place += size
            fields += 1
            if fields > MAX_FIELDS:
                raise MalformedBody(
                    f"the message has more than {MAX_FIELDS:,} fields, or as many numbers of 64 "
                    "bits; send pictures as bytes_contents, or a tensor as raw_input_contents"
                )
        if place != end:
            raise MalformedBody("the message is cut off within a field")


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits in each byte, the lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(raw):
            raise MalformedBody("the message is cut off within a number")
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise MalformedBody("the message has a number of more than ten bytes")

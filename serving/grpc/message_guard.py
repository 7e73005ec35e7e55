"""Messages, parsed only where they cannot become far more objects than they have bytes.

An empty message inside a message has two bytes, and the parser takes ninety for it.
"""

from typing import Any

from snapensemble.contracts.protobuf.fields import DamagedMessage, fields
from snapensemble.serving.errors import MalformedBody

MAX_FIELDS = 10_000
LEAST = 2  # bytes of a field: its key and its value, or its length
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
    try:
        _count(memoryview(raw), descriptor)
    except DamagedMessage as error:
        raise MalformedBody(f"the message is not whole: {error}") from None


def _count(message: memoryview, descriptor: Descriptor) -> None:
    count = 0
    inside = [(message, descriptor)]  # messages that have not been looked at
    while inside:
        part, descriptor = inside.pop()
        for number, value in fields(part):
            field = descriptor.fields_by_number.get(number)
            count += 1
            if field is not None and isinstance(value, memoryview):
                if field.message_type is not None:
                    inside.append((value, field.message_type))
                elif field.type in (field.TYPE_INT64, field.TYPE_UINT64):
                    count += len(value)
            if count > MAX_FIELDS:
                raise MalformedBody(
                    f"the message has more than {MAX_FIELDS:,} fields, or as many numbers of 64 "
                    "bits; send pictures as bytes_contents, or a tensor as raw_input_contents"
                )

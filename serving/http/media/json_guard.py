"""JSON, parsed only where it cannot become far more objects than it has bytes."""

from typing import Any

from pydantic_core import from_json

from snapensemble.serving.errors import MalformedBody

MAX_VALUES = 10_000
WIDE_GROWTH = 5  # bytes held for each of a document whose strings may take four for a character


def values_in(body: bytes | bytearray) -> int:
    """How many values a document has at most, by the characters that stand before one."""
    return sum(body.count(character) for character in b",:[{")


def parsed_json(body: bytes | bytearray, *, expected: str, most: int = MAX_VALUES) -> Any:
    """The value of a document.

    Args:
        body: the document, in UTF-8.
        expected: what it should be, for messages.
        most: how many values it may have; counted before any of them is made.

    Raises:
        MalformedBody: it is no JSON, or has more values.
    """
    values = values_in(body)
    if values > most:
        raise MalformedBody(
            f"the JSON has {values:,} values or more, at most {most:,} are parsed; {expected}"
        )
    try:
        return from_json(bytes(body), allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error


def is_narrow(body: bytes | bytearray) -> bool:
    """Whether Python keeps each character of a document's strings in one byte.

    One character beyond Latin-1 makes it keep a whole string in two or four bytes for each.
    """
    return body.isascii() and body.count(b"\\u") <= body.count(b"\\u00")

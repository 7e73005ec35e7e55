"""JSON documents of pictures in base64."""

from pydantic_core import from_json

from snapensemble.serving.errors import MalformedBody, TooManyImages
from snapensemble.serving.http.media.texts import picture_of

# Bytes that are held beside the body while it is parsed: its strings, and the pictures in them.
GROWTH = 2
WIDE_GROWTH = 5  # the same where a string may take four bytes for each character
MAX_VALUES = 10_000
EXPECTED = 'expected {"images": [base64, …]} with at least one image'


def pictures_of_json(body: bytes | bytearray, *, limit: int) -> list[bytes]:
    """The pictures of a JSON document.

    It is checked by hand and not by a model: a megabyte of wrong entries would make as many errors.

    Args:
        body: the document.
        limit: how many pictures there may be.

    Raises:
        MalformedBody: the document is another one, or an entry is not base64.
        TooManyImages: there are more than `limit`.
    """
    separators = sum(body.count(character) for character in b",:[{")
    if separators > MAX_VALUES:
        raise MalformedBody(
            f"the JSON has {separators:,} values or more, at most {MAX_VALUES:,} are parsed; "
            f"{EXPECTED}, and at most {limit}"
        )
    if not is_narrow(body):
        raise MalformedBody(f"the JSON has characters that are not of base64; {EXPECTED}")
    try:
        document = from_json(bytes(body), allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    texts = document.get("images") if isinstance(document, dict) else None
    if not isinstance(texts, list) or not texts or len(document) != 1:
        raise MalformedBody(EXPECTED)
    if len(texts) > limit:
        raise TooManyImages(too_many(f"{len(texts):,}", limit))
    return [_decoded(index, text) for index, text in enumerate(texts)]


def is_narrow(body: bytes | bytearray) -> bool:
    """Whether the strings of a JSON document take a byte for each character.

    One character beyond Latin-1 makes Python keep a whole string in two or four bytes for each.
    """
    return body.isascii() and body.count(b"\\u") <= body.count(b"\\u00")


def too_many(found: str, limit: int) -> str:
    """The message of TooManyImages."""
    return f"the request has {found} images, at most {limit} are accepted; send several requests"


def _decoded(index: int, text: object) -> bytes:
    if not isinstance(text, str):
        raise MalformedBody(f"images.{index}: expected a string, found {type(text).__name__}")
    return picture_of(text, f"images.{index}")

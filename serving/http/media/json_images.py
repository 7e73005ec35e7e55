"""JSON documents of pictures in base64."""

from snapensemble.serving.errors import MalformedBody, TooManyImages
from snapensemble.serving.http.media.json_guard import is_narrow, parsed_json
from snapensemble.serving.http.media.texts import picture_of

# Bytes that are held beside the body while it is parsed: its strings, and the pictures in them.
GROWTH = 2
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
    if not is_narrow(body):
        raise MalformedBody(f"the JSON has characters that are not of base64; {EXPECTED}")
    document = parsed_json(body, expected=f"{EXPECTED}, and at most {limit}")
    texts = document.get("images") if isinstance(document, dict) else None
    if not isinstance(texts, list) or not texts or len(document) != 1:
        raise MalformedBody(EXPECTED)
    if len(texts) > limit:
        raise TooManyImages(too_many(f"{len(texts):,}", limit))
    return [_decoded(index, text) for index, text in enumerate(texts)]


def too_many(found: str, limit: int) -> str:
    """The message of TooManyImages."""
    return f"the request has {found} images, at most {limit} are accepted; send several requests"


def _decoded(index: int, text: object) -> bytes:
    if not isinstance(text, str):
        raise MalformedBody(f"images.{index}: expected a string, found {type(text).__name__}")
    return picture_of(text, f"images.{index}")

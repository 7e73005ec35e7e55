"""Pictures in texts: base64, or a `data:` URI of it, as the clients of many languages write them.

Either alphabet of RFC 4648 will do, the standard one or that for URLs (section 5), but no mixture.
The padding may be left out: what is cut off is found when the picture is decoded. Lines may be
wrapped by CR LF or LF (RFC 2045). Nothing else may be in between.
"""

import base64
import binascii
import re
from collections.abc import Iterator

from snapensemble.serving.errors import MalformedBody

# Media types of what is one picture; clients that do not know give none.
OCTETS = "application/octet-stream"
PICTURE_TYPE = re.compile(rf"(image/.*|{OCTETS})?")
SLICE = 2**17  # characters decoded in one step, in which no other thread runs; a multiple of 4
MAX_HEAD = 1000  # characters of a `data:` URI before its data
DATA_URI = "expected data:image/png;base64, and the picture in base64"
# What may be written as an escape in a URI, of the characters that are accepted in it.
ESCAPES = {f"%{ord(each):02{case}}": each for each in "+/=\r\n" for case in "xX"}


def picture_of(text: str, where: str) -> bytes:
    """Decode one picture.

    Args:
        text: base64, or a `data:` URI (RFC 2397) of it.
        where: the text's place in the document, for messages.

    Raises:
        MalformedBody: it is neither, or the URI is of another media type.
    """
    start = _start_of_data(text, where)
    try:
        return _plain(text, start)
    except ValueError:  # most texts are plain, so that what others may have is not looked for
        pass
    try:
        return b"".join(_decoded(_slices(text, start)))
    except ValueError as error:
        raise MalformedBody(f"{where}: not base64: {error}") from error


def _start_of_data(text: str, where: str) -> int:
    """The place behind the head of a `data:` URI; 0 in other texts."""
    if text[:5].lower() != "data:":
        return 0
    comma = text.find(",", 5, MAX_HEAD)
    media_type, *parameters = text[5 : max(comma, 5)].lower().split(";")
    if parameters[-1:] != ["base64"]:
        raise MalformedBody(f"{where}: a data URI that is not base64; {DATA_URI}")
    if not PICTURE_TYPE.fullmatch(media_type):
        raise MalformedBody(f"{where}: a data URI of {media_type!r}; {DATA_URI}")
    return comma + 1


def _plain(text: str, start: int) -> bytes:
    """Decode base64 of the standard alphabet, padded, without line breaks."""
    return b"".join(
        _strictly(text[place : place + SLICE], is_last=place + SLICE >= len(text))
        for place in range(start, len(text), SLICE)
    )


def _strictly(text: str, *, is_last: bool) -> bytes:
    if not is_last and text.endswith("="):
        raise binascii.Error("padding before the end")
    return base64.b64decode(text, validate=True)


def _slices(text: str, start: int) -> Iterator[str]:
    """The data in slices, without line breaks, in the standard alphabet."""
    is_uri = start > 0
    is_for_urls = max(text.find("-", start), text.find("_", start)) >= 0
    if is_for_urls and max(text.find("+", start), text.find("/", start)) >= 0:
        raise binascii.Error("it has characters of both alphabets, + or / and - or _")
    while start < len(text):
        end = start + SLICE
        if is_uri and (escape := text.find("%", end - 2, end)) >= 0:
            end = escape  # it would be cut
        piece = text[start:end]
        start = end
        if is_uri and "%" in piece:
            for written, meant in ESCAPES.items():
                piece = piece.replace(written, meant)
        piece = piece.replace("\r", "").replace("\n", "")
        yield piece.replace("-", "+").replace("_", "/") if is_for_urls else piece


def _decoded(slices: Iterator[str]) -> Iterator[bytes]:
    rest = ""  # up to four characters, since padding may be in the last ones only
    for piece in slices:
        rest += piece
        whole = max(0, len(rest) - 1) // 4 * 4
        yield _strictly(rest[:whole], is_last=False)
        rest = rest[whole:]
    yield _strictly(rest if "=" in rest else rest + "=" * (-len(rest) % 4), is_last=True)

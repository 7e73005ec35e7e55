"""The head of a request: how much of it has come, what it says of the body, and what is refused.

The parser (llhttp) is strict about most; the checks here are for what it lets pass.
"""

from snapensemble.serving.http.problems import (
    HEAD_TOO_LARGE,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    Refused,
    malformed,
)

END = b"\r\n\r\n"
VERSIONS = ("1.0", "1.1")
Headers = list[tuple[bytes, bytes]]


class Progress:
    """Counts how much has come of a head, and of what is neither head nor body after it."""

    __slots__ = ("_headers", "_tail", "is_complete", "overhead")

    def __init__(self) -> None:
        self.is_complete = False
        self.overhead = 0  # bytes since the last one that was of a body
        self._headers = 0
        self._tail = b""  # the last bytes that have come, in which its end may have begun

    @property
    def is_too_large(self) -> bool:
        """Whether more has come than is accepted."""
        return self.overhead > MAX_HEAD_BYTES or self._headers > MAX_HEADERS

    def size_of_rest(self, data: bytes) -> int:
        """How many of these bytes belong to the head; all of them if it does not end in them."""
        end = (self._tail + data).find(END)
        return len(data) if end < 0 else max(1, end + len(END) - len(self._tail))

    def came(self, piece: bytes) -> None:
        """Count a piece of the head."""
        self.overhead += len(piece)
        self._tail = (self._tail + piece[-3:])[-3:] if not piece.endswith(END) else b""

    def header(self) -> None:
        """Count a header."""
        self._headers += 1


def framing(method: bytes, target: bytes, version: str, headers: Headers) -> int | None:
    """The length of the body in bytes; None if it comes in chunks.

    Args:
        method: that of the request.
        target: path and query, of which whoever reads them makes far more than there are bytes.
        version: that of HTTP.
        headers: names in lower case; the parser has seen to it that lengths are numbers, and that
            there is either one length or chunks.

    Raises:
        Refused: the head is not that of a request which this server could answer.
    """
    if len(target) > MAX_TARGET_BYTES:
        raise Refused(HEAD_TOO_LARGE)
    if version not in VERSIONS:
        raise Refused(malformed(f"HTTP/{version} is not spoken here; use HTTP/1.1"))
    if method == b"CONNECT":
        raise Refused(malformed("CONNECT asks for a proxy, and this is none"))
    hosts, length, chunked = 0, 0, False
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or version == "1.0":
                raise Refused(malformed("the only Transfer-Encoding is chunked, over HTTP/1.1"))
            chunked = True
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Refused(malformed(f"expected one Host header, found {hosts}"))
    return None if chunked else length


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The head of a request, without the header that asks for another protocol."""
    line = b"%b %b HTTP/%b\r\n" % (method, url, version.encode())
    kept = [b"%b: %b\r\n" % header for header in headers if header[0] != b"upgrade"]
    return b"".join([line, *kept, b"\r\n"])

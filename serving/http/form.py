"""Forms: what Starlette's parser lets pass and this server does not."""

from collections.abc import AsyncGenerator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from snapensemble.serving.errors import MalformedBody

CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"latin1")


class WholeForm(MultiPartParser):
    """Insists on the closing boundary; without it the last files may be missing."""

    def __init__(
        self, headers: Headers, stream: AsyncGenerator[bytes, None], *, max_parts: int
    ) -> None:
        super().__init__(
            headers, self._to_the_end(stream), max_files=max_parts, max_fields=max_parts
        )
        self._closed = False

    def on_end(self) -> None:
        """The closing boundary has come."""
        self._closed = True

    async def _to_the_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self._closed:
            raise MultiPartException("it ends before its closing boundary")


def refuse_odd_charset(content_type: str) -> None:
    """Let a form's names be in plain alphabets only, before anybody looks a charset up.

    Python knows charsets that it decodes in quadratic time, minutes for a megabyte of punycode in
    which the server would answer nobody, and keeps every name that it does not know.

    Raises:
        MalformedBody: another charset.
    """
    _, options = parse_options_header(content_type)
    charset = options.get(b"charset", b"utf-8")
    if charset.lower() not in CHARSETS:
        raise MalformedBody(
            f"the form has the charset {charset.decode('latin-1')!r}; expected utf-8"
        )

"""Multipart forms, parsed as they arrive."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from snapensemble.serving.errors import EmptyBody, MalformedBody, TooManyImages
from snapensemble.serving.http.media.json_images import too_many

CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"latin1")


class Form:
    """A multipart form, parsed as it arrives: its files are pictures, its fields are ignored.

    A part without a file name is a file as well if its own type is that of a picture: some clients
    give no name to what they have in memory.

    Starlette's parser would make a file object for each of them, which costs more than the rest
    of a request.

    Args:
        content_type: with the boundary.
        limit: how many files, and how many fields, there may be.

    Raises:
        MalformedBody: there is no boundary, or names are in a charset that is not plain. Python
            decodes some charsets in quadratic time, minutes for a megabyte of punycode in which
            the server would answer nobody, and it keeps every name of one that it does not know.
    """

    def __init__(self, content_type: str, *, limit: int) -> None:
        _, options = parse_options_header(content_type)
        charset = options.get(b"charset", b"utf-8")
        if charset.lower() not in CHARSETS:
            raise MalformedBody(
                f"the form has the charset {charset.decode('latin-1')!r}; expected utf-8"
            )
        if b"boundary" not in options:
            raise _malformed_form("its Content-Type names no boundary")
        self._parts = _Parts(limit)
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._parts.on_part_begin,
                    "on_header_field": self._parts.on_header_field,
                    "on_header_value": self._parts.on_header_value,
                    "on_header_end": self._parts.on_header_end,
                    "on_headers_finished": self._parts.on_headers_finished,
                    "on_part_data": self._parts.on_part_data,
                    "on_end": self._parts.on_end,
                },
            )
        except FormParserError as error:
            raise _malformed_form(str(error)) from error

    def feed(self, chunk: bytes) -> None:
        """Parse the next piece.

        Raises:
            MalformedBody: the body is no form.
            TooManyImages: there are more files than are accepted.
        """
        try:
            self._parser.write(chunk)
        except (FormParserError, UnicodeError) as error:
            raise _malformed_form(str(error)) from error

    def pictures(self) -> list[bytes]:
        """The files, when all pieces have been parsed.

        Raises:
            MalformedBody: the form is not whole; without its end the last files may be missing.
            EmptyBody: there is no file.
        """
        if not self._parts.is_closed:
            raise _malformed_form("it ends before its closing boundary")
        if not self._parts.files:
            raise EmptyBody('the form has no file; send one with curl -F "image=@cat.jpg"')
        return [bytes(file) for file in self._parts.files]


class _Parts:
    """What the parser has found so far.

    It does not know the parser, which calls it: in a cycle the files would stay in memory, counted
    by nobody, until the next collection.
    """

    def __init__(self, limit: int) -> None:
        self.files: list[bytearray] = []
        self.is_closed = False
        self._limit = limit
        self._fields = 0
        self._is_in_file = False
        self._header_name = self._header_value = b""
        self._disposition = self._type = b""

    def on_part_begin(self) -> None:
        self._disposition = self._type = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        name = self._header_name.lower()
        if name == b"content-disposition":
            self._disposition = self._header_value
        elif name == b"content-type":
            self._type = self._header_value.strip().lower()
        self._header_name = self._header_value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed_form("a part has no Content-Disposition with a name")
        self._is_in_file = b"filename" in options or self._type.startswith(b"image/")
        if self._is_in_file:
            self.files.append(bytearray())
            if len(self.files) > self._limit:
                raise TooManyImages(too_many(f"more than {self._limit}", self._limit))
        else:
            self._fields += 1
            if self._fields > self._limit:
                raise _malformed_form(f"it has more than {self._limit} fields")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self.files[-1] += data[start:end]

    def on_end(self) -> None:
        self.is_closed = True


def _malformed_form(reason: str) -> MalformedBody:
    return MalformedBody(f"the multipart body cannot be read: {reason}")

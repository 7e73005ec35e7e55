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
        self._limit = limit
        self._files: list[bytearray] = []
        self._fields = 0
        self._is_in_file = False
        self._is_closed = False
        self._header_name = self._header_value = b""
        self._disposition = self._type = b""
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
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
        if not self._is_closed:
            raise _malformed_form("it ends before its closing boundary")
        if not self._files:
            raise EmptyBody('the form has no file; send one with curl -F "image=@cat.jpg"')
        return [bytes(file) for file in self._files]

    def _on_part_begin(self) -> None:
        self._disposition = self._type = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name = self._header_name.lower()
        if name == b"content-disposition":
            self._disposition = self._header_value
        elif name == b"content-type":
            self._type = self._header_value.strip().lower()
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed_form("a part has no Content-Disposition with a name")
        self._is_in_file = b"filename" in options or self._type.startswith(b"image/")
        if self._is_in_file:
            self._files.append(bytearray())
            if len(self._files) > self._limit:
                raise TooManyImages(too_many(f"more than {self._limit}", self._limit))
        else:
            self._fields += 1
            if self._fields > self._limit:
                raise _malformed_form(f"it has more than {self._limit} fields")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self._files[-1] += data[start:end]

    def _on_end(self) -> None:
        self._is_closed = True


def _malformed_form(reason: str) -> MalformedBody:
    return MalformedBody(f"the multipart body cannot be read: {reason}")

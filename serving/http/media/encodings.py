"""Content-Encoding: a body that its sender has packed is unpacked in short steps as it arrives.

One coding at a time, by its RFC: gzip (1952) of any number of members, deflate (9110, 8.4.1.2: in
the format of zlib, RFC 1950) of one stream, and, where Python or a package has it, zstd (8878) of
any number of frames whose window is at most 8 MiB (9659). Nothing may follow, and nothing may lack.
"""

import contextlib
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from snapensemble.serving.errors import BodyTooLarge, MalformedBody, UnsupportedEncoding

# Bytes that go into one step and come out of it. The event loop waits for a step.
STEP_IN, STEP_OUT = 2**14, 2**16
# How many times its size a body may unpack to, and the bytes that are free of this.
MAX_RATIO, FREE = 200, 2**20
# A body that is packed in earnest is no larger than before. One of empty members or blocks would
# cost much time and give nothing, so it may be so many times larger, and so many bytes: a block of
# zstd gives nothing before all of its 128 KiB have come.
MAX_GROWTH, SLACK = 2, 2**18
# To begin a stream costs as much as to unpack a few KiB: these are free, and one for each KiB.
FREE_STREAMS, KIB = 64, 2**10


class Stream(Protocol):
    """One member of gzip, one stream of zlib, or one frame of zstd, while it is unpacked."""

    @property
    def eof(self) -> bool:
        """Whether its end has come."""

    @property
    def unused_data(self) -> bytes:
        """What was given behind its end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Unpack no more than so many bytes."""


@dataclass(frozen=True, slots=True)
class Coding:
    """A content coding.

    Attributes:
        name: its name in messages.
        begin: begins to unpack a stream.
        error: raised by a stream that is damaged.
        window: bytes that a stream may keep of what it has unpacked.
        is_one: whether nothing may follow the first stream.
    """

    name: str
    begin: Callable[[], Stream]
    error: type[Exception]
    window: int = 2**15
    is_one: bool = False


def _codings() -> dict[str, Coding]:
    """The codings that are accepted here, by the names that they have in headers."""
    found = {
        "gzip": Coding("gzip", lambda: zlib.decompressobj(wbits=31), zlib.error),
        "deflate": Coding("zlib", zlib.decompressobj, zlib.error, is_one=True),
    }
    zstd: Any
    with contextlib.suppress(ImportError):
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        found["zstd"] = Coding(
            "zstd",
            lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 23}),
            zstd.ZstdError,
            window=2**23,
        )
    return found


CODINGS = _codings()


def coding_of(content_encoding: str) -> Coding | None:
    """The coding that a header names; None if the body comes as it is.

    Args:
        content_encoding: the whole list of codings, in the order in which they were applied.

    Raises:
        UnsupportedEncoding: it is unknown, or there are several, one around the other.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = ["gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity")]
    if not names:
        return None
    if len(names) == 1 and names[0] in CODINGS:
        return CODINGS[names[0]]
    raise UnsupportedEncoding(
        f"Content-Encoding {content_encoding!r}; send the body packed once, by "
        f"{' or '.join(CODINGS)}, or as it is",
        tuple(CODINGS),
    )


class Decoder:
    """Unpacks one body.

    Args:
        coding: by which it is packed.
    """

    def __init__(self, coding: Coding) -> None:
        self.packed = self.unpacked = 0  # bytes so far
        self.window = coding.window
        self._coding = coding
        self._stream: Stream | None = None
        self._streams = 0
        self._given = b""  # and not looked at yet from this place on
        self._place = 0
        self._rest = b""  # that was looked at and waits for room
        self._may_hold_more = False

    def give(self, chunk: bytes) -> None:
        """Take the next bytes of the packed body, when `step` has wanted them."""
        self._given, self._place = chunk, 0

    def step(self) -> bytes | None:
        """Unpack a little more, perhaps nothing; None when more must be given first.

        Raises:
            MalformedBody: it is damaged, packed by another coding, or far larger than unpacked.
            BodyTooLarge: it unpacks to too many times its size.
        """
        if not (self._rest or self._may_hold_more):
            if self._place == len(self._given):
                return None
            self._rest = self._given[self._place : self._place + STEP_IN]
            self._place += len(self._rest)
            self.packed += len(self._rest)
        piece = self._unpack()
        self.unpacked += len(piece)
        if self.unpacked > MAX_RATIO * self.packed + FREE:
            raise BodyTooLarge(
                f"the body unpacks to more than {MAX_RATIO} times its size, beyond "
                f"{FREE:,} bytes; send it without Content-Encoding"
            )
        if self.packed > MAX_GROWTH * self.unpacked + SLACK:
            raise MalformedBody(
                f"{self.packed:,} bytes of {self._coding.name} unpack to {self.unpacked:,}; "
                "send the body without Content-Encoding"
            )
        return piece

    def _unpack(self) -> bytes:
        if self._stream is None:
            if self._streams and self._coding.is_one:
                raise self._malformed("something follows its end")
            if self._streams >= FREE_STREAMS + self.unpacked // KIB:
                raise self._malformed(f"{self._streams} streams have {self.unpacked:,} bytes")
            self._stream = self._coding.begin()
            self._streams += 1
        try:
            piece = self._stream.decompress(self._rest, STEP_OUT)
        except self._coding.error as error:
            reason = "what follows its end is no other: " if self._streams > 1 else ""
            raise self._malformed(f"{reason}{error}") from error
        self._rest = getattr(self._stream, "unconsumed_tail", b"")  # zstd keeps it inside
        self._may_hold_more = len(piece) == STEP_OUT
        if self._stream.eof:
            self._rest = self._stream.unused_data
            self._may_hold_more = False
            self._stream = None
        return piece

    def finish(self) -> None:
        """Note that nothing more comes.

        Raises:
            MalformedBody: the last stream has no end.
        """
        if self._stream is not None:
            raise self._malformed("it is cut off")

    def _malformed(self, reason: str) -> MalformedBody:
        return MalformedBody(f"the body cannot be unpacked as {self._coding.name}: {reason}")

"""What a picture may cost, and what a scan of its bytes has found."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from snapensemble.contracts.errors import ImageTooCostly, ImageTooLarge

Format = Literal["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF"]
MAX_PIXELS = 40_000_000
NS = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What decoding one picture may cost; the defaults are those of a server.

    Times are of one core of an AMD EPYC of 2.6 GHz, on which `benchmarks.serving.picture_cost`
    has measured the rates.
    """

    max_pixels: int = MAX_PIXELS
    max_seconds: float = 0.9  # of processor time
    max_memory: int = 1 << 28  # bytes, beside the encoded picture
    max_parts: int = 10_000  # chunks, extension blocks, strips, bytes between segments
    max_segments: int = 1_000  # of a JPEG before its pixels; entries of a TIFF or Exif directory
    max_texts: int = 64  # compressed texts and colour profiles
    max_scans: int = 100  # of all JPEGs in the file

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def times(self, factor: float) -> "PictureLimits":
        """These limits times a factor, for files of one's own."""
        return PictureLimits(
            **{name: type(value)(value * factor) for name, value in self._items()}  # type: ignore[arg-type]
        )

    def with_pixels(self, max_pixels: int) -> "PictureLimits":
        """These limits with another bound on pixels."""
        return replace(self, max_pixels=max_pixels)

    def within_memory(self, max_memory: int) -> "PictureLimits":
        """These limits with no more memory than `max_memory`."""
        return replace(self, max_memory=min(self.max_memory, max_memory))

    def refuse_pixels(self, width: int, height: int) -> None:
        """Raise ImageTooLarge if the picture has too many pixels."""
        if width * height > self.max_pixels:
            raise ImageTooLarge(
                f"the image claims {width} x {height} = {width * height / 1e6:.1f} megapixels, "
                f"at most {self.max_pixels / 1e6:.1f} are accepted"
            )

    def refuse_more(self, found: int, most: int, what: str, instead: str) -> None:
        """Raise ImageTooCostly if there are more than `most` of something; `{}` is how many."""
        if found > most:
            found_words = what.format(f"{found:,}")
            raise ImageTooCostly(
                f"the image has {found_words}, at most {most:,} are accepted; {instead}"
            )

    def _items(self) -> list[tuple[str, float]]:
        return [(name, getattr(self, name)) for name in self.__slots__]


class Coded(NamedTuple):
    """What decoding a part of a picture makes, where a picture has parts."""

    pixels: int  # of all frames together
    held: float  # bytes of the frames that are there at once
    units: int  # headers and frames in the data


class Scan(NamedTuple):
    """What the bytes of a picture prove about decoding it, before a decoder has seen them."""

    format: Format
    width: int
    height: int
    pixel_bytes: int  # 1, 2 or 4, in Pillow's memory
    decoded: int  # pixels that come out of the decoder: fewer than width x height from a JPEG
    seconds: float  # processor time until the pixels are there, at most
    doubt_s: float = 0.0  # more, if the compressed data is made to be slow; a clock cuts it off
    memory: int = 0  # bytes that the decoder needs beside the pixels
    planes: int = 1  # bytes a pixel for what RGB or grey is made in
    flatten_s: float = 0.0  # processor time to make RGB or grey of the pixels, at most
    reduction: int = 1  # by which the decoder reduces the picture's sides
    why: str = ""  # where most of the time goes, in words

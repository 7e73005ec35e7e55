"""What reading the tags of a TIFF costs, or those of Exif data, which is a TIFF too.

Pillow reads tag by tag in Python, several times, and libtiff again; values may lie anywhere, also
on top of one another.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage
from snapensemble.contracts.pictures.limits import PictureLimits

# Bytes of a value, by its type.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # fmt: skip
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_TEXTS = (1, 2, 6, 7)  # read at once, however long
_MAX_NUMBERS = 100_000


class Tag(NamedTuple):
    """Where the values of a tag are."""

    number: int
    type: int
    values: int
    at: int

    @property
    def end(self) -> int:
        """The offset behind the last value."""
        return self.at + self.values * SIZES.get(self.type, 1)


class Directory:
    """The tags of one directory; of tags with the same number the first counts.

    Args:
        data: the bytes of the file.
        at: the offset of the directory.
        order: the byte order, "<" or ">".
        big: whether it is a BigTIFF.
        limits: what is accepted.

    Raises:
        InvalidImage: the directory does not lie in the file.
        ImageTooCostly: it has too many tags, or their values together are longer than the file.
    """

    def __init__(
        self, data: bytes, at: int, order: str, limits: PictureLimits, *, big: bool = False
    ) -> None:
        self._data, self._order = data, order
        self.tags: dict[int, Tag] = {}
        start, entry, inside = (8, 20, 8) if big else (2, 12, 4)
        if at + start > len(data):
            raise InvalidImage("the directory of tags does not lie in the file")
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        count = min(count, (len(data) - at - start) // entry)
        limits.refuse_more(count, limits.max_segments, "{} tags", "save it again without metadata")
        length = numbers = 0
        for place in range(at + start, at + start + count * entry, entry):
            number, kind, values = struct.unpack_from(
                order + ("HHQ" if big else "HHI"), data, place
            )
            size = values * SIZES.get(kind, 1)
            where = place + entry - inside
            if size > inside:
                (where,) = struct.unpack_from(order + ("Q" if big else "I"), data, where)
                if where + size > len(data):
                    continue  # nobody can read it
                length += size
            numbers += 0 if kind in _TEXTS else values
            self.tags.setdefault(number, Tag(number, kind, values, where))
        if length > len(data) or numbers > _MAX_NUMBERS:
            raise ImageTooCostly(
                f"the values of {count:,} tags are {length:,} bytes and {numbers:,} numbers in a "
                f"file of {len(data):,} bytes, at most {len(data):,} and {_MAX_NUMBERS:,} are "
                "accepted; save it again without metadata"
            )

    def integer(self, number: int, default: int) -> int:
        """The first value of a tag."""
        return next(self.integers(number), default)

    def integers(self, number: int) -> Iterator[int]:
        """The values of a tag, if they are integers."""
        tag = self.tags.get(number)
        if tag is None or tag.type not in _CODES:
            return iter(())
        form = f"{self._order}{tag.values}{_CODES[tag.type]}"
        return iter(struct.unpack_from(form, self._data, tag.at))

    def count(self, number: int) -> int:
        """How many values a tag has."""
        return self.tags[number].values if number in self.tags else 0


def refuse_costly_exif(exif: bytes, limits: PictureLimits) -> None:
    """Raise ImageTooCostly for Exif data, or an index of an MPO, that is made to be slow.

    What is damaged is no concern here: Pillow passes over it.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 16:
        return
    big = exif[2] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), exif, 8 if big else 4)
    try:
        Directory(exif, at, order, limits, big=big)
    except ImageTooCostly as error:
        raise ImageTooCostly(f"Exif: {error}") from error
    except InvalidImage:
        return

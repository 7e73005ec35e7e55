"""The boxes of a picture in an ISO base media file (ISO/IEC 14496-12 and 23008-12): AVIF and HEIC.

Sizes, items and properties lie in boxes, and what they name may lie anywhere in the file, also on
top of one another. Readers make an object of every item that is mentioned, look for it among all
others, and copy the properties of each; all of this is bounded here.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage
from snapensemble.contracts.pictures.limits import PictureLimits

_SAVE = "save it again, as a single picture"
_MAX_PROPERTY_BYTES = 1 << 24  # of all properties of all items together
_FULL = 4  # bytes of version and flags


class Box(NamedTuple):
    """A box: its kind, and where its content begins and ends."""

    kind: bytes
    start: int
    end: int


class Item(NamedTuple):
    """A part of the picture, as the file lists it."""

    kinds: frozenset[bytes]  # nearly always one
    data: bytes
    uses: int = 1  # how often it is decoded, if it is


class BoxFile:
    """What the boxes of a file say, of all its parts.

    Args:
        data: the bytes of the file.
        limits: what is accepted.

    Raises:
        InvalidImage: boxes are cut off or damaged, or there is no picture.
        ImageTooCostly: there is too much of something.
    """

    def __init__(self, data: bytes, limits: PictureLimits) -> None:
        self._data, self._limits = data, limits
        self._boxes = self._entries = self._associated = self._named = 0
        self.brands = self._brands()
        self.items: list[Item] = []
        self.sizes: list[tuple[int, int]] = []  # of every item, and of every track
        self.configurations: list[bytes] = []  # of decoders of HEVC
        self.size: tuple[int, int] | None = None  # of the picture, if an item is it
        self.track_size: tuple[int, int] | None = None  # of the first track that has one
        self._uses: Counter[int] = Counter()
        for box in self._inside(0, len(data)):
            if box.kind == b"meta":
                self._read_meta(box, is_main=True)
            elif box.kind == b"moov":
                self._read_movie(box)

    @property
    def entries(self) -> int:
        """Boxes, and entries in them, that a reader goes through."""
        return self._boxes + self._entries

    def _brands(self) -> tuple[bytes, ...]:
        length = max(16, min(int.from_bytes(self._data[:4], "big"), 1024))
        head = self._data[8:length]
        brands = [head[at : at + 4] for at in range(0, len(head), 4)]
        return tuple(brands[:1] + brands[2:])  # the second is the version of the first

    def _number(self, at: int, size: int, end: int) -> int:
        if at + size > end:
            raise InvalidImage("the picture is cut off in a box")
        return int.from_bytes(self._data[at : at + size], "big")

    def _inside(self, start: int, end: int) -> Iterator[Box]:
        """Yield the boxes between two places."""
        at = start
        while at + 8 <= end:
            self._boxes += 1
            self._limits.refuse_more(self._boxes, self._limits.max_parts, "{} boxes", _SAVE)
            size, kind = struct.unpack_from(">I4s", self._data, at)
            head = 8
            if size == 1:
                size, head = self._number(at + 8, 8, end), 16
            elif size == 0:
                size = end - at
            if size < head or at + size > end:
                raise InvalidImage(f"the picture's box {kind!r} is cut off")
            yield Box(kind, at + head, at + size)
            at += size

    def _count(self, more: int, what: str) -> None:
        self._entries += more
        self._limits.refuse_more(self._entries, self._limits.max_parts, what, _SAVE)

    def _read_meta(self, meta: Box, *, is_main: bool) -> None:
        boxes: dict[bytes, list[Box]] = {}
        for box in self._inside(meta.start + _FULL, meta.end):
            boxes.setdefault(box.kind, []).append(box)
        kinds: dict[int, set[bytes]] = {}
        for box in boxes.get(b"iinf", []):
            self._read_kinds(box, kinds)
        for box in boxes.get(b"iref", []):
            self._read_references(box)
        idat = next(iter(boxes.get(b"idat", [])), Box(b"idat", 0, 0))
        for box in boxes.get(b"iloc", []):
            for number, content in self._located(box, idat):
                kind = frozenset(kinds.get(number, ()))
                self.items.append(Item(kind, content, max(1, self._uses[number])))
        main = next(
            (self._number(b.start + _FULL, 4 if self._data[b.start] else 2, b.end)
             for b in boxes.get(b"pitm", [])), None,
        )  # fmt: skip
        for box in boxes.get(b"iprp", []):
            sizes = self._read_properties(box)
            if is_main and self.size is None and main is not None:
                self.size = sizes.get(main)

    def _read_kinds(self, box: Box, kinds: dict[int, set[bytes]]) -> None:
        wide = 4 if self._data[box.start] else 2
        for entry in self._inside(box.start + _FULL + wide, box.end):
            if entry.kind == b"infe":
                version = self._data[entry.start]
                size = 4 if version >= 3 else 2
                number = self._number(entry.start + _FULL, size, entry.end)
                at = entry.start + _FULL + size + 2
                kinds.setdefault(number, set()).add(self._data[at : at + 4])
        self._limits.refuse_more(len(kinds), self._limits.max_segments, "{} items", _SAVE)

    def _read_references(self, box: Box) -> None:
        wide = 4 if self._data[box.start] else 2
        for entry in self._inside(box.start + _FULL, box.end):
            count = self._number(entry.start + wide, 2, entry.end)
            self._count(count + 1, "{} references between items")
            for index in range(count):
                number = self._number(entry.start + wide + 2 + index * wide, wide, entry.end)
                self._uses[number] += entry.kind == b"dimg"

    def _located(self, box: Box, idat: Box) -> Iterator[tuple[int, bytes]]:
        """Yield each item's number and its bytes."""
        version = self._data[box.start]
        at, end = box.start + _FULL, box.end
        sizes = self._number(at, 2, end)
        of_offset, of_length, of_base = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        of_index = sizes & 15 if version else 0
        wide = 4 if version >= 2 else 2
        count = self._number(at + 2, wide, end)
        self._limits.refuse_more(count, self._limits.max_segments, "{} items", _SAVE)
        at += 2 + wide
        for _ in range(count):
            number = self._number(at, wide, end)
            at += wide
            method = 0
            if version:
                method = self._number(at, 2, end) & 15
                at += 2
            at += 2
            base = self._number(at, of_base, end)
            extents = self._number(at + of_base, 2, end)
            at += of_base + 2
            self._count(extents + 1, "{} parts of items")
            parts = []
            for _ in range(extents):
                offset = base + self._number(at + of_index, of_offset, end)
                length = self._number(at + of_index + of_offset, of_length, end)
                at += of_index + of_offset + of_length
                parts.append(self._part(method, idat, offset, length))
            yield number, b"".join(parts)

    def _part(self, method: int, idat: Box, offset: int, length: int) -> bytes:
        start, end = (idat.start, idat.end) if method == 1 else (0, len(self._data))
        if method > 1:
            raise InvalidImage("an item of the picture lies in another one, which is not read")
        start += offset
        stop = start + length if length else end
        if start > end or stop > end:
            raise InvalidImage("the picture is cut off: an item does not lie in the file")
        self._named += stop - start
        if self._named > 2 * len(self._data) + 4096:
            raise ImageTooCostly(
                f"the picture's items are {self._named:,} bytes and more in a file of "
                f"{len(self._data):,}: they lie on one another; {_SAVE}"
            )
        return self._data[start:stop]

    def _read_properties(self, iprp: Box) -> dict[int, tuple[int, int]]:
        """The size of each item that has one."""
        properties: list[Box] = []
        boxes = list(self._inside(iprp.start, iprp.end))
        for box in boxes:
            if box.kind == b"ipco":
                properties.extend(self._inside(box.start, box.end))
        for box in properties:
            if box.kind == b"ispe":
                self.sizes.append(self._extent(box))
            elif box.kind == b"hvcC":
                self.configurations.append(self._data[box.start : box.end])
        sizes: dict[int, tuple[int, int]] = {}
        for box in boxes:
            if box.kind != b"ipma":
                continue
            for number, index in self._associations(box):
                if 0 < index <= len(properties):
                    found = properties[index - 1]
                    self._associated += found.end - found.start
                    self._limits.refuse_more(
                        self._associated, _MAX_PROPERTY_BYTES, "{} bytes of properties", _SAVE
                    )
                    if found.kind == b"ispe":
                        sizes.setdefault(number, self._extent(found))
        return sizes

    def _extent(self, box: Box) -> tuple[int, int]:
        at = box.start + _FULL
        return self._number(at, 4, box.end), self._number(at + 4, 4, box.end)

    def _associations(self, box: Box) -> Iterator[tuple[int, int]]:
        """Yield an item's number and the place of a property, from 1, for each that it has."""
        wide = 4 if self._data[box.start] else 2
        of_index = 2 if self._data[box.start + 3] & 1 else 1
        at = box.start + _FULL
        items = self._number(at, 4, box.end)
        at += 4
        for _ in range(items):
            number = self._number(at, wide, box.end)
            count = self._number(at + wide, 1, box.end)
            at += wide + 1
            self._count(count + 1, "{} properties of items")
            for _ in range(count):
                index = self._number(at, of_index, box.end)
                yield number, index & (0x7FFF if of_index == 2 else 0x7F)
                at += of_index

    def _read_movie(self, moov: Box) -> None:
        """The tracks of an animation: how large they are, and the first picture of each."""
        for track in self._inside(moov.start, moov.end):
            if track.kind != b"trak":
                continue
            for box in self._inside(track.start, track.end):
                if box.kind == b"tkhd":
                    size = (self._number(box.end - 8, 4, box.end) >> 16,
                            self._number(box.end - 4, 4, box.end) >> 16)  # fmt: skip
                    self.sizes.append(size)
                    self.track_size = self.track_size or (size if all(size) else None)
                elif box.kind == b"meta":
                    self._read_meta(box, is_main=False)
                elif box.kind == b"mdia":
                    self._read_samples(box)

    def _read_samples(self, mdia: Box) -> None:
        for table in self._below(mdia, b"minf", b"stbl"):
            found = list(self._inside(table.start, table.end))
            boxes = {box.kind: box for box in found}
            if len(boxes) < len(found):
                raise InvalidImage("the animation says twice where its pictures are")
            for kind in (b"stts", b"stss", b"stsc", b"stco", b"co64", b"stsz"):
                if kind in boxes:
                    at = boxes[kind].start + _FULL + (4 if kind == b"stsz" else 0)
                    self._count(self._number(at, 4, boxes[kind].end), "{} pictures of an animation")
            self._count(self._most_samples(boxes), "{} pictures of an animation")
            offsets = boxes.get(b"stco") or boxes.get(b"co64")
            sizes = boxes.get(b"stsz")
            if offsets is None or sizes is None:
                raise InvalidImage("the animation does not say where its pictures are")
            wide = 4 if b"stco" in boxes else 8
            offset = self._number(offsets.start + _FULL + 4, wide, offsets.end)
            length = self._number(sizes.start + _FULL, 4, sizes.end) or self._number(
                sizes.start + _FULL + 8, 4, sizes.end
            )
            coded = frozenset({self._sample_kind(boxes)})
            self.items.append(Item(coded, self._part(0, Box(b"", 0, 0), offset, max(1, length))))

    def _most_samples(self, boxes: dict[bytes, Box]) -> int:
        """The samples of all chunks, if each has as many as the largest."""
        chunks = boxes.get(b"stco") or boxes.get(b"co64")
        runs = boxes.get(b"stsc")
        if chunks is None or runs is None:
            return 0
        count = self._number(runs.start + _FULL, 4, runs.end)
        most = max(
            (self._number(runs.start + _FULL + 8 + 12 * run, 4, runs.end) for run in range(count)),
            default=0,
        )
        return most * self._number(chunks.start + _FULL, 4, chunks.end)

    def _sample_kind(self, boxes: dict[bytes, Box]) -> bytes:
        box = boxes.get(b"stsd")
        return b"" if box is None else self._data[box.start + 12 : box.start + 16]

    def _below(self, box: Box, *path: bytes) -> Iterator[Box]:
        """Yield the boxes at a path below one."""
        if not path:
            yield box
            return
        for inner in self._inside(box.start, box.end):
            if inner.kind == path[0]:
                yield from self._below(inner, *path[1:])

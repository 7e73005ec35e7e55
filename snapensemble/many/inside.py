"""Pictures by name and address: in files of their own, in Parquet files and in tar files.

The words are those of `train --data`: `parquet:FILE` and `wds:PATTERN`. An address is what a lane
reads a picture by. It begins with NUL, which no path can hold, unless it is a path.
"""

import glob
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.files import MAX_PICTURE_BYTES, read_regular
from snapensemble.contracts.pictures.walk import summary
from snapensemble.many.files import Identity, Pictures, divided
from snapensemble.trainer.data.sources.arrow import image_column
from snapensemble.trainer.data.sources.cells import Cellwise, ParquetFile
from snapensemble.trainer.data.sources.shards import (
    Member,
    Members,
    expanded,
    samples,
    shard_files,
)
from snapensemble.trainer.data.sources.source import times
from snapensemble.trainer.data.sources.table import PATH_NAMES, named

PARQUET, TARS = "parquet", "wds"
FILES_KEPT = 4  # opened Parquet files of a reader


class Picture(NamedTuple):
    """A picture that was found."""

    name: str  # for people: its path, or the file that it is in and its place there
    address: bytes  # what `Reader` reads it by, in any process


@dataclass
class Sources:
    """The pictures that a command line names, one after another, however many there are.

    Args:
        texts: files, folders and patterns, see `Pictures`; `parquet:FILE` and `wds:PATTERN`, in
            which `{000..003}`, `*` and `?` stand for several files.
        left_out: folders that are not entered.
        own: names of files that are passed over without a word.
    """

    texts: Sequence[str]
    left_out: Collection[Identity] = ()
    own: Collection[str] = ()
    passed_over: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Picture]:
        """Yield pictures in the order of their sources.

        Raises:
            InvalidData: a source is not there, or cannot be read.
            InvalidConfig: pyarrow is not installed.
        """
        for text in self.texts:
            word, pattern = _worded(text)
            if word == PARQUET:
                for file in parquet_files(pattern):
                    yield from _rows_of(file)
            elif word == TARS:
                for shard in shard_files(Path(pattern)):
                    yield from self._members_of(shard)
            else:
                pictures = Pictures([text], self.left_out, self.own, self.passed_over)
                for path in pictures:
                    yield Picture(path, os.fsencode(os.path.abspath(path)))

    def _members_of(self, shard: Path) -> Iterator[Picture]:
        place = _address(TARS, str(shard.absolute()))
        for _, _, _, found in samples(shard, self.passed_over):
            address = _address(place, str(found.offset_data), str(found.size))
            yield Picture(f"{shard}: {found.name}", address)

    @cached_property
    def containers(self) -> list[Path]:
        """The Parquet and tar files."""
        return [
            file
            for word, pattern in map(_worded, self.texts)
            if word
            for file in (parquet_files(pattern) if word == PARQUET else shard_files(Path(pattern)))
        ]

    def check(self) -> None:
        """Raise InvalidData if one of the sources is not there."""
        for text in self.texts:
            if not _worded(text)[0]:
                divided(text)
        _ = self.containers

    def stamps(self) -> list[str]:
        """The Parquet and tar files with their sizes and times: pictures in them have none."""
        return [" ".join(map(str, [file.absolute(), *times(file)])) for file in self.containers]

    def describe(self) -> str:
        """What was passed over, by kind, in one line; empty if nothing was."""
        return summary(self.passed_over)


class Reader:
    """Reads pictures by their addresses, from any thread; Parquet files stay open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[Path, ParquetFile] = {}

    def read(self, address: bytes) -> bytes:
        """The bytes of the encoded picture.

        Raises:
            OSError: the disk does not give it.
            InvalidImage, InvalidData: there is none at this address.
        """
        if not address.startswith(b"\0"):
            return read_regular(Path(os.fsdecode(address)), MAX_PICTURE_BYTES)
        word, path, *place = (os.fsdecode(each) for each in address[1:].split(b"\0"))
        if word == TARS:
            offset, size = map(int, place)
            return Members([Path(path)], [Member(0, path, offset, size)]).read(0)
        column, row = place[0], int(place[1])
        return Cellwise([self._cells(Path(path))], [column], [(0, row)]).read(0)

    def _cells(self, file: Path) -> ParquetFile:
        with self._lock:
            if file not in self._opened:
                self._opened[file] = ParquetFile(file)
                if len(self._opened) > FILES_KEPT:
                    del self._opened[next(iter(self._opened))]
            return self._opened[file]


def parquet_files(pattern: str) -> list[Path]:
    """The Parquet files that a pattern stands for, in its order.

    Raises:
        InvalidData: no file fits.
    """
    files: dict[Path, None] = {}
    for text in expanded(pattern):
        is_plain = not glob.has_magic(text) or Path(text).exists()
        found = [text] if is_plain else sorted(glob.glob(text, recursive=True))
        if not found or not all(map(os.path.isfile, found)):
            raise InvalidData(f"no file fits {PARQUET}:{text}; expected Parquet files")
        files.update(dict.fromkeys(map(Path, found)))
    return list(files)


def _rows_of(file: Path) -> Iterator[Picture]:
    """The rows of a Parquet file: with pictures, else with paths that begin where the file is."""
    cells = ParquetFile(file)
    column = image_column(cells)
    if column is not None:
        place = _address(PARQUET, str(file.absolute()), column)
        for row in range(cells.rows):
            yield Picture(f"{file} row {row}", _address(place, str(row)))
        return
    names: list[str] = cells.schema.names
    at = named(file, names, PATH_NAMES)
    if at is None:
        raise InvalidData(
            f"{file} has the columns {', '.join(map(repr, names))}; expected one with encoded "
            f"pictures, or with paths, called {PATH_NAMES[0]}"
        )
    for row, value in enumerate(cells.column(names[at])):
        if not isinstance(value, str) or not value or "\0" in value:
            raise InvalidData(f"{file} row {row}: the path is {value!r}; expected that of a file")
        path = os.path.join(file.parent, value)
        yield Picture(path, os.fsencode(os.path.abspath(path)))


def _worded(text: str) -> tuple[str, str]:
    """The word before a source's colon and what follows; no word where the source is a path."""
    word, colon, rest = text.partition(":")
    return (word, rest) if colon and word in (PARQUET, TARS) else ("", text)


def _address(first: bytes | str, *rest: str) -> bytes:
    begin = first if isinstance(first, bytes) else b"\0" + first.encode()
    return b"\0".join([begin, *map(os.fsencode, rest)])

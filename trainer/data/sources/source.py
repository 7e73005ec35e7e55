"""Encoded pictures by index, wherever they lie, and what is known of them before decoding."""

import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.sources.splits import Part

PartOrAll = Literal[Part, "everything"]


class Source(ABC):
    """A number of encoded pictures; each is read when it is asked for, by any thread."""

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call a picture: its file, or the file and the row."""

    @abstractmethod
    def stamp(self, index: int) -> list[str | int]:
        """What changes whenever the picture's bytes do, without reading them."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded picture.

        Raises:
            OSError: the disk does not give it.
            InvalidImage: there is none at this place.
        """


@dataclass(frozen=True)
class Files(Source):
    """A file per picture."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.paths[index])

    def stamp(self, index: int) -> list[str | int]:
        """The file's place, size and times."""
        path = self.paths[index]
        return [str(path.absolute()), *times(path)]

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return self.paths[index].read_bytes()


@dataclass(frozen=True)
class Chosen(Source):
    """Some pictures of a source."""

    source: Source
    rows: Sequence[int]

    def __len__(self) -> int:
        """How many are chosen."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """As in the source."""
        return self.source.name(self.rows[index])

    def stamp(self, index: int) -> list[str | int]:
        """As in the source."""
        return self.source.stamp(self.rows[index])

    def read(self, index: int) -> bytes:
        """As in the source."""
        return self.source.read(self.rows[index])


@dataclass(frozen=True)
class Labelled:
    """Encoded pictures and the index of each one's class, in the same order."""

    source: Source
    labels: Sequence[int]


@dataclass(frozen=True)
class Found:
    """What lies at a SPEC: either `everything` in one piece, or `train` with other parts."""

    place: str  # for messages
    classes: tuple[str, ...]
    parts: dict[PartOrAll, Labelled]
    bad: list[str] = field(default_factory=list)  # a line for each picture that is not there


def times(file: Path) -> list[int]:
    """The size of a file and when it changed; nothing if it is not there."""
    try:
        status = file.stat()
    except (OSError, ValueError):  # it will be named as unreadable; no path has some characters
        return []
    # Nobody can set the last of them: it tells of an older file of the same size in its place.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def regular(file: Path) -> Path:
    """The same file, which is one: neither a FIFO, which would be waited for, nor a device.

    Raises:
        InvalidData: it is of another kind.
        OSError: it is absent, or cannot be looked at.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise InvalidData(f"{file} is no regular file; expected one that can be read again")
    return file

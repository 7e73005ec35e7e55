"""Put answered pictures into a folder per class, moved or linked, and write over nothing.

Where a picture goes is decided, and written down, before it goes there, so that a program that was
killed in between can go on: what lies at the decided place is then its own work.
"""

import contextlib
import errno
import filecmp
import hashlib
import itertools
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from snapensemble.contracts.files import TEMPORARY, explaining_failures, sync_directory
from snapensemble.contracts.process import say
from snapensemble.many.rows import PLACES, folder_of

NUMBERED = 50  # pictures of one name that are told apart by numbers; others by a hash of the path
# Of systems that have no hard links, or not between these two places.
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Placement(NamedTuple):
    """A picture and where it is to go."""

    source: str
    target: str


@dataclass
class Places:
    """The folders by class.

    Args:
        way: whether pictures are moved, or symbolic links to them are made.
        directory: where the folders are; made if it is not there.
    """

    way: Literal["move", "link"]
    directory: Path
    _claimed: set[str] = field(default_factory=set)  # decided and not taken yet

    @property
    def column(self) -> str:
        """The column of a row that says where the picture is."""
        return PLACES[self.way]

    def prepared(self) -> tuple[int, int]:
        """Make the directory, and return its device and inode.

        Raises:
            WriteFailed: it cannot be made.
        """
        with explaining_failures(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            status = self.directory.stat()
        return status.st_dev, status.st_ino

    def decide(self, source: str, name: str) -> Placement:
        """Decide where a picture of a class goes: under its own name, if nothing is there yet."""
        folder = self.directory / folder_of(name)
        with explaining_failures(folder):
            folder.mkdir(exist_ok=True)
            target = next(_free(folder, source, self._claimed))
        self._claimed.add(target)
        return Placement(source, target)

    def put(self, placements: list[Placement]) -> None:
        """Move or link pictures that were decided on, or the rest of them.

        Raises:
            WriteFailed: a picture cannot be moved; those before it are.
        """
        for source, target in placements:
            with explaining_failures(target):
                try:
                    self._put(source, target)
                except FileExistsError:  # somebody else has taken the place meanwhile
                    other = next(_free(os.path.dirname(target), source, self._claimed))
                    say(f"{target} is taken by now: {source} goes to {other}")
                    self._put(source, other)
            self._claimed.discard(target)
        for folder in {os.path.dirname(target) for _, target in placements}:
            with explaining_failures(folder):
                sync_directory(Path(folder))

    def _put(self, source: str, target: str) -> None:
        if self.way == "link":
            _link(source, target)
        elif os.path.lexists(source):  # else it was moved before
            _move(source, target)


def _free(folder: str | Path, source: str, claimed: Collection[str]) -> Iterator[str]:
    """Yield places in a folder where nothing is: first under the picture's own name."""
    for each in _candidates(folder, source):
        if each not in claimed and not os.path.lexists(each):
            yield each


def _candidates(folder: str | Path, source: str) -> Iterator[str]:
    stem, suffix = os.path.splitext(os.path.basename(source))
    yield os.path.join(folder, stem + suffix)
    for number in range(2, NUMBERED):
        yield os.path.join(folder, f"{stem}-{number}{suffix}")
    for number in itertools.count(1):
        yield os.path.join(folder, f"{stem}-{_key(source)}-{number}{suffix}")


def _link(source: str, target: str) -> None:
    try:
        os.symlink(source, target)
    except FileExistsError:
        if not (os.path.islink(target) and os.readlink(target) == source):
            raise


def _move(source: str, target: str) -> None:
    """Give a picture another name, or copy it where it lies on another file system."""
    if os.path.islink(source):  # a relative link would lead elsewhere from its new place
        _link(os.path.realpath(source), target)
    elif not _named(source, target, source):
        _copy(source, target)
    with contextlib.suppress(FileNotFoundError):  # of a copy that was whole when we were killed
        os.unlink(_temporary(source, target))
    os.unlink(source)


def _copy(source: str, target: str) -> None:
    """Copy a file whole: it takes its name when all of it has reached the disk."""
    folder, temporary = os.path.dirname(target), _temporary(source, target)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        with open(source, "rb") as original, open(temporary, "xb") as copied:
            shutil.copyfileobj(original, copied)
            copied.flush()
            os.fsync(copied.fileno())
        shutil.copystat(source, temporary)
        if not _named(temporary, target, source):
            with contextlib.suppress(FileExistsError):  # empty: claimed before we were killed
                os.close(os.open(target, os.O_CREAT | os.O_EXCL))
            os.replace(temporary, target)
        sync_directory(Path(folder))  # before the picture goes from where it was
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _temporary(source: str, target: str) -> str:
    """What a copy is called at first: the same at every try, so that nothing is left behind."""
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name[:60]}.{_key(source)}{TEMPORARY}")


def _key(source: str) -> str:
    return hashlib.sha256(os.fsencode(source)).hexdigest()[:12]


def _named(file: str, target: str, source: str) -> bool:
    """Give a file a name that nothing has; False where the file system cannot.

    Raises:
        FileExistsError: something other than the picture, or a place claimed for it, is there.
    """
    try:
        os.link(file, target)
    except FileExistsError:
        if filecmp.cmp(source, target, shallow=False):  # done before we were killed
            return True
        if os.path.getsize(target):
            raise
        return False
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        if os.path.lexists(target) and os.path.getsize(target):
            if filecmp.cmp(source, target, shallow=False):
                return True
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        return False
    return True

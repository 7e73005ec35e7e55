"""The pictures that a command line names, one after another, however many there are.

A folder stands for all pictures below it, in the order of their names. Names of one folder at a
time are in memory, and nothing else grows with the number of pictures.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pictures.walk import (
    LINKED_ABOVE,
    NO_FILE,
    is_directory,
    is_shown,
    kind_of,
    summary,
)
from snapensemble.contracts.pixels import SUFFIXES

Identity = tuple[int, int]  # a folder's device and inode


@dataclass
class Pictures:
    """The pictures below files, folders and patterns.

    Args:
        sources: files, which are taken whatever they are called; folders; and patterns, in which
            `**` stands for any number of folders. A folder that a pattern matches is taken whole.
        left_out: folders that are not entered, such as the one where pictures are moved to.
        own: names of files that are passed over without a word.
    """

    sources: Sequence[str]
    left_out: Collection[Identity] = ()
    own: Collection[str] = ()
    passed_over: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[str]:
        """Yield paths that begin as their sources do.

        Raises:
            InvalidData: a source is not there, or a folder that was named cannot be read.
        """
        for root, pattern in [divided(source) for source in self.sources]:
            if pattern or os.path.isdir(root):
                yield from self._below(root, pattern)
            else:
                yield root

    def _below(self, root: str, pattern: Sequence[str]) -> Iterator[str]:
        try:
            opened = [_opened(root)]
        except OSError as error:
            raise InvalidData(f"{root}: {error.strerror}") from error
        while opened:
            entry = next(opened[-1][1], None)
            if entry is None:
                opened.pop()
            elif not is_shown(entry.name) or entry.name in self.own:
                continue
            elif is_directory(entry):
                if not pattern or may_hold(_parts(entry.path, root), pattern):
                    self._enter(entry.path, opened)
            elif not pattern or matches(_parts(entry.path, root), pattern):
                # A link that leads nowhere counts by its suffix, so that it is not missed.
                is_file = os.path.isfile(entry.path) or entry.is_symlink()
                kind = kind_of(Path(entry.path)) if is_file else NO_FILE
                if kind in SUFFIXES:
                    yield entry.path
                else:
                    self.passed_over[kind] += 1

    def _enter(self, path: str, opened: list[tuple[Identity, Iterator[os.DirEntry[str]]]]) -> None:
        try:
            identity, entries = _opened(path)
        except OSError as error:
            self.passed_over[f"folder ({error.strerror})"] += 1
            return
        if identity in self.left_out:
            return
        if any(identity == above for above, _ in opened):
            self.passed_over[LINKED_ABOVE] += 1
            return
        opened.append((identity, entries))

    def describe(self) -> str:
        """What was passed over, by kind, in one line; empty if nothing was."""
        return summary(self.passed_over)


def divided(source: str) -> tuple[str, list[str]]:
    """The folder or file where a source begins, and the parts of its pattern; none if it has none.

    Raises:
        InvalidData: it is not there.
    """
    if os.path.lexists(source):  # also a name with brackets or a star in it
        return source, []
    parts = os.path.normpath(source).split(os.sep)
    first = next((at for at, part in enumerate(parts) if has_magic(part)), len(parts))
    root = os.sep.join(parts[:first]) or (os.sep if os.path.isabs(source) else os.curdir)
    if first == len(parts) or not os.path.isdir(root):
        raise InvalidData(f"{source}: no such file or folder")
    return root, parts[first:]


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern matches a path, or a folder that the path is in."""
    if not pattern:
        return True
    if not parts:
        return False
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def may_hold(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether something below a folder can match a pattern."""
    begun = pattern[: len(parts)]
    return "**" in begun or matches(parts, begun)


def _opened(path: str) -> tuple[Identity, Iterator[os.DirEntry[str]]]:
    status = os.stat(path)
    with os.scandir(path) as entries:
        return (status.st_dev, status.st_ino), iter(sorted(entries, key=lambda each: each.name))


def _parts(path: str, root: str) -> list[str]:
    return os.path.relpath(path, root).split(os.sep)

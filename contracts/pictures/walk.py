"""Which files below a directory are pictures: the same for training, evaluating and predicting.

A file is a picture if its suffix is one of `SUFFIXES`, or if it has none and begins as a picture
does. Whether it can be decoded is not asked here. Links are followed. What is hidden, or put
beside the pictures by systems and programs, is ignored; all else is passed over and counted.
"""

import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pictures.png import SIGNATURE
from snapensemble.contracts.pictures.tiff import MAGIC
from snapensemble.contracts.pixels import SUFFIXES

# Of macOS's archives, Synology's thumbnails, and Windows.
_OF_SYSTEMS = {
    "__macosx",
    "@eadir",
    "thumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
}
# Other characters, or digits only, after a dot belong to the name: "photo.2", "Dr. Who".
_SUFFIX = re.compile(r"\.(?=\d*[A-Za-z_~-])[\w~-]{1,16}", re.ASCII)
_HEAD_BYTES = 16
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_HINTS = {
    **dict.fromkeys((".heic", ".heif"), "install snapensemble[heic]"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"), "to be unpacked"),
}
_MOST_KINDS = 12
WITHOUT_SUFFIX = "without a suffix"
LINKED_ABOVE = "linked to a folder above it"
LINKED_TWICE = "linked twice"
LINKED_NOWHERE = "linked to nothing"
NO_FILE = "neither file nor folder"


class Walk:
    """Finds the pictures below directories, and counts what it passes over in all of them.

    A directory that is reached twice, by links or because one of the directories holds another,
    is read once: where it lies, if it does lie below the first directory that leads to it.

    Attributes:
        passed_over: how many files and links of each kind were not read.
        shared: pairs of paths to one directory, which a call read and a later call left out.
    """

    def __init__(self) -> None:
        self.passed_over: Counter[str] = Counter()
        self.shared: list[tuple[Path, Path]] = []
        self._calls = 0
        self._read: dict[Path, tuple[Path, int]] = {}  # real path -> (as it was found, in call)

    def pictures(self, directory: Path, *, deep: bool = True) -> list[Path]:
        """The pictures below a directory, in the order of their paths.

        Args:
            directory: where to look.
            deep: whether to look into the directories in it, too.

        Raises:
            InvalidData: a directory cannot be listed.
        """
        if not deep:
            files = (each for each in listed(directory) if not is_directory(each))
            return [path for each in files for path in self._picture(each)]
        self._calls += 1
        found: list[Path] = []
        # Links wait until the end: a directory is read under the path that it has without them.
        waiting = deque([(directory, directory.resolve())])
        while waiting:
            path, real = waiting.popleft()
            if self._enters(path, real):
                for entry in listed(path):
                    if not is_directory(entry):
                        found += self._picture(entry)
                    elif not entry.is_symlink():
                        waiting.appendleft((path / entry.name, real / entry.name))
                    elif (target := Path(entry.path).resolve()) in _above(path, real):
                        self.passed_over[LINKED_ABOVE] += 1
                    else:
                        waiting.append((path / entry.name, target))
        return sorted(found)

    def summary(self) -> str:
        """What was passed over, as a line; empty if that is nothing."""
        return summary(self.passed_over)

    def _enters(self, path: Path, real: Path) -> bool:
        """Note that a directory is read; false if it was before."""
        before, call = self._read.setdefault(real, (path, self._calls))
        if before is path:
            return True
        if call == self._calls:
            self.passed_over[LINKED_TWICE] += 1
        else:
            self.shared.append((before, path))
        return False

    def _picture(self, entry: "os.DirEntry[str]") -> Iterator[Path]:
        """The entry if it is a picture; else it is counted."""
        path = Path(entry.path)
        if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises behind closed doors)
            self.passed_over[LINKED_NOWHERE if entry.is_symlink() else NO_FILE] += 1
        elif (kind := kind_of(path)) in SUFFIXES:
            yield path
        else:
            self.passed_over[kind] += 1


def summary(passed_over: Mapping[str, int]) -> str:
    """How many of each kind were passed over, as a line; empty if that is nothing."""
    kinds = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {_described(kind)}" for kind, count in kinds[:_MOST_KINDS]]
    if rest := sum(count for _, count in kinds[_MOST_KINDS:]):
        shown.append(f"{rest:,} of other kinds")
    return f"passed over: {', '.join(shown)}" if shown else ""


def listed(directory: Path) -> list["os.DirEntry[str]"]:
    """What lies in a directory and is not to be ignored, in the order of names.

    Raises:
        InvalidData: the directory cannot be listed.
    """
    try:
        with os.scandir(directory) as entries:
            return sorted((each for each in entries if is_shown(each.name)), key=lambda e: e.name)
    except OSError as error:
        raise InvalidData(f"{directory} cannot be listed: {error.strerror}") from error


def is_shown(name: str) -> bool:
    """Whether a file or directory of this name is looked at: not hidden, nor a system's own."""
    return not name.startswith(".") and name.casefold() not in _OF_SYSTEMS


def kind_of(file: Path) -> str:
    """The suffix in lower case, or that of a picture by its first bytes, or `WITHOUT_SUFFIX`."""
    if _SUFFIX.fullmatch(file.suffix):
        return file.suffix.lower()
    try:
        with file.open("rb") as opened:
            return _kind_by(opened.read(_HEAD_BYTES)) or WITHOUT_SUFFIX
    except OSError:
        return WITHOUT_SUFFIX


def _kind_by(head: bytes) -> str | None:
    if head.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if head.startswith(SIGNATURE):
        return ".png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return ".webp"
    if head.startswith(b"BM") and head[6:10] == bytes(4):  # two letters alone may begin a text
        return ".bmp"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return ".gif"
    if head.startswith(MAGIC):
        return ".tif"
    if head[4:8] == b"ftyp":
        return ".avif" if head[8:12] == b"avif" else ".heic" if head[8:12] in _HEIC_BRANDS else None
    return None


def is_directory(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a directory, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _above(path: Path, real: Path) -> set[Path]:
    """The real places of a directory and of all above it, on the way that led there and its own."""
    way = Path(os.path.abspath(path))  # noqa: PTH100 (Path.absolute keeps "..")
    return {real, *real.parents, *(each.resolve() for each in way.parents)}


def _described(kind: str) -> str:
    return f"{kind} ({_HINTS[kind]})" if kind in _HINTS else kind

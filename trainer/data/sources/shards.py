"""WebDataset's tar files: pictures and labels side by side, with one name before the first dot.

`0001.jpg` and `0001.cls` make a sample, and so do `0001.png` and `0001.json`. The headers of the
tar files are read once; a picture is then read at its place. Plain `tarfile` serves: the package
webdataset reads samples in a row, and not one by its index.
"""

import glob
import itertools
import json
import math
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from snapensemble.contracts.errors import InvalidData, InvalidImage
from snapensemble.contracts.pictures.walk import is_shown
from snapensemble.contracts.pixels import SUFFIXES
from snapensemble.contracts.process import say
from snapensemble.trainer.data.sources.source import (
    Found,
    Labelled,
    PartOrAll,
    Source,
    regular,
    times,
)
from snapensemble.trainer.data.sources.splits import EXPECTED, composed, part_called, part_in

LABEL_KEYS = ("label", "cls", "class", "class_name", "category", "target")
_LABEL_SUFFIXES = (".cls", ".json")
_MOST_LABEL_BYTES = 1 << 20
_MOST_SHARDS = 100_000
_MOST_DIGITS = 18
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(rf"(\d{{1,{_MOST_DIGITS}}})\.\.(\d{{1,{_MOST_DIGITS}}})")


class Member(NamedTuple):
    """The place of a file in a tar file."""

    shard: int
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Members(Source):
    """Pictures in tar files."""

    shards: Sequence[Path]
    members: Sequence[Member]

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.members)

    def name(self, index: int) -> str:
        """The tar file and the name in it."""
        member = self.members[index]
        return f"{self.shards[member.shard]}: {member.name}"

    def stamp(self, index: int) -> list[str | int]:
        """The tar file with its size and times, and the place in it."""
        member = self.members[index]
        file = self.shards[member.shard]
        place = (member.name, member.offset, member.size)
        return [str(file.absolute()), *times(file), *place]

    def read(self, index: int) -> bytes:
        """The bytes at the member's place."""
        member = self.members[index]
        with self.shards[member.shard].open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        if len(data) < member.size:
            raise InvalidImage(f"{len(data)} of its {member.size} bytes are there; cut off")
        return data


def find_shards(pattern: Path) -> Found:
    """Find the pictures in tar files.

    If the files' names tell parts, as in flowers-train-0001.tar, these are the parts. The names of
    classes are the texts or numbers in .cls, or under `label` or `cls` in .json.

    Args:
        pattern: with ranges {000..003}, alternatives {train,val}, and * or ?; or a directory.

    Raises:
        InvalidData: no file fits, one is no plain tar file, or a sample's label is missing.
    """
    shards = shard_files(pattern)
    passed: Counter[str] = Counter()
    found = [
        (
            Member(index, picture.name, picture.offset_data, picture.size),
            _label(archive, shard, key, sample),
        )
        for index, shard in enumerate(shards)
        for archive, key, sample, picture in samples(shard, passed)
    ]
    if passed:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in passed.most_common(12))
        say(f"passed over: {kinds}")
    if not found:
        raise InvalidData(
            f"{pattern}: no sample has a picture; expected KEY.jpg (or {', '.join(SUFFIXES[1:4])}, "
            "...) and KEY.cls or KEY.json with its label"
        )
    classes = tuple(sorted({label for _, label in found}, key=_numbers_first))
    index_of = {name: index for index, name in enumerate(classes)}
    part_of = _parts(pattern, shards)
    taken: dict[PartOrAll, tuple[list[Member], list[int]]] = {}
    for member, label in found:
        members, labels = taken.setdefault(part_of[member.shard], ([], []))
        members.append(member)
        labels.append(index_of[label])
    if not {"train", "everything"} & taken.keys():
        raise InvalidData(
            f"{pattern}: the names of all shards tell of {', '.join(taken)}, none of train"
        )
    parts = {
        part: Labelled(Members(shards, members), labels)
        for part, (members, labels) in taken.items()
    }
    return Found(str(pattern), classes, parts)


def expanded(pattern: str) -> Iterator[str]:
    """The texts that a pattern with {000..003} and {a,b} stands for, in its order.

    Raises:
        InvalidData: they are too many.
    """
    texts = _BRACES.split(pattern)  # what stands in braces is at the odd places
    choices: list[Sequence[str]] = [
        _choices(text) if place % 2 else [text] for place, text in enumerate(texts)
    ]
    if math.prod(map(len, choices)) > _MOST_SHARDS:
        raise InvalidData(f"{pattern} stands for more than {_MOST_SHARDS:,} files; expected fewer")
    yield from map("".join, itertools.product(*choices))


def _choices(text: str) -> Sequence[str]:
    """What may stand in the place of braces that hold this text."""
    numbers = _RANGE.fullmatch(text)
    if numbers is None:
        return text.split(",")
    first, last = numbers.groups()
    count = min(int(last) - int(first), _MOST_SHARDS) + 1
    return [f"{int(first) + i:0{len(first)}d}" for i in range(count)]


def shard_files(pattern: Path) -> list[Path]:
    """The tar files that a pattern or a directory stands for, in its order.

    Raises:
        InvalidData: no file fits, or a range is too long.
    """
    if pattern.is_dir():
        pattern = pattern / "*.tar"
    shards: dict[Path, None] = {}
    for text in expanded(str(pattern)):
        is_plain = not glob.has_magic(text) or Path(text).exists()
        files = [text] if is_plain else sorted(glob.glob(text))  # noqa: PTH207 (an absolute pattern)
        if not files:
            raise InvalidData(f"no file fits {text}; expected tar files of WebDataset")
        shards.update(dict.fromkeys(map(Path, files)))
    return list(shards)


def _parts(pattern: Path, shards: list[Path]) -> list[PartOrAll]:
    """The part of each shard, by its name or that of its directory."""
    told = [part_in(shard.stem) or part_called(shard.parent.name) for shard in shards]
    if None in told and any(told):
        silent = shards[told.index(None)]
        raise InvalidData(
            f"{pattern}: the name of {silent} tells no part, those of others do; expected one of "
            f"{EXPECTED} in each name, or in none"
        )
    return [part or "everything" for part in told]


def samples(
    shard: Path, passed: Counter[str]
) -> Iterator[tuple[tarfile.TarFile, str, list[tarfile.TarInfo], tarfile.TarInfo]]:
    """The samples of a shard that have a picture: the opened shard, key, files and picture.

    Args:
        shard: a plain tar file.
        passed: is told what was passed over, by suffix.

    Raises:
        InvalidData: it is no plain tar file, or a sample has several pictures.
    """
    try:
        with tarfile.open(regular(shard), "r:") as archive:
            members = (each for each in archive if each.isfile() and _is_shown(each.name))
            for key, group in itertools.groupby(members, key=lambda each: _key(each.name)):
                sample = list(group)
                if picture := _picture(shard, key, sample, passed):
                    yield archive, key, sample, picture
    except OSError as error:
        raise InvalidData(f"{shard}: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise InvalidData(
            f"{shard}: cannot be read as a tar file: {error}; a compressed one has to be "
            "decompressed, so that pictures can be read at their places"
        ) from error


def _picture(
    shard: Path, key: str, sample: list[tarfile.TarInfo], passed: Counter[str]
) -> tarfile.TarInfo | None:
    pictures = [each for each in sample if Path(each.name).suffix.lower() in SUFFIXES]
    # The one with the plain suffix, if others are called KEY.mask.png.
    plain = [each for each in pictures if _suffix(each.name).count(".") == 1] or pictures
    if len(plain) > 1:
        raise InvalidData(
            f"{shard}: the sample {key!r} has several pictures: "
            f"{', '.join(each.name for each in plain[:3])}; expected one"
        )
    kept = (*_LABEL_SUFFIXES, *(_suffix(each.name) for each in plain))
    passed.update(suffix for each in sample if (suffix := _suffix(each.name)) not in kept)
    return plain[0] if plain else None


def _label(archive: tarfile.TarFile, shard: Path, key: str, sample: list[tarfile.TarInfo]) -> str:
    """The label of a sample, as text.

    Raises:
        InvalidData: there is none, or it is empty or no text in UTF-8.
    """
    by_suffix = {_suffix(each.name): each for each in sample}
    suffix = next((each for each in _LABEL_SUFFIXES if each in by_suffix), None)
    if suffix is None:
        raise InvalidData(
            f"{shard}: the sample {key!r} has no label; expected {Path(key).name}.cls or .json "
            f"beside the picture, found {', '.join(by_suffix)}"
        )
    member, content = by_suffix[suffix], b""
    if member.size <= _MOST_LABEL_BYTES and (stream := archive.extractfile(member)) is not None:
        content = _all(stream)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidData(
            f"{shard}: {member.name}: byte {error.start:,} is not UTF-8; write labels in UTF-8"
        ) from error
    label = composed((_in_json(text) if suffix == ".json" else text).strip())
    if not label:
        raise InvalidData(
            f"{shard}: {member.name} has no label; expected a text or a number"
            + (f" under one of {', '.join(LABEL_KEYS)}" if suffix == ".json" else "")
        )
    return label


def _in_json(text: str) -> str:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(fields, dict):
        return ""
    found = (fields[key] for key in LABEL_KEYS if isinstance(fields.get(key), str | int))
    return str(next(found, ""))


def _all(stream: IO[bytes]) -> bytes:
    with stream:
        return stream.read()


def _key(name: str) -> str:
    directory, _, base = name.rpartition("/")
    return f"{directory}/{base.partition('.')[0]}"


def _suffix(name: str) -> str:
    """All after the first dot, in lower case, with the dot."""
    base = name.rpartition("/")[2]
    return base[base.find(".") :].lower() if "." in base else ""


def _is_shown(name: str) -> bool:
    return all(is_shown(part) for part in name.removeprefix("./").split("/"))


def _numbers_first(label: str) -> tuple[bool, int, str]:
    is_number = label.isdecimal() and len(label) <= _MOST_DIGITS
    return (False, int(label), label) if is_number else (True, 0, label)

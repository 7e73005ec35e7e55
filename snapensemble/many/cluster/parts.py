"""The folder of rows: a plan of blocks, which is written first, and a Parquet file for each block.

A block is a number of pictures that follow each other. Its file takes its name when it is whole, so
that whatever has ended the command, the files that are there are done, and the others are not.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.files import (
    explaining_failures,
    remove_unfinished,
    write_atomically,
)
from snapensemble.contracts.options import differences
from snapensemble.many.inside import Picture
from snapensemble.many.rows import path_text

PLAN = "_plan.jsonl"  # readers of data sets in Parquet pass over names with an underscore
OWN = (PLAN, "part-*.parquet")


@dataclass(frozen=True)
class Block:
    """Pictures that follow each other."""

    pictures: int
    first: str  # the name of the first, as text
    digest: str  # of all their names and addresses


@dataclass(frozen=True)
class Plan:
    """What a folder of rows is made of.

    Args:
        options: by name, what the rows depend on; another start has to have the same.
        inputs: files that hold pictures, with their sizes and times.
        blocks: in the order of the pictures.
    """

    options: Mapping[str, str]
    inputs: Sequence[str]
    blocks: Sequence[Block]

    def refuse_other(self, found: "Plan", out: Path) -> None:
        """Raise InvalidConfig if a folder was begun by another plan, with what differs."""
        others = differences(found.options, self.options)
        others += [f"no more as it was: {each}" for each in found.inputs if each not in self.inputs]
        others = others or self._other_pictures(found)
        if others:
            raise InvalidConfig(
                f"{out} was begun in another way: {'; '.join(others[:5])}; give the same again, "
                "choose another --out, or give --restart to write it anew"
            )

    def _other_pictures(self, found: "Plan") -> list[str]:
        total = [sum(block.pictures for block in each.blocks) for each in (found, self)]
        counted = f"there were {total[0]:,} pictures, and are {total[1]:,}"
        start = 0
        for before, now in itertools.zip_longest(found.blocks, self.blocks):
            if before is None or now is None:
                return [counted]
            if before != now:
                names = f", the first of them was {before.first}, is {now.first}"
                return [
                    f"{counted}; the pictures {start + 1:,} to {start + before.pictures:,} are "
                    f"not the same{names if before.first != now.first else ''}"
                ]
            start += before.pictures
        return []


@dataclass
class Spooled:
    """The pictures of all blocks, kept in a file: they are walked once, and are not in memory."""

    file: BinaryIO
    starts: list[int]  # of each block, in bytes

    def read(self, block: int) -> list[Picture]:
        """The pictures of a block."""
        self.file.seek(self.starts[block])
        data = self.file.read(self.starts[block + 1] - self.starts[block])
        return [Picture(*_unpacked(line)) for line in data.splitlines()]


def divided_into_blocks(
    pictures: Iterable[Picture], size: int, file: BinaryIO, *, may_repeat: bool
) -> tuple[list[Block], Spooled]:
    """Cut pictures into blocks, and keep them in a file.

    Args:
        pictures: in their order.
        size: pictures of a block; the last one may have less.
        file: an empty one, for what `Spooled` reads.
        may_repeat: whether one picture may come twice; it is taken once.
    """
    if may_repeat:
        pictures = _once(pictures)
    blocks, starts, iterator = [], [0], iter(pictures)
    while block := list(itertools.islice(iterator, size)):
        data = b"".join(_packed(each) for each in block)
        file.write(data)
        starts.append(starts[-1] + len(data))
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        blocks.append(Block(len(block), path_text(block[0].name), digest))
    return blocks, Spooled(file, starts)


class Parts:
    """A folder with a plan, and the files of its finished blocks. Use as a context manager.

    Args:
        directory: the folder.
        plan: what is to be in it.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        self._directory = directory
        self.plan = plan
        self.finished: set[int] = set()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Parts":
        with self._open:
            with explaining_failures(self._directory):
                self._directory.mkdir(parents=True, exist_ok=True)
                self._open.enter_context(_alone_in(self._directory))
                remove_unfinished(self._directory)
                there = sorted(each.name for each in self._directory.iterdir())
            if PLAN in there:
                self.plan.refuse_other(_read(self._directory), self._directory)
                self.finished = {
                    number
                    for number, block in enumerate(self.plan.blocks)
                    if self._is_finished(number, block)
                }
            elif there:
                raise InvalidConfig(
                    f"{self._directory} holds {there[0]}, and no {PLAN} to go on with; choose "
                    "another --out"
                )
            else:
                write_atomically(self._directory / PLAN, _lines(self.plan))
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def missing(self) -> list[int]:
        """The numbers of the blocks that have no file yet."""
        return [at for at in range(len(self.plan.blocks)) if at not in self.finished]

    @property
    def rows(self) -> int:
        """How many rows are safe."""
        return sum(self.plan.blocks[at].pictures for at in self.finished)

    def add(self, number: int, data: bytes) -> bool:
        """Write the file of a block, unless it is there; say whether it was not.

        Raises:
            WriteFailed: the disk is full; the files that are there are whole.
        """
        if number in self.finished:
            return False
        write_atomically(self._file(number), data)
        self.finished.add(number)
        return True

    def _file(self, number: int) -> Path:
        return self._directory / f"part-{number:06d}.parquet"

    def _is_finished(self, number: int, block: Block) -> bool:
        from pyarrow import ArrowException, parquet

        file = self._file(number)
        if not file.exists():
            return False
        try:
            found = f"has {parquet.read_metadata(file).num_rows:,} rows"
        except (OSError, ArrowException) as error:
            found = f"cannot be read ({error})"
        if found != f"has {block.pictures:,} rows":
            raise InvalidConfig(
                f"{file} {found}, expected {block.pictures:,} rows: it was changed since it was "
                "written; remove it, and its pictures are asked again"
            )
        return True


def forget_parts(directory: Path) -> None:
    """Remove the rows that are there, and their plan; what else is in the folder stays.

    Raises:
        InvalidConfig: another command writes there.
    """
    if directory.is_dir():
        with explaining_failures(directory), _alone_in(directory):
            for pattern in OWN:
                for file in sorted(directory.glob(pattern)):
                    file.unlink()


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidConfig(f"another process is writing {directory}") from error
        yield
    finally:
        os.close(descriptor)


def _lines(plan: Plan) -> bytes:
    head = {"format": "predict-plan", "options": dict(plan.options), "inputs": list(plan.inputs)}
    return "".join(f"{json.dumps(each)}\n" for each in (head, *map(asdict, plan.blocks))).encode()


def _read(directory: Path) -> Plan:
    try:
        head, *blocks = map(json.loads, (directory / PLAN).read_bytes().splitlines())
        return Plan(head["options"], head["inputs"], [Block(**each) for each in blocks])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidConfig(
            f"{directory / PLAN} is damaged ({error}); give --restart to write {directory} anew"
        ) from error


def _once(pictures: Iterable[Picture]) -> Iterator[Picture]:
    seen: set[bytes] = set()
    for picture in pictures:
        key = hashlib.blake2b(os.fsencode(os.path.abspath(picture.name)), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            yield picture


def _packed(picture: Picture) -> bytes:
    """A picture as a line; a name may hold any byte but NUL, a line end among them."""
    return json.dumps([picture.name, os.fsdecode(picture.address)]).encode() + b"\n"


def _unpacked(line: bytes) -> tuple[str, bytes]:
    name, address = json.loads(line)
    return name, os.fsencode(address)


def refuse_none(blocks: Sequence[Block], texts: Sequence[str], passed_over: str) -> None:
    """Raise InvalidData if there is no picture at all."""
    if not blocks:
        raise InvalidData(
            f"no pictures in {', '.join(texts[:3])}" + (f"; {passed_over}" if passed_over else "")
        )

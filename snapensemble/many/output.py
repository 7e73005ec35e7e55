"""The file of rows, which grows, and beside it what of it is safe: an SQLite file.

The rows of a portion reach the disk first, then one transaction notes how long the file is now,
which pictures are in it, and which of them are to be put elsewhere. Whatever ends the program
between the two, what is behind the noted length is cut off, and its pictures are asked again.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from snapensemble.contracts.errors import InvalidConfig, WriteFailed
from snapensemble.contracts.files import (
    explaining_failures,
    refuse_unwritable,
    sync_directory,
    why_unwritten,
)
from snapensemble.contracts.options import differences
from snapensemble.many.places import Placement, Places

PROGRESS = ".progress"
PORTION_S, PORTION_ROWS = 2.0, 4096  # after which what is there is made safe
TAIL = 4096  # bytes before the noted length that must be as they were
SCHEMA = """
create table state (name text primary key, value) without rowid;
create table done (picture blob primary key) without rowid;
create table pending (source blob primary key, target blob) without rowid;
"""


class Output:
    """Rows that are safe, and the pictures that they are of. Use as a context manager.

    Args:
        file: of rows, one per line.
        options: by name, what the rows depend on; another start has to have the same.
        head: what the file begins with.
        places: where pictures are put once their rows are safe; None: they stay.
        out: the file that was asked for; the file of rows, if not given.
        restart: forget the rows that are there, in both of them.
    """

    def __init__(
        self,
        file: Path,
        options: Mapping[str, str],
        head: bytes = b"",
        places: Places | None = None,
        out: Path | None = None,
        restart: bool = False,
    ) -> None:
        self.file = file
        self._out = out or file
        self.rows = 0  # that are safe, of this start and those before
        self.torn = 0  # bytes that had to be cut off
        self._progress = progress_file(file)
        self._options = dict(options)
        self._head = head
        self._places = places
        self._restart = restart
        self._waiting: dict[bytes, None] = {}  # pictures of rows that are not safe yet
        self._placements: list[Placement] = []
        self._since = time.monotonic()
        self._bytes: BinaryIO = io.BytesIO()  # until it is open
        self._db: sqlite3.Connection

    def __enter__(self) -> "Output":
        refuse_unwritable(self.file.parent)
        with self._explaining():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self._progress.exists()
            if is_new and self.file.exists() and not self._restart:
                raise InvalidConfig(
                    f"{self.file} is there already, without {self._progress.name} beside it to go "
                    "on with; choose another --out, or give --restart to write it anew"
                )
            if self._restart and not self._is_readable():
                self._progress.unlink()
            self._db = self._connected()
            try:
                self._open()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, _kind: object = None, error: object = None, _trace: object = None) -> None:
        if isinstance(error, WriteFailed):
            error.add_note(f"{self.rows:,} rows are safe; the same command goes on")
        self._db.close()
        # What it still holds is behind the noted length, and would be cut off.
        with contextlib.suppress(OSError):
            self._bytes.close()

    def has(self, picture: str) -> bool:
        """Whether there is a row of a picture, safe or not."""
        key = _key(picture)
        if key in self._waiting:
            return True
        found = self._db.execute("select 1 from done where picture = ?", (key,))
        return found.fetchone() is not None

    def add(self, picture: str, line: bytes, placement: Placement | None = None) -> None:
        """Write the row of a picture; from time to time make all that were written safe.

        Raises:
            WriteFailed: the disk is full, or a picture cannot be put where it was to go.
        """
        with explaining_failures(self.file):
            self._bytes.write(line)
        self._waiting[_key(picture)] = None
        if placement is not None:
            self._placements.append(placement)
        late = time.monotonic() - self._since > PORTION_S
        if late or len(self._waiting) >= PORTION_ROWS:
            self.commit()

    def commit(self) -> None:
        """Make the rows so far safe, then put their pictures where they go.

        Raises:
            WriteFailed: as for `add`.
        """
        with self._explaining():
            self._bytes.flush()
            os.fsync(self._bytes.fileno())
            length, rows = self._bytes.seek(0, os.SEEK_END), self.rows + len(self._waiting)
            with self._transaction():
                keys = ((key,) for key in self._waiting)
                self._db.executemany("insert into done values (?)", keys)
                pairs = (tuple(map(os.fsencode, each)) for each in self._placements)
                self._db.executemany("insert into pending values (?, ?)", pairs)
                self._note(length, rows)
        self.rows = rows
        self._waiting.clear()
        self.place(self._placements)
        self._placements = []
        self._since = time.monotonic()

    def place(self, placements: Sequence[Placement] | None = None) -> None:
        """Put pictures where they go; if not given, those that an earlier start has left.

        Raises:
            WriteFailed: one cannot be put there.
        """
        if self._places is None:
            return
        if placements is None:
            with self._explaining():
                found = self._db.execute("select source, target from pending").fetchall()
            placements = [Placement(*map(os.fsdecode, each)) for each in found]
        if placements:
            self._places.put(list(placements))
            with self._explaining():
                self._db.execute("delete from pending")

    def clear(self) -> None:
        """Remove all rows: they are safe in another file now."""
        with self._explaining():
            # In this order: what lies behind the noted length is cut off by a later start.
            with self._transaction():
                self._note(0, self.rows)
            self._bytes.truncate(0)
            os.fsync(self._bytes.fileno())

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._progress, isolation_level=None, timeout=0.1)

    def _is_readable(self) -> bool:
        """Whether the progress is a database, which another process may be writing."""
        try:
            with contextlib.closing(self._connected()) as db:
                db.execute("select 1 from sqlite_master").fetchone()
        except sqlite3.OperationalError:
            return True
        except sqlite3.DatabaseError:
            return False
        return True

    def _open(self) -> None:
        self._db.execute("pragma locking_mode = exclusive")
        with self._transaction():
            tables = "select name from sqlite_master where type = 'table'"
            names = [name for (name,) in self._db.execute(tables).fetchall()]
            if self._restart:
                # The lock is held, so nobody else has these files open.
                for file in (self.file, self._out):
                    file.unlink(missing_ok=True)
                for name in names:
                    self._db.execute(f'drop table "{name}"')
            if self._restart or not names:
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._set("options", json.dumps(self._options))
                self._note(0, 0)
        self._refuse_others()
        self._bytes = self.file.open("ab+")
        length, self.rows = int(self._get("length")), int(self._get("rows"))
        if self._size() < length or self._tail(length) != self._get("tail"):
            raise InvalidConfig(
                f"{self.file} was changed since its rows were written; put it back as it was, "
                "choose another --out, or give --restart to write it anew"
            )
        self.torn = self._size() - length
        self._bytes.truncate(length)
        if not length and self._head:
            self._bytes.write(self._head)
        sync_directory(self.file.absolute().parent)

    def _refuse_others(self) -> None:
        if others := differences(json.loads(self._get("options")), self._options):
            raise InvalidConfig(
                f"{self._out} was begun in another way: {'; '.join(others)}; give the same again, "
                "choose another --out, or give --restart to write it anew"
            )

    def _note(self, length: int, rows: int) -> None:
        self._set("length", str(length))
        self._set("rows", str(rows))
        self._set("tail", self._tail(length) if length else _digest(b""))

    def _tail(self, length: int) -> str:
        start = max(0, length - TAIL)
        return _digest(os.pread(self._bytes.fileno(), length - start, start))

    def _size(self) -> int:
        return os.fstat(self._bytes.fileno()).st_size

    def _set(self, name: str, value: str) -> None:
        self._db.execute("insert or replace into state values (?, ?)", (name, value))

    def _get(self, name: str) -> str:
        return str(
            self._db.execute("select value from state where name = ?", (name,)).fetchone()[0]
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # it has rolled back by itself
                self._db.execute("rollback")
            raise
        self._db.execute("commit")

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Raise errors that say what to do for those of SQLite and of the system."""
        try:
            with explaining_failures(self.file):
                yield
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise InvalidConfig(f"another process is writing {self._out}") from error
            if isinstance(error, sqlite3.OperationalError):
                raise WriteFailed(
                    f"{self._progress}: {why_unwritten(_as_system_error(error))}"
                ) from error
            raise InvalidConfig(
                f"{self._progress} is damaged ({error}); give --restart to write {self._out} anew"
            ) from error


def progress_file(file: Path) -> Path:
    """What says how much of a file of rows is safe."""
    return file.with_name(file.name + PROGRESS)


def _key(picture: str) -> bytes:
    """What stands for a picture's path, in few bytes whatever its length."""
    return hashlib.blake2b(os.fsencode(os.path.abspath(picture)), digest_size=16).digest()


def _as_system_error(error: sqlite3.OperationalError) -> OSError:
    """What the system would have said; SQLite has a code of its own for a full disk."""
    is_full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
    return OSError(errno.ENOSPC if is_full else errno.EIO, str(error))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()

"""Files of Arrow and Parquet, whose rows are read one by one: none has to fit into memory."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from snapensemble.contracts.errors import InvalidConfig, InvalidData, InvalidImage
from snapensemble.trainer.data.sources.source import Source, regular, times

_BATCH_ROWS = 32
_BATCHES_KEPT = 4


class Cells(Protocol):
    """A file whose rows can be read one by one."""

    file: Path
    schema: Any  # pyarrow.Schema

    def column(self, name: str) -> list[Any]:
        """All values of a column that is small."""

    def paths(self, name: str) -> list[str | None]:
        """The files that the cells of a column with pictures may name; [] if none can."""

    def cell(self, name: str, row: int) -> Any:
        """One value of a column that is large."""


class StreamFile:
    """A file of Arrow's stream or file format, read through a memory map."""

    def __init__(self, file: Path) -> None:
        pa = _pyarrow(file)
        self.file = file
        try:
            with pa.memory_map(str(regular(file))) as opened:
                is_file = opened.read(6) == b"ARROW1"
                opened.seek(0)
                reader = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(opened)
                self._table = reader.read_all()
            # Damaged offsets lead out of the map, and end the process where a value is read.
            self._table.validate(full=True)
            self.schema = _whole(self._table.schema)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(file, error) from error

    def column(self, name: str) -> list[Any]:
        """All values of a column that is small."""
        return _values(self._table.column(name))

    def paths(self, name: str) -> list[str | None]:
        """The files that the cells of a column with pictures may name; [] if none can."""
        if (place := _place_of_path(self.schema, name)) < 0:
            return []
        chunks = self._table.column(name).chunks
        return [path for chunk in chunks for path in _values(chunk.field(place))]

    def cell(self, name: str, row: int) -> Any:
        """One value of a column that is large."""
        return self._table.column(name)[row].as_py()


class ParquetFile:
    """A Parquet file, of which a few rows at a time are in memory.

    Rows are asked for nearly in order. A request for an earlier row begins again at the head of
    its group.
    """

    def __init__(self, file: Path) -> None:
        pa = _pyarrow(file)
        import pyarrow.parquet as pq

        self.file = file
        self._errors = (pa.ArrowException, OSError, UnicodeDecodeError)
        try:
            # Otherwise the whole of a column in a group is read at once.
            self._parquet = pq.ParquetFile(regular(file), pre_buffer=False, buffer_size=1 << 20)
            self.schema = _whole(self._parquet.schema_arrow)
            metadata = self._parquet.metadata
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        except self._errors as error:
            raise _unreadable(file, error) from error
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self.rows = self._starts[-1]
        self._lock = threading.Lock()
        self._batches: OrderedDict[int, Any] = OrderedDict()  # first row -> values of a column
        self._coming: Iterator[Any] = iter(())
        self._next = self._end = 0

    def column(self, name: str) -> list[Any]:
        """All values of a column that is small."""
        try:
            return _values(self._parquet.read(columns=[name]).column(0))
        except self._errors as error:
            raise _unreadable(self.file, error) from error

    def paths(self, name: str) -> list[str | None]:
        """The files that the cells of a column with pictures may name; [] if none can."""
        if _place_of_path(self.schema, name) < 0:
            return []
        return [cell and cell["path"] for cell in self.column(f"{name}.path")]

    def cell(self, name: str, row: int) -> Any:
        """One value of a column that is large."""
        with self._lock:
            try:
                return self._cell(name, row)
            except self._errors as error:
                raise InvalidImage(f"the row cannot be read: {error}") from error

    def _cell(self, name: str, row: int) -> Any:
        kept = (start for start, batch in self._batches.items() if 0 <= row - start < len(batch))
        start = next(kept, None)
        if start is None and not self._next <= row < self._end:
            group = max(i for i, first in enumerate(self._starts) if first <= row)
            self._next, self._end = self._starts[group], self._starts[group + 1]
            self._coming = self._parquet.iter_batches(_BATCH_ROWS, [group], [name])
        while start is None:
            if (batch := next(self._coming, None)) is None:
                raise InvalidImage("the row cannot be read: there are fewer than the file says")
            batch = batch.column(0)
            self._batches[self._next] = batch
            start = self._next if row < self._next + len(batch) else None
            self._next += len(batch)
            if len(self._batches) > _BATCHES_KEPT:
                self._batches.popitem(last=False)
        return self._batches[start][row - start].as_py()


@dataclass(frozen=True)
class Cellwise(Source):
    """Pictures in the cells of a column, over several files."""

    files: Sequence[Cells]
    columns: Sequence[str]  # of each file
    rows: Sequence[tuple[int, int]]  # index of the file, row in it

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """The file and the row in it, counted from 0."""
        file, row = self.rows[index]
        return f"{self.files[file].file} row {row}"

    def stamp(self, index: int) -> list[str | int]:
        """The file with its size and times, the column and the row, and a file that it may name."""
        number, row = self.rows[index]
        file, paths = self.files[number].file, self._paths[number]
        named = times(file.parent / str(path)) if paths and (path := paths[row]) else []
        return [str(file.absolute()), *times(file), self.columns[number], row, *named]

    def read(self, index: int) -> bytes:
        """The bytes in the cell, or in the file that it names."""
        number, row = self.rows[index]
        cells = self.files[number]
        value = cells.cell(self.columns[number], row)
        if not isinstance(value, dict):
            value = {"bytes": value}
        if isinstance(data := value.get("bytes"), bytes):
            return data
        if not (path := value.get("path")):
            raise InvalidImage("the cell is empty")
        try:
            return regular(cells.file.parent / str(path)).read_bytes()
        except (InvalidData, ValueError) as error:  # ValueError: a character that no path has
            raise InvalidImage(str(error)) from error

    @cached_property
    def _paths(self) -> list[list[str | None]]:
        """What the rows of each file may name, whether they hold the bytes themselves or not."""
        return [cells.paths(name) for cells, name in zip(self.files, self.columns, strict=True)]


def _place_of_path(schema: Any, name: str) -> int:
    """The place of the field for a path in the structs of a column; negative if there is none."""
    kind = schema.field(name).type
    return int(kind.get_field_index("path")) if str(kind).startswith("struct<") else -1


def _whole(schema: Any) -> Any:
    """The schema, all of whose names are text; UnicodeDecodeError where one is not."""
    schema.to_string(show_schema_metadata=False)
    return schema


def _values(column: Any) -> list[Any]:
    return list(column.to_pylist())


def _unreadable(file: Path, error: Exception) -> InvalidData:
    return InvalidData(f"{file}: cannot be read: {error}")


def _pyarrow(file: Path) -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            f"{file}: reading it takes the package pyarrow; install snapensemble[data]"
        ) from error
    return pyarrow

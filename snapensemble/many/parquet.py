"""Rows as lines of JSON -> a Parquet file, which is whole or not there.

A Parquet file ends with an index of itself, so a program that is killed leaves one that cannot be
read. Rows therefore are lines until there are no more to come.
"""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.files import TEMPORARY, explaining_failures, sync_directory
from snapensemble.many.rows import PLACES

if TYPE_CHECKING:
    import pyarrow

ROWS_PER_GROUP = 65_536


def refuse_without_pyarrow() -> None:
    """Raise InvalidConfig if Parquet cannot be written here; it takes hours to find out later."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            "a Parquet file needs pyarrow: install snapensemble[data], or choose --out FILE.csv or "
            "FILE.jsonl"
        ) from error


def write_parquet(lines: Path, out: Path, names: Sequence[str], total: int) -> None:
    """Write what was there already and the new rows as one file, in constant memory.

    Args:
        lines: new rows, as JSON.
        out: the file, which may hold earlier rows; it is replaced when the new one is whole.
        names: of the columns.
        total: how many rows there are, earlier ones and new ones.

    Raises:
        InvalidConfig: the file that is there does not hold the earlier rows.
        WriteFailed: the disk is full; the rows are safe.
    """
    from pyarrow import RecordBatch, parquet

    schema = schema_of(names)
    with explaining_failures(out):
        earlier = parquet.ParquetFile(out) if out.exists() else None
        found = 0 if earlier is None else earlier.metadata.num_rows
        with lines.open("rb") as file:
            new = sum(1 for _ in file)
        if found + new != total:
            raise InvalidConfig(
                f"{out} has {found:,} rows, expected {total - new:,}: it was changed since it was "
                "written; put it back, choose another --out, or give --restart to write it anew"
            )
        if earlier is not None and not new:
            return
        temporary = out.with_name(f".{out.name}{TEMPORARY}")
        try:
            with parquet.ParquetWriter(temporary, schema) as writer, lines.open("rb") as file:
                if earlier is not None:
                    for batch in earlier.iter_batches(ROWS_PER_GROUP):
                        writer.write_batch(batch, ROWS_PER_GROUP)
                for rows in _portions(map(json.loads, file), ROWS_PER_GROUP):
                    writer.write_batch(RecordBatch.from_pylist(rows, schema), ROWS_PER_GROUP)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(out.absolute().parent)


def is_whole(out: Path, total: int) -> bool:
    """Whether a Parquet file is there and has so many rows."""
    from pyarrow import ArrowException, parquet

    try:
        return bool(parquet.read_metadata(out).num_rows == total)
    except (OSError, ArrowException):
        return False


def schema_of(names: Sequence[str]) -> "pyarrow.Schema":
    """The types of the columns; raises KeyError for one that no row has."""
    import pyarrow as pa

    one = pa.struct({"class": pa.string(), "index": pa.int32(), "probability": pa.float64()})
    texts = dict.fromkeys(("path", "class", *PLACES.values(), "error"), pa.string())
    types = texts | {
        "index": pa.int32(),
        "probability": pa.float64(),
        "top": pa.list_(one),
        "probabilities": pa.list_(pa.float64()),
        "entropy_nats": pa.float64(),
        "disagreement_nats": pa.float64(),
        "members_used": pa.int32(),
        "prediction_set": pa.list_(pa.string()),
        "abstain": pa.bool_(),
        "novel": pa.bool_(),
        "distance": pa.float64(),
    }
    return pa.schema([(name, types[name]) for name in names])


def _portions(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while portion := list(itertools.islice(iterator, size)):
        yield portion

"""Worker: an engine that stays warm on a node, and makes a Parquet file of each block."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.errors import SnapensembleError
from snapensemble.contracts.sessions import Provider
from snapensemble.many.cluster.bundle import unpacked
from snapensemble.many.inside import Picture
from snapensemble.many.parquet import schema_of
from snapensemble.many.rows import Row, answered, unreadable
from snapensemble.many.run import file_decoder, most_under_way
from snapensemble.serving.http.responses import prediction, promised
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.engine import Engine, Limits, load_engine
from snapensemble.serving.inference.request import in_order

if TYPE_CHECKING:
    import pyarrow

BLOCK, NAME, ADDRESS = "block", "name", "address"  # columns of what a worker gets


@dataclass(frozen=True)
class Job:
    """What all workers of a command do.

    Args:
        sha256: of the bundle's manifest.
        columns: of the rows.
        options: what an answer has.
        max_image_cost: what decoding a picture may cost, in times what a server accepts.
        threads: lanes of a worker.
        providers: what runs the members.
    """

    sha256: str
    columns: tuple[str, ...]
    options: PredictOptions
    max_image_cost: float
    threads: int
    providers: tuple[Provider, ...] = ("cpu",)


class Worker:
    """Answers blocks of pictures. Ray Data makes one in each of its actors, and calls it.

    Args:
        job: what to do.
        bundle: Ray's reference to the packed bundle.
    """

    def __init__(self, job: Job, bundle: list[Any]) -> None:
        self._job = job
        self._bundle = bundle
        self._engine: Engine | None = None

    def __call__(self, block: "pyarrow.Table") -> "pyarrow.Table":
        """One row with the block's number, its Parquet file and what became of its pictures.

        What a person can mend is in `problem`: raised here, it would arrive as a trace of Ray's.
        """
        import pyarrow as pa

        pictures = [
            Picture(name.decode("utf-8", "surrogateescape"), address)
            for name, address in zip(
                block[NAME].to_pylist(), block[ADDRESS].to_pylist(), strict=True
            )
        ]
        result: dict[str, Any] = {BLOCK: block[BLOCK][0].as_py(), "problem": None}
        try:
            rows = list(self._rows(pictures))
        except SnapensembleError as error:
            result |= {"problem": str(error), "part": b"", "answered": 0, "bad": []}
        else:
            bad = [f"{row['path']}: {row['error']}" for row in rows if row.get("error")]
            result |= {"part": as_parquet(rows, self._job.columns), "bad": bad}
            result["answered"] = len(rows) - len(bad)
        schema = pa.schema(
            [
                (BLOCK, pa.int64()),
                ("problem", pa.string()),
                ("part", pa.large_binary()),
                ("answered", pa.int64()),
                ("bad", pa.list_(pa.string())),
            ]
        )
        return pa.Table.from_pylist([result], schema)

    def _rows(self, pictures: Iterable[Picture]) -> Iterator[Row]:
        """Yield the row of each picture, in their order."""
        engine = self._engine = self._engine or self._loaded()
        job, mode = self._job, self._job.options.mode or "full"
        promises = promised(engine, mode, job.options)
        asked = engine.asked((), job.options.novelty)
        handed_over = (
            (picture.name, engine.submit([picture.address], mode, asked)[0]) for picture in pictures
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            for name, answer in in_order(handed_over, most_under_way(engine)):
                try:
                    outputs = answer.whole()
                except SnapensembleError as error:
                    yield unreadable(name, error)
                else:
                    found = prediction(outputs, engine.bundle, job.options, promises)
                    yield answered(name, found, {})

    def _loaded(self) -> Engine:
        import ray

        job = self._job
        directory = unpacked(job.sha256, lambda: dict(ray.get(self._bundle[0])))
        engine = load_engine(
            directory,
            Limits(threads=job.threads, providers=job.providers),
            expected_sha256=job.sha256,
            decode=file_decoder(read_bundle(directory, job.sha256).image, job.max_image_cost),
        )
        engine.check_mode(job.options.mode or "full")
        return engine.__enter__()


def as_parquet(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """The rows as the bytes of a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    buffer, found = (
        pa.BufferOutputStream(),
        [{name: row.get(name) for name in columns} for row in rows],
    )
    parquet.write_table(pa.Table.from_pylist(found, schema_of(columns)), buffer)
    return bytes(buffer.getvalue())

"""predict_many(): folders of pictures -> rows, through the lanes of the engine that serves.

The lanes read, decode and ask; this thread finds the pictures and writes the rows. What is in
memory does not grow with the number of pictures.
"""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.errors import (
    ImageTooCostly,
    InvalidConfig,
    InvalidData,
    InvalidImage,
    SnapensembleError,
)
from snapensemble.contracts.pixels import SERVER_LIMITS, ImageContract
from snapensemble.contracts.process import printable, say, signals_deferred
from snapensemble.many.inside import Reader, Sources
from snapensemble.many.options import ManyOptions, depends_on
from snapensemble.many.output import Output
from snapensemble.many.parquet import is_whole, refuse_without_pyarrow, write_parquet
from snapensemble.many.progress import Progress
from snapensemble.many.rows import columns, csv_line, json_line
from snapensemble.many.sinks import Describe, Printed, Sink, Written, opened, own_names
from snapensemble.serving.http.responses import prediction, promised
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.inference.request import Answer

PER_LANE, AT_LEAST = 64, 256  # pictures that are under way
MOST_NAMED = 5  # unreadable pictures, at the end


@dataclass
class Counts:
    """What became of the pictures of one start."""

    answered: int = 0
    before: int = 0  # had a row already
    failed: int = 0  # cannot be read
    bad: list[str] = field(default_factory=list)  # the first of those, named

    def fail(self, named: Sequence[str]) -> None:
        """Count pictures that cannot be read, and keep the first names and reasons."""
        self.failed += len(named)
        self.bad += named[: MOST_NAMED - len(self.bad)]

    @property
    def done(self) -> int:
        """How many have a row now and had none before."""
        return self.answered + self.failed


def predict_many(
    sources: Sequence[str],
    bundle_dir: Path,
    many: ManyOptions,
    options: PredictOptions,
    *,
    max_image_cost: float,
    restart: bool,
    describe: Describe,
) -> Counts:
    """Answer all pictures that sources name; rows go into a file, or lines to standard output.

    A picture that cannot be read has a row that says why, and the others go on.

    Args:
        sources: files, folders and patterns, see `Sources`.
        bundle_dir: made by `snapensemble export`.
        many: where the answers go.
        options: what an answer has.
        max_image_cost: what decoding a picture may cost, in times what a server accepts.
        restart: whether to forget the rows that are there.
        describe: makes a line for people.

    Raises:
        InvalidConfig: the file is of other options, or somebody else's.
        InvalidData: a source is not there, or none of them holds a picture.
        InvalidManifest: the bundle is damaged.
        InvalidParameter: the bundle cannot grant an option.
        WriteFailed: the disk is full; the same command goes on.
    """
    pictures = Sources(sources)
    pictures.check()
    bundle = read_bundle(bundle_dir)
    places = many.places
    if places is not None and pictures.containers:
        raise InvalidConfig(
            f"{pictures.containers[0]} holds pictures, which cannot be moved or linked to one by "
            "one; leave --move-to and --link-to out"
        )
    left_out = [] if places is None else [places.prepared()]
    out = many.out
    if out is not None and out.suffix.lower() == ".parquet":
        refuse_without_pyarrow()
    pictures.left_out, pictures.own = left_out, own_names(out)
    names = columns_of(many, options)
    shown = options.model_copy(update={"probabilities": many.probabilities})
    decode = file_decoder(bundle.image, max_image_cost)
    with ExitStack() as stack:
        engine = stack.enter_context(load_engine(bundle_dir, decode=decode))
        engine.check_mode(options.mode or "full")
        promised(engine, options.mode or "full", options)
        sink: Sink = Printed(describe)
        output = None
        if out is not None:
            dependencies = depends_on(bundle_dir, many, options, max_image_cost)
            output = stack.enter_context(opened(out, names, dependencies, places, restart=restart))
            is_csv = output.file == out and out.suffix.lower() == ".csv"
            sink = Written(output, (csv_line if is_csv else json_line)(names), places)
            if output.file != out and is_whole(out, output.rows):
                output.clear()  # killed when the Parquet file had just taken its name
            if output.rows or output.torn:
                say(_going_on(output))
            output.place()
        with warnings.catch_warnings():
            # Pillow warns of odd metadata (EXIF, TIFF tags) in files whose pixels are fine.
            warnings.filterwarnings("ignore", module="PIL")
            counts = classify(pictures, engine, shown, sink, output)
        if not counts.done and not counts.before:
            raise InvalidData(
                f"no pictures in {', '.join(sources[:3])}"
                + (f"; {pictures.describe()}" if pictures.passed_over else "")
            )
        if output is not None and out is not None and output.file != out:
            write_parquet(output.file, out, names, output.rows)
            output.clear()
    if passed_over := pictures.describe():
        say(passed_over)
    return counts


def columns_of(many: ManyOptions, options: PredictOptions) -> tuple[str, ...]:
    """The names of the columns that these options ask for, in their order."""
    return columns(
        top=options.top > 0,
        probabilities=many.probabilities,
        promises=[
            name
            for name, asked in (
                ("prediction_set", options.coverage),
                ("abstain", options.abstain),
                ("novel", options.novelty),
                ("distance", options.novelty),
            )
            if asked is not None
        ],
        place=None if many.places is None else many.places.way,
    )


def classify(
    pictures: Sources,
    engine: Engine,
    options: PredictOptions,
    sink: Sink,
    output: Output | None,
) -> Counts:
    """Have the engine answer all pictures that the sink has no answer of.

    A signal ends it between two answers, when the rows so far are safe.
    """
    counts, mode = Counts(), options.mode or "full"
    promises, asked = promised(engine, mode, options), engine.asked((), options.novelty)
    under_way: dict[str, tuple[str, Answer]] = {}  # by absolute path, in their order
    most = most_under_way(engine)
    again = Sources(pictures.texts, pictures.left_out, pictures.own)

    def settle() -> None:
        picture, answer = under_way.pop(next(iter(under_way)))
        try:
            outputs = answer.whole()
        except SnapensembleError as error:
            counts.fail([f"{picture}: {error}"])
            sink.failure(picture, error)
        else:
            counts.answered += 1
            sink.answer(picture, prediction(outputs, engine.bundle, options, promises))
        progress.show(counts.done, counts.before, counts.failed)

    with signals_deferred() as deferred, Progress(again) as progress:
        started = time.monotonic()
        try:
            for picture, address in pictures:
                if deferred.signum:
                    break
                key = os.path.abspath(picture)
                if key in under_way or sink.has(key):
                    counts.before += key not in under_way
                    continue
                (answer,) = engine.submit([address], mode, asked)
                under_way[key] = (picture, answer)
                if len(under_way) >= most:
                    settle()
            while under_way and not deferred.signum:
                settle()
        finally:
            for _, answer in under_way.values():
                answer.cancel()
        if output is not None:
            output.commit()
            if deferred.signum:
                say(f"{output.rows:,} rows are in {output.file}; the same command goes on")
        say(summary(counts, time.monotonic() - started))
    return counts


def most_under_way(engine: Engine) -> int:
    """How many pictures keep the lanes of an engine busy."""
    return max(AT_LEAST, PER_LANE * engine.scheduler.threads)


def file_decoder(
    image: ImageContract, max_image_cost: float
) -> Callable[[bytes], NDArray[np.uint8]]:
    """What reads and decodes the picture of an address, see `Picture`."""
    limits, reader = SERVER_LIMITS.times(max_image_cost), Reader()

    def decode(address: bytes) -> NDArray[np.uint8]:
        try:
            return image.decode(reader.read(address), limits=limits)
        except OSError as error:
            raise InvalidData(error.strerror or str(error)) from None
        except MemoryError:
            raise InvalidData("there was no memory to decode it") from None
        except ImageTooCostly as error:
            raise InvalidImage(f"{error}; or give --max-image-cost") from None

    return decode


def _going_on(output: Output) -> str:
    text = f"going on after {output.rows:,} rows"
    if output.torn:
        text += f"; {output.torn:,} bytes after them were not whole, and are written again"
    return text


def summary(counts: Counts, seconds: float) -> str:
    """What became of the pictures, in words."""
    text = f"{counts.answered:,} pictures answered"
    if seconds and counts.done:
        text += f", {counts.done / seconds:,.0f} a second"
    if counts.before:
        text += f"; {counts.before:,} had a row already"
    if counts.failed:
        more = counts.failed - len(counts.bad)
        lines = [*counts.bad, *([f"and {more:,} more"] if more else [])]
        text += f"; {counts.failed:,} cannot be read:\n" + "\n".join(map(printable, lines))
    return text

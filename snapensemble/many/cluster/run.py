"""predict_on_cluster(): pictures -> a folder of Parquet files, through the workers of a cluster.

This process finds the pictures, divides them into blocks, and writes what comes back. Ray Data
holds workers, retries and back-pressure. Pictures are read where they are answered.
"""

import logging
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from snapensemble.contracts.cluster.connection import (
    ClusterFailed,
    Node,
    connected,
    described,
    import_ray,
)
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.process import printable, say, signals_deferred
from snapensemble.many.cluster.bundle import Packed, packed
from snapensemble.many.cluster.parts import (
    Parts,
    Plan,
    Spooled,
    divided_into_blocks,
    forget_parts,
    refuse_none,
)
from snapensemble.many.cluster.worker import ADDRESS, BLOCK, NAME, Job, Worker
from snapensemble.many.inside import Sources
from snapensemble.many.options import ManyOptions, depends_on
from snapensemble.many.parquet import refuse_without_pyarrow
from snapensemble.many.progress import Progress
from snapensemble.many.run import Counts, columns_of, summary
from snapensemble.serving.http.schemas import PredictOptions

SAME = ("onnxruntime", "pyarrow")  # packages that rows depend on, too
LOOK_S = 0.2  # after which this process looks whether a signal has come
END = StopIteration()  # nothing more comes
T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one worker gets of a node, and how many workers there are at the start."""

    cpus: int
    gpus: float
    workers: int


def predict_on_cluster(
    sources: Sequence[str],
    bundle_dir: Path,
    many: ManyOptions,
    options: PredictOptions,
    *,
    max_image_cost: float,
    restart: bool,
) -> Counts:
    """Answer all pictures that sources name; the rows are those of `predict_many`, to the bit.

    Args:
        sources: files, folders, patterns, Parquet files and tar files, which every node sees under
            the same paths.
        bundle_dir: made by `snapensemble export`; it is read once, before the first picture.
        many: where the answers go, and which cluster makes them.
        options: what an answer has.
        max_image_cost: what decoding a picture may cost, in times what a server accepts.
        restart: whether to forget the rows that are there.

    Raises:
        InvalidConfig: there is no such cluster, or the folder is of other options or inputs.
        InvalidData: a source is not there, or none of them holds a picture.
        InvalidManifest: the bundle is damaged.
        ClusterFailed: a worker cannot answer, or the cluster is gone.
        WriteFailed: the disk is full; the same command goes on.
        Stopped: a signal came; the workers are stopped, and the same command goes on.
    """
    assert many.out is not None and many.ray is not None
    import_ray()
    refuse_without_pyarrow()
    pictures = Sources(sources)
    pictures.check()
    sha256, bundle = packed(bundle_dir)
    counts = Counts()
    with ExitStack() as stack:
        blocks, spooled = divided_into_blocks(
            pictures,
            many.part_rows,
            stack.enter_context(tempfile.TemporaryFile()),
            may_repeat=len(sources) > 1 or bool(pictures.containers),
        )
        passed_over = pictures.describe()
        refuse_none(blocks, sources, passed_over)
        if passed_over:
            say(passed_over)
        depends = depends_on(bundle_dir, many, options, max_image_cost)
        plan = Plan(
            {**depends, "the bundle": sha256[:12], "--part-rows": str(many.part_rows)},
            pictures.stamps(),
            blocks,
        )
        if restart:
            forget_parts(many.out)
        parts = stack.enter_context(Parts(many.out, plan))
        if parts.finished:
            say(f"going on after {parts.rows:,} rows")
        counts.before = parts.rows
        if parts.missing:
            nodes = stack.enter_context(connected(many.ray, SAME))
            share = share_of(nodes, many)
            job = Job(
                sha256,
                columns_of(many, options),
                options.model_copy(update={"probabilities": many.probabilities}),
                max_image_cost,
                share.cpus,
                ("cuda", "cpu") if share.gpus else ("cpu",),
            )
            _answer(parts, spooled, job, bundle, share, counts)
    return counts


def _answer(
    parts: Parts, spooled: Spooled, job: Job, bundle: Packed, share: Share, counts: Counts
) -> None:
    """Have the workers answer what is missing, and write the files as they come."""
    began = time.monotonic()
    total = sum(block.pictures for block in parts.plan.blocks)
    # Ray's core turns an exception of a signal's handler into an error of its own.
    with signals_deferred() as deferred, Progress(range(total)) as progress:
        try:
            for result in looked_up_from(results(parts.missing, spooled, job, bundle, share)):
                deferred.raise_if_received()
                if result is not None:
                    if result["problem"] is not None:
                        raise ClusterFailed(f"a worker cannot answer: {result['problem']}")
                    if parts.add(result[BLOCK], result["part"]):
                        counts.answered += result["answered"]
                        counts.fail(result["bad"])
                progress.show(counts.done, counts.before, counts.failed)
        except BaseException:
            say(f"{parts.rows:,} rows are safe; the same command goes on")
            raise
    if parts.missing:
        raise ClusterFailed(
            f"{len(parts.missing):,} of {len(parts.plan.blocks):,} blocks have not come back; the "
            "same command asks for them again"
        )
    say(summary(counts, time.monotonic() - began))


def looked_up_from(items: Iterator[T], every_s: float = LOOK_S) -> Iterator[T | None]:
    """Yield items as another thread gets them, and None where that takes long.

    One item waits to be taken, no more, so that who makes them is slowed down.
    """
    found: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)

    def work() -> None:
        try:
            for item in items:
                found.put((item, None))
        except BaseException as error:
            found.put((None, error))
        else:
            found.put((None, END))

    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            item, error = found.get(timeout=every_s)
        except queue.Empty:
            yield None
            continue
        if error is END:
            return
        if error is not None:
            raise error
        yield item


def results(
    blocks: Sequence[int], spooled: Spooled, job: Job, bundle: Packed, share: Share
) -> Iterator[dict[str, Any]]:
    """Yield what workers make of blocks, as it comes; a block whose worker is lost goes to another.

    Raises:
        ClusterFailed: Ray has given up.
    """
    ray = import_ray()
    import pyarrow as pa
    from ray.data import ActorPoolStrategy, DataContext, from_arrow_refs

    def table(number: int) -> pa.Table:
        found = spooled.read(number)
        return pa.table(
            {
                BLOCK: pa.array([number] * len(found), pa.int64()),
                NAME: [each.name.encode("utf-8", "surrogateescape") for each in found],
                ADDRESS: [each.address for each in found],
            }
        )

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.log_internal_stack_trace_to_stdout = False
    try:
        dataset = from_arrow_refs([ray.put(table(number)) for number in blocks]).map_batches(
            Worker,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=(job, [ray.put(bundle)]),
            num_cpus=share.cpus,
            num_gpus=share.gpus or None,
            compute=ActorPoolStrategy(
                min_size=1, max_size=share.workers, initial_size=share.workers
            ),
        )
        for batch in dataset.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=1
        ):
            yield from cast(pa.Table, batch).to_pylist()
    except ray.exceptions.RayError as error:
        raise ClusterFailed(
            f"the cluster has failed: {printable(str(error).strip().splitlines()[-1])}; look at "
            "it by `ray status`, and give the same command again"
        ) from error


def share_of(nodes: Sequence[Node], many: ManyOptions) -> Share:
    """What one worker gets, so that every node is used whole.

    Raises:
        InvalidConfig: no node has as much.
    """
    gpus = many.ray_gpus or 0.0
    fit = [node for node in nodes if node.cpus and node.gpus >= gpus]
    cpus = many.ray_cpus or min((node.cpus for node in fit), default=1)
    workers = sum(
        min(node.cpus // cpus, int(node.gpus / gpus) if gpus else node.cpus) for node in fit
    )
    if not workers:
        raise InvalidConfig(
            f"no node of the cluster has {cpus} CPUs and {gpus:g} GPUs for one worker "
            f"({described(nodes)}); give a smaller --ray-cpus or --ray-gpus"
        )
    return Share(cpus, gpus, workers)

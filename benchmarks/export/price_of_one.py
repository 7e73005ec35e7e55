"""Does an ensemble of int8 members in a cascade cost no more than one fp32 member?

    python -m benchmarks.export.price_of_one RUN_DIR [--data SPEC]

Exports all snapshots of a run in fp32 and in int8, each with a cascade, and measures ways of
answering the test images through the engine that serves: one member in fp32 and in int8, the
best 3, what the rule `auto` takes, and the ensembles in fp32 and int8, also as cascades. Rates are
taken in turns with every lane busy, at micro-batches of 1 and of 16 images; accuracy, NLL and ECE
on the whole test split.

Shapes: M members, N images, K classes.
"""

import argparse
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import save, spread
from snapensemble.contracts.bundle import read_bundle
from snapensemble.evaluate import bundle_data, evaluate
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.serving.inference.engine import Engine, Limits, load_engine

Mode = Literal["full", "cascade"]
WAYS: tuple[tuple[str, str, Mode], ...] = (
    ("one fp32 member", "one", "full"),
    ("one int8 member", "one-int8", "full"),
    ("best 3, fp32", "best-3", "full"),
    ("auto, fp32", "auto", "full"),
    ("ensemble, fp32", "fp32", "full"),
    ("ensemble, int8", "int8", "full"),
    ("cascade, fp32", "fp32", "cascade"),
    ("cascade, int8", "int8", "cascade"),
)
BATCHES = (1, 16)
FIGURES = ("accuracy", "nll", "ece")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("--data", metavar="SPEC", help="where the data set is now")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way (7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn (2)")
    parser.add_argument("--name", default="price-of-one", help="of the result files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as directory:
        work = Path(directory)
        bundles = export(args.run, work, args.data)
        quality = {
            name: evaluate(work / bundle, data=args.data, mode=mode)["ensemble"]
            for name, bundle, mode in WAYS
        }
        images_NCHW = bundle_data(read_bundle(work / "fp32"), args.data).images_NCHW
        rates = {
            batch: measure(work, batch, images_NCHW, args.rounds, args.seconds) for batch in BATCHES
        }
    figures = {"bundles": bundles, "quality": quality, "images_per_second": rates}
    save(args.name, figures, table(quality, rates))


def export(run_dir: Path, work: Path, data: str | None) -> dict[str, Any]:
    """The bundles, and what their manifests say of cascade and int8."""
    common: dict[str, Any] = {"data": data, "report": False}
    every: dict[str, Literal["none", "int8"]] = {"fp32": "none", "int8": "int8"}
    for name, quantize in every.items():
        config = ExportConfig(
            select="all", quantize=quantize, cascade=True, int8_gate="estimate", **common
        )
        build_bundle(run_dir, work / name, config)
    others = {
        "one": ExportConfig(select="best", members=1, **common),
        "one-int8": ExportConfig(
            select="best", members=1, quantize="int8", int8_gate="estimate", **common
        ),
        "best-3": ExportConfig(select="best", **common),
        "auto": ExportConfig(**common),
    }
    for name, config in others.items():
        build_bundle(run_dir, work / name, config)
    manifests = {name: read_bundle(work / name) for name in every}
    return {
        name: manifest.model_dump(include={"temperature", "cascade", "quantization", "calibration"})
        for name, manifest in manifests.items()
    }


def measure(
    work: Path, batch: int, images_NCHW: NDArray[np.uint8], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """The images/s of every way, one number per turn."""
    order_N = np.random.default_rng(0).permutation(len(images_NCHW))
    limits = Limits(max_batch_size=batch)
    found: dict[str, list[float]] = {name: [] for name, *_ in WAYS}
    with ExitStack() as stack:
        engines = {
            bundle: stack.enter_context(load_engine(work / bundle, limits))
            for bundle in {bundle for _, bundle, _ in WAYS}
        }
        for turn in range(rounds + 1):
            for name, bundle, mode in WAYS:
                rate = images_per_second(
                    engines[bundle], mode, images_NCHW[order_N], batch, seconds
                )
                if turn:  # the first turn warms up
                    found[name].append(rate)
    return found


def images_per_second(
    engine: Engine, mode: Mode, images_NCHW: NDArray[np.uint8], batch: int, seconds: float
) -> float:
    """Answers per second with always enough images in the queue to keep every lane busy."""
    pending: deque[Any] = deque()
    outstanding = 4 * batch * engine.scheduler.threads
    answered, position = 0, 0
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        while len(pending) < outstanding:
            chunk = images_NCHW[position : position + batch]
            position = (position + batch) % (len(images_NCHW) - batch)
            pending.extend(engine.submit(list(chunk), mode=mode))
        for _ in range(batch):
            pending.popleft().result()
            answered += 1
    elapsed = time.monotonic() - started
    for future in pending:
        future.result()
    return answered / elapsed


def table(
    quality: dict[str, dict[str, float]], rates: dict[int, dict[str, list[float]]]
) -> list[tuple[str, ...]]:
    """A row per way: rate and ratio to one fp32 member, turn by turn, and quality."""
    head = ["way", "members asked"]
    for batch in BATCHES:
        head += [f"images/s, batch {batch}", "times one fp32 member"]
    rows: list[tuple[str, ...]] = [(*head, *FIGURES)]
    for name, *_ in WAYS:
        row = [name, f"{quality[name]['members_used']:.2f}"]
        for batch in BATCHES:
            row.append(spread(rates[batch][name], ",.0f"))
            one = rates[batch][WAYS[0][0]]
            row.append(spread([a / b for a, b in zip(rates[batch][name], one, strict=True)], ".2f"))
        row += [f"{quality[name]['accuracy']:.2%}"]
        row += [f"{quality[name][figure]:.4f}" for figure in FIGURES[1:]]
        rows.append(tuple(row))
    return rows


if __name__ == "__main__":
    main()

"""How many pictures a second `predict` answers with Ray and without it, on one machine.

    python -m benchmarks.serving.predict_ray BUNDLE_DIR [--pictures FOLDER] [--count 4000]

Both begin as a command begins, so that what a cluster costs at its start is in the figures; the
second pair leaves out what passes before the first rows are there. They take turns.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import save, spread
from benchmarks.serving.predict_many import folder_of
from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.cluster.connection import connected
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.many.cluster.run import predict_on_cluster
from snapensemble.many.options import ManyOptions
from snapensemble.many.run import predict_many
from snapensemble.serving.http.schemas import PredictOptions


def main() -> None:
    """Measure both in turns, and write figures, ratios and what a million pictures cost."""
    parser = argparse.ArgumentParser(description="Images a second of a folder, with Ray and not.")
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="(noise as PNG)")
    parser.add_argument("--count", type=int, default=4_000, help="pictures; files are repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part-rows", type=int, default=500)
    parser.add_argument("--name", default="predict-ray", help="of the result files")
    args = parser.parse_args()
    bundle = read_bundle(args.bundle_dir)
    with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as work:
        folder = folder_of(args.pictures, bundle, args.count, Path(work) / "pictures")
        alone = ManyOptions(out=Path(work) / "rows.parquet")
        parts = ManyOptions(out=Path(work) / "parts", ray="local", part_rows=args.part_rows)
        ways: dict[str, Callable[[], object]] = {
            "without Ray": lambda: predict_many(
                [str(folder)],
                args.bundle_dir,
                alone,
                PredictOptions(),
                max_image_cost=1.0,
                restart=True,
                describe=lambda *_: "",
            ),
            "with Ray": lambda: predict_on_cluster(
                [str(folder)],
                args.bundle_dir,
                parts,
                PredictOptions(),
                max_image_cost=1.0,
                restart=True,
            ),
            "a cluster that starts and ends": start_and_end,
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, run in ways.items():
                began = time.monotonic()
                run()
                seconds[way].append(time.monotonic() - began)
            shutil.rmtree(Path(work) / "parts")
    start = seconds.pop("a cluster that starts and ends")
    seconds["with Ray, after its start"] = [
        max(1e-9, whole - part) for whole, part in zip(seconds["with Ray"], start, strict=True)
    ]
    rates = {way: [args.count / each for each in found] for way, found in seconds.items()}
    table: list[tuple[str, ...]] = [
        ("way", "images/s", "times without Ray", "core hours per million images")
    ]
    for way, found in rates.items():
        pairs = zip(found, rates["without Ray"], strict=True)
        hours = [cpu_budget() * 1e6 / each / 3600 for each in found]
        ratios = spread([mine / other for mine, other in pairs], ".2f")
        table.append((way, spread(found, ",.0f"), ratios, spread(hours, ".2f")))
    save(
        args.name,
        {
            "bundle": bundle.name,
            "members": len(bundle.members),
            "model": bundle.model,
            "images": args.count,
            "cores": cpu_budget(),
            "part_rows": args.part_rows,
            "start_seconds": start,
            "images_per_second": rates,
        },
        table,
    )


def start_and_end() -> None:
    """Start a cluster on this machine, look at its nodes, and end it."""
    with connected("local"):
        pass


if __name__ == "__main__":
    main()

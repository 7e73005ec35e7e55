"""What is the moving average of the first cycle worth, whose rate has hardly fallen?

    python -m benchmarks.training.first_cycle --fashion-mnist DIR --work DIR

Looks at the runs that `benchmarks.training.budgets` has left in its work directory, where a trial
has led to restarts, and at the half of the test images that reports nothing there. Whatever is
averaged has a temperature from the selection half of validation.

Shapes: M members, N images, K classes.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.machine import save
from benchmarks.training.budgets import CELLS, Job, calibrated
from benchmarks.training.snapshots import shrunk, test_probabilities
from snapensemble.contracts.run import RUN_FILE, read_run
from snapensemble.export.candidates import Pool, pooled
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.data.readers import Split


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fashion-mnist", required=True, metavar="DIR")
    parser.add_argument("--work", type=Path, required=True, help="that of the budgets")
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", default="first-cycle", help="of the result files")
    args = parser.parse_args()
    test = load_dataset(f"fashion-mnist:{args.fashion_mnist}", val_fraction=0.1, split_seed=0).test
    assert test is not None
    unused = test.only(np.arange(len(test)) < len(test) // 2)
    rows = {}
    for cell in (cell for cell in CELLS if cell.data == "fashion-mnist"):
        images = Split(shrunk(unused.images_NCHW, cell.shrink), unused.labels_N)
        for seed in range(args.seeds):
            job = Job(cell, args.updates, seed)
            cosine, default = (args.work / f"{job.name}-{way}" for way in ("cosine", "default"))
            if all(
                (run / RUN_FILE).exists() and read_run(run).complete for run in (cosine, default)
            ):
                rows[job.name] = dict(measured(pooled([cosine]), pooled([default]), images))
    ways = list(next(iter(rows.values()), {}))
    lines = [("job", *ways)]
    for name, found in rows.items():
        lines.append(
            (name, *(f"{each['nll']:.4f}, {each['error']:.2%}" for each in found.values()))
        )
    save(args.name, {"rows": rows}, lines)


def measured(cosine: Pool, default: Pool, test: Split) -> Iterator[tuple[str, dict[str, float]]]:
    """Each way, and its figures on test."""
    yield "cosine + EMA", figures_of(cosine, {"": [averages(cosine)[-1]]}, test)[""]
    averages_M = averages(default)
    ways = {
        "averages without the first": averages_M[1:],
        "with the first": averages_M,
        "the first alone": averages_M[:1],
        "the last alone": averages_M[-1:],
    }
    yield from figures_of(default, ways, test).items()


def averages(pool: Pool) -> list[int]:
    """The places of the cycles' moving averages among a run's candidates."""
    return [place for place, kind in enumerate(pool.kinds_S) if kind == "ema"]


def figures_of(pool: Pool, ways: dict[str, list[int]], test: Split) -> dict[str, dict[str, float]]:
    """Error, NLL and ECE of each way to average candidates of one run."""
    asked = sorted({place for places in ways.values() for place in places})
    snapshots = [pool.candidates[place].snapshot for place in asked]
    answers_MNK = test_probabilities(pool.candidates[0].run_dir, test, snapshots)
    return {
        way: calibrated(pool, places, answers_MNK[np.searchsorted(asked, places)], test.labels_N)
        for way, places in ways.items()
    }


if __name__ == "__main__":
    main()

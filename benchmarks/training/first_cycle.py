"""What is the moving average of the first cycle worth, whose rate has hardly fallen?

    python -m benchmarks.training.first_cycle --fashion-mnist DIR --work DIR

Looks at the runs that `benchmarks.training.budgets` has left in its work directory, where a trial
has led to restarts, and at the half of the test images that reports nothing there. Whatever is
averaged has a temperature from the selection half of validation.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.machine import save
from benchmarks.training.budgets import CELLS, Job, figures, figures_of, places_of
from benchmarks.training.snapshots import shrunk
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
                rows[job.name] = measured(pooled([cosine]), pooled([default]), images)
    ways = list(next(iter(rows.values()), {}))
    lines = [("job", *ways)]
    for name, found in rows.items():
        lines.append(
            (name, *(f"{each['nll']:.4f}, {each['error']:.2%}" for each in found.values()))
        )
    save(args.name, {"rows": rows}, lines)


def measured(cosine: Pool, default: Pool, test: Split) -> dict[str, dict[str, float]]:
    """Each way, and its figures on test."""
    averages = places_of(default, "ema")
    ways = {
        "averages without the first": averages[1:],
        "with the first": averages,
        "the first alone": averages[:1],
        "the last alone": averages[-1:],
    }
    return {
        "cosine + EMA": figures(cosine, test, places_of(cosine, "ema")[-1:]),
        **figures_of(default, test, ways),
    }


if __name__ == "__main__":
    main()

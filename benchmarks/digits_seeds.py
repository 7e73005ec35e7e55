"""Does the digits ensemble of the demo beat its best member for other seeds too?

    python -m benchmarks.digits_seeds            # ten seeds

Each seed trains as the demo does, exports the best 3 and evaluates them on the test split. The
best member is the one with the lowest NLL on test, which nobody could have known before.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save
from export.bundle import build_bundle
from snapensemble.demo import demo_config
from snapensemble.evaluate import evaluate
from trainer.run import train


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many (10)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="snapensemble-bench-"))
    try:
        figures = [one_seed(work / str(seed), seed) for seed in range(args.seeds)]
    finally:
        shutil.rmtree(work)
    save("digits-seeds", {"seeds": figures}, table(figures))


def one_seed(work: Path, seed: int) -> dict[str, Any]:
    """The test figures of one run."""
    build_bundle(train(demo_config(work / "run", seed)), work / "bundle", m=3)
    return {"seed": seed, **evaluate(work / "bundle")}


def table(figures: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per seed, and how often the ensemble was ahead."""
    rows: list[tuple[str, ...]] = [
        ("seed", "ensemble accuracy", "best member", "ensemble NLL", "best member's NLL", "ratio")
    ]
    ratios = []
    for one in figures:
        accuracy = max(member["accuracy"] for member in one["members"])
        nll = min(member["nll"] for member in one["members"])
        ratios.append(one["ensemble"]["nll"] / nll)
        rows.append(
            (
                str(one["seed"]),
                f"{one['ensemble']['accuracy']:.2%}",
                f"{accuracy:.2%}",
                f"{one['ensemble']['nll']:.4f}",
                f"{nll:.4f}",
                f"{ratios[-1]:.3f}",
            )
        )
    ahead = sum(ratio <= 1 for ratio in ratios)
    summary = f"median {np.median(ratios):.3f}, {ahead} of {len(ratios)} at most 1"
    rows.append(("all", "", "", "", "", summary))
    return rows


if __name__ == "__main__":
    main()

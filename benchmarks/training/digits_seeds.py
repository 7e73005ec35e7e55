"""Does the digits ensemble of the demo beat its best member for other seeds too?

    python -m benchmarks.training.digits_seeds            # ten seeds

Each seed trains as the demo does, exports the best 4 and evaluates them on the test split. The
best member is the one with the lowest NLL on test, which nobody could have known before; the
chosen member is the one that validation would have picked.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save
from snapensemble.demo import MEMBERS, demo_config
from snapensemble.evaluate import evaluate
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.trainer.run import train


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
    config = ExportConfig(members=MEMBERS, report=False)
    build_bundle(train(demo_config(work / "run", seed)), work / "bundle", config)
    return {"seed": seed, **evaluate(work / "bundle")}


def table(figures: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per seed, and how often the ensemble was ahead."""
    rows: list[tuple[str, ...]] = [
        ("seed", "accuracy", "best member", "chosen", "NLL", "best member", "chosen")
    ]
    for one in figures:
        ensemble, members = one["ensemble"], one["members"]  # best on validation first
        rows.append(
            (
                str(one["seed"]),
                f"{ensemble['accuracy']:.2%}",
                f"{max(member['accuracy'] for member in members):.2%}",
                f"{members[0]['accuracy']:.2%}",
                f"{ensemble['nll']:.4f}",
                f"{min(member['nll'] for member in members):.4f}",
                f"{members[0]['nll']:.4f}",
            )
        )
    against_best = ratios(figures, lambda members: min(member["nll"] for member in members))
    against_chosen = ratios(figures, lambda members: members[0]["nll"])
    rows.append(("ratio", "", "", "", "", against_best, against_chosen))
    return rows


def ratios(figures: list[dict[str, Any]], other: Callable[[list[dict[str, Any]]], float]) -> str:
    """The ensemble's NLL over another one: median, range, and how often it is at most 1."""
    found = [one["ensemble"]["nll"] / other(one["members"]) for one in figures]
    ahead = sum(ratio <= 1 for ratio in found)
    return (
        f"{np.median(found):.3f} ({min(found):.3f} to {max(found):.3f}), "
        f"at most 1 in {ahead} of {len(found)}"
    )


if __name__ == "__main__":
    main()

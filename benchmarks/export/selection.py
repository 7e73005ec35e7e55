"""Which rule chooses the best members, and what does the temperature do?

    python -m benchmarks.export.selection RUN_DIR [RUN_DIR ...] --data SPEC [--data SPEC ...]

Every rule chooses on the selection half of validation, as `export` does, and is measured on that
half, on the other one and on test. Where data sets have moved, give one `--data` per run.

Shapes: S snapshots, N images, K classes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save
from benchmarks.training.snapshots import test_probabilities
from snapensemble.contracts.bundle import Rule
from snapensemble.contracts.metrics import mean_probabilities, summary
from snapensemble.contracts.prediction_sets import covered_and_sizes, fit_quantiles
from snapensemble.contracts.run import Weights, read_run
from snapensemble.export.calibration import split_validation
from snapensemble.export.candidates import pooled
from snapensemble.export.selection import MAX_EXHAUSTIVE, Members, select
from snapensemble.export.temperature import fit_temperature
from snapensemble.trainer.data.reread import reread

CHOICES: tuple[tuple[str, Rule, Members, Weights], ...] = (
    ("auto", "auto", None, "last"),
    ("best single", "best", 1, "last"),
    ("last single", "last", 1, "last"),
    ("last moving average", "last", 1, "ema"),
    ("best 3", "best", 3, "last"),
    ("last 3", "last", 3, "last"),
    ("best auto", "best", "auto", "last"),
    ("last auto", "last", "auto", "last"),
    ("greedy", "greedy", None, "last"),
    ("exhaustive", "exhaustive", None, "last"),
    ("all", "all", None, "last"),
)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--data", action="append", metavar="SPEC", help="of each run, in order")
    parser.add_argument("--name", default="selection", help="of the result files (selection)")
    args = parser.parse_args()
    specs = args.data or [None] * len(args.runs)
    figures = [one_run(run_dir, spec) for run_dir, spec in zip(args.runs, specs, strict=True)]
    save(args.name, {"runs": figures}, table(figures))


def one_run(run_dir: Path, spec: str | None) -> dict[str, Any]:
    """What each rule chooses of a run, and how good that is."""
    run = read_run(run_dir)
    pool = pooled([run_dir])
    probs_SNK, labels_N, split = pool.probs_SNK, pool.labels_N, split_validation(pool.labels_N)
    selection, held_out = (
        (probs_SNK[:, part_N], labels_N[part_N])
        for part_N in (split.selection_N, split.calibration_N)
    )
    test = reread(run.data, run.classes, run.image, spec=spec)
    parts = {
        "selection": selection,
        "calibration": held_out,
        "test": (
            test_probabilities(run_dir, test, [each.snapshot for each in pool.candidates]),
            test.labels_N,
        ),
    }
    rows = []
    for name, rule, members, weights in CHOICES:
        of_kind = pool.kinds_S.count(weights)
        if rule == "exhaustive" and of_kind > MAX_EXHAUSTIVE:
            continue
        if isinstance(members, int) and members > of_kind:
            continue
        chosen = select(
            *selection,
            pool.kinds_S,
            pool.pays_S,
            members=members,
            rule=rule,
            weights=weights,
            trusted=pool.trusted,
        )
        of = list(chosen.indices)
        means = {
            part: mean_probabilities(probs[of], chosen.weights)
            for part, (probs, _) in parts.items()
        }
        temperature = fit_temperature(means["selection"], selection[1])
        row: dict[str, Any] = {
            "rule": name,
            "snapshots": [pool.candidates[i].name for i in of],
            "weights": chosen.weights,
            "temperature": temperature,
        }
        for part, (_, labels) in parts.items():
            row[part] = summary(means[part], labels)
        tempered = {
            part: mean_probabilities(probs[of], chosen.weights, temperature)
            for part, (probs, _) in parts.items()
        }
        row["test_tempered"] = summary(tempered["test"], test.labels_N)
        row["sets"] = coverage(tempered, held_out[1], test.labels_N)
        rows.append(row)
    return {
        "model": run.training.model,
        "data": run.data.spec.partition(":")[0].rpartition("/")[2],
        "cycles": len(run.snapshots),
        "epochs_per_cycle": run.schedule.T_0 / run.schedule.steps_per_epoch,
        "seed": run.training.seed,
        "images": {part: len(labels) for part, (_, labels) in parts.items()},
        "rules": rows,
    }


def coverage(
    tempered: dict[str, np.ndarray], held_out_labels: np.ndarray, test_labels: np.ndarray
) -> list[dict[str, Any]]:
    """How often prediction sets hold the right class of test images, and how large they are."""
    found = []
    for quantile in fit_quantiles(tempered["calibration"], held_out_labels):
        covered_N, size_N = covered_and_sizes(tempered["test"], test_labels, quantile)
        found.append(
            {
                "method": quantile.method,
                "coverage": quantile.coverage,
                "covered": float(covered_N.mean()),
                "mean_size": float(size_N.mean()),
            }
        )
    return found


def table(figures: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per run and rule."""
    rows: list[tuple[str, ...]] = [
        (
            "run", "rule", "members", "selection NLL", "test NLL", "gap", "test accuracy",
            "test ECE", "T", "ECE after", "NLL after", "90 % sets hold", "classes in them",
        )
    ]  # fmt: skip
    for number, run in enumerate(figures):
        budget = f"{run['cycles']} x {run['epochs_per_cycle']:g}"
        name = f"{number}: {run['data']}, {run['model']}, {budget}"
        for row in run["rules"]:
            test, after, sets = row["test"], row["test_tempered"], row["sets"][0]
            rows.append(
                (
                    name,
                    row["rule"],
                    ", ".join(sorted(row["snapshots"])),
                    f"{row['selection']['nll']:.4f}",
                    f"{test['nll']:.4f}",
                    f"{test['nll'] - row['selection']['nll']:+.4f}",
                    f"{test['accuracy']:.2%}",
                    f"{test['ece']:.4f}",
                    f"{row['temperature']:.3f}",
                    f"{after['ece']:.4f}",
                    f"{after['nll']:.4f}",
                    f"{sets['covered']:.2%}",
                    f"{sets['mean_size']:.2f}",
                )
            )
    return rows


if __name__ == "__main__":
    main()

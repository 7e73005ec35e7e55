"""Are rate, batch, weight decay and augmentation right by default, for few images and for many?

    python -m benchmarks.training.defaults --cifar10 DIR --flowers DIR --digits --work DIR

Digits and two parts of CIFAR-10, at half its size, are trained from scratch for about a thousand
updates; of flowers 40 pictures a class fine-tune EfficientNet-Lite0.
Every way is what `train` does by default but for one thing, in one cycle of as many epochs. The
seed draws the training images, and all ways with one seed get the same. Validation chooses; test
figures, after a temperature from validation, report.

A row is written as soon as it is known, and rows that are there are not computed again.

Shapes: S snapshots, N images, K classes.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import RESULTS, save
from benchmarks.rows import add_sitting
from benchmarks.training.budgets import ROWS, Cell, begin, parts_of, rows_of, shown
from benchmarks.training.class_balance import thinned
from benchmarks.training.snapshots import save_parts, test_probabilities, trained
from snapensemble.contracts.metrics import softmax, summary, tempered
from snapensemble.contracts.run import read_run, read_validation
from snapensemble.export.temperature import fit_temperature
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import holds_pictures, load_dataset

NONE = "default alone"
FACTORS: dict[str, tuple[str, float]] = {  # of what is the default there
    "half the rate": ("lr_max", 0.5),
    "twice the rate": ("lr_max", 2),
    "half the batch": ("batch_size", 0.5),
    "twice the batch": ("batch_size", 2),
    "a quarter of the weight decay": ("weight_decay", 0.25),
    "four times the weight decay": ("weight_decay", 4),
}
MORE: dict[str, dict[str, Any]] = {
    "--trivial-augment": {"trivial_augment": True},
    "--mixup 0.2": {"mixup": 0.2},
    "--cutmix 1": {"cutmix": 1.0},
    "--random-erasing 0.25": {"random_erasing": 0.25},
    "--color-jitter 0.4": {"color_jitter": 0.4},
    "no augmentation": {"flip": False, "crop_padding": 0},
}
PICTURES, TESTED = 40, 60  # of each class of flowers
VAL_FRACTION = 0.2
FIGURES = ("val error", "val NLL", "test error", "test NLL")


@dataclass(frozen=True, slots=True)
class Work:
    """A data set, and how it is trained."""

    name: str
    settings: dict[str, Any]
    cell: Cell | None = None  # None: flowers, which stay a folder
    without: tuple[str, ...] = ()  # ways that it cannot go


def from_scratch(name: str, cell: Cell, epochs: int) -> Work:
    """A work that begins with random weights."""
    return Work(name, {"model": cell.model, "cycles": 1, "cycle_epochs": epochs}, cell)


WORKS = (
    from_scratch("digits", Cell("digits", None, model="tiny"), 24),
    from_scratch("CIFAR-10, 2,000 of 16 x 16", Cell("cifar10", 2_000, shrink=2), 36),
    Work(
        "flowers, 160 x 160, fine-tuned",
        {"model": "efficientnet-lite0", "val_fraction": VAL_FRACTION},
        without=("--cutmix 1",),
    ),
    from_scratch("CIFAR-10, 20,000 of 16 x 16", Cell("cifar10", 20_000, shrink=2), 7),
)


def main() -> None:
    """Train and measure what is missing, print all rows, and save them."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    begin(args.work, RESULTS / f"{args.name}.json")
    for seed in range(args.seeds):
        for work in WORKS:
            if source_of(args, work) is not None:
                rows_with(args, work, seed)
    rows = rows_of(args.work)
    save(args.name, {"rows": rows}, table(rows))


def rows_with(args: argparse.Namespace, work: Work, seed: int) -> None:
    """Go each way that has no row yet with this seed."""
    for way in (NONE, *FACTORS, *MORE):
        known = {
            row["way"]: row
            for row in rows_of(args.work)
            if (row["data"], row["seed"]) == (work.name, seed)
        }
        if way in known or way in work.without:
            continue
        changes = MORE.get(way, {})
        if way in FACTORS:
            setting, factor = FACTORS[way]
            changes = {setting: type(known[NONE][setting])(factor * known[NONE][setting])}
        one_run(args, work, way, seed, changes)


def source_of(args: argparse.Namespace, work: Work) -> str | None:
    """The SPEC of a work's images; None if they were not given."""
    if work.cell is None:
        return None if args.flowers is None else str(args.flowers)
    given = {
        "digits": "digits" if args.digits else None,
        "cifar10": args.cifar10 and f"cifar10:{args.cifar10}",
    }
    return given[work.cell.data]


def one_run(
    args: argparse.Namespace, work: Work, way: str, seed: int, changes: dict[str, Any]
) -> None:
    """Train one way with one seed, and write what it gives."""
    spec = source_of(args, work)
    assert spec is not None
    place = args.work / f"{work.name.replace(', ', '-').replace(',', '').replace(' ', '')}-{seed}"
    flip: dict[str, Any] = {}
    if work.cell is None:
        data = str(thinned(place, Path(spec), seed, (PICTURES, PICTURES), TESTED))
    else:
        parts = parts_of(spec, work.cell, seed)
        file = place.with_suffix(".npz")
        if not file.exists():
            save_parts(
                file, parts.classes, train=parts.train, val=parts.val, test=parts.part("test")
            )
        data, flip = f"npz:{file}", {"flip": parts.mirror_keeps_class}
    config = TrainConfig(
        data=data,
        out=args.work / f"{place.name}-{way.replace(' ', '-')}",
        threads=args.threads,
        seed=seed,
        **{**flip, **work.settings, **changes},
    )
    run_dir = trained(config)
    row = {"data": work.name, "way": way, "seed": seed, **measured(run_dir, config)}
    with (args.work / ROWS).open("a") as file_of_rows:
        file_of_rows.write(json.dumps(row) + "\n")
    shutil.rmtree(run_dir)


def measured(run_dir: Path, config: TrainConfig) -> dict[str, float]:
    """What a run's last weights reach on validation and on test, and what it was trained with."""
    run = read_run(run_dir)
    logits_SNK, labels_N = read_validation(run_dir, run)
    val_NK = softmax(logits_SNK[len(run.snapshots) - 1])
    temperature = fit_temperature(val_NK, labels_N)
    test = load_dataset(
        config.data,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        image_size=run.image.height if holds_pictures(config.data) else None,
    ).part("test")
    on_val = summary(tempered(val_NK, temperature), labels_N)
    on_test = summary(tempered(test_probabilities(run_dir, test)[-1], temperature), test.labels_N)
    found = (1 - on_val["accuracy"], on_val["nll"], 1 - on_test["accuracy"], on_test["nll"])
    return {
        **dict(zip(FIGURES, found, strict=True)),
        "lr_max": run.schedule.eta_max,
        "batch_size": run.training.batch_size,
        "weight_decay": run.training.weight_decay,
    }


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line per data set and way: means over seeds, and paired differences to the default."""
    head = ["data", "way", "seeds", *FIGURES]
    lines = [(*head, *(f"{figure} - {NONE}" for figure in FIGURES))]
    for data, way in dict.fromkeys((row["data"], row["way"]) for row in rows):
        same = {row["seed"]: row for row in rows if (row["data"], row["way"]) == (data, way)}
        base = {row["seed"]: row for row in rows if (row["data"], row["way"]) == (data, NONE)}
        line = [data, way, f"{len(same)}"]
        for figure in FIGURES:
            mean = float(np.mean([row[figure] for row in same.values()]))
            line.append(f"{mean:.2%}" if "error" in figure else f"{mean:.4f}")
        for figure in FIGURES:
            pairs = [row[figure] - base[seed][figure] for seed, row in same.items() if seed in base]
            unit = 100 if "error" in figure else 1
            line.append("" if way == NONE else shown(unit * np.array(pairs), ".3f"))
        lines.append(tuple(line))
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", metavar="DIR")
    parser.add_argument("--flowers", type=Path, metavar="DIR", help="train/CLASS/*, val/CLASS/*")
    parser.add_argument("--digits", action="store_true", help="the embedded digits too")
    parser.add_argument("--threads", type=int, default=1)
    add_sitting(parser, "defaults")
    return parser.parse_args()


if __name__ == "__main__":
    main()

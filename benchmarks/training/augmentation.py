"""Which augmentation is worth having by default?

    python -m benchmarks.training.augmentation --cifar10 DIR --flowers DIR --digits --work DIR
    python -m benchmarks.training.augmentation --cost --work DIR

Digits and a part of CIFAR-10, at half its size, are trained from scratch; of flowers 40 pictures a
class fine-tune EfficientNet-Lite0, as `train` does it by default. Every way is what `train` does by
default, shifts and mirrors or random parts, and one thing more. The seed draws the training images,
and all ways with one seed get the same. Validation chooses; test figures, after a temperature from
validation, report.

With `--cost` each way is timed on one batch after the other of CIFAR-10's size, against the step of
a ResNet-20, in turns.

A row is written as soon as it is known, and rows that are there are not computed again.

Shapes: N images, B batch, K classes.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.machine import RESULTS, save, spread
from benchmarks.training.budgets import ROWS, Cell, begin, interval, parts_of, rows_of
from benchmarks.training.class_balance import thinned
from benchmarks.training.snapshots import save_parts, test_probabilities
from snapensemble.contracts.metrics import softmax, summary, tempered
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import RUN_FILE, read_run, read_validation
from snapensemble.export.temperature import fit_temperature
from snapensemble.trainer.augmentation.batch import Augmentation
from snapensemble.trainer.augmentation.mixing import Mixing
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import holds_pictures, load_dataset
from snapensemble.trainer.device.transfers import Reading
from snapensemble.trainer.distributed import World
from snapensemble.trainer.loop import Augmented, Batches, Objective, train_epoch
from snapensemble.trainer.models.registry import build_model
from snapensemble.trainer.recording.checkpoint import State
from snapensemble.trainer.run import resume, train
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Constant

NONE = "default alone"
WAYS: dict[str, dict[str, Any]] = {
    NONE: {},
    "--trivial-augment": {"trivial_augment": True},
    "--mixup 0.2": {"mixup": 0.2},
    "--cutmix 1": {"cutmix": 1.0},
    "--random-erasing 0.25": {"random_erasing": 0.25},
    "--color-jitter 0.4": {"color_jitter": 0.4},
}
PICTURES, TESTED = 40, 60  # of each class of flowers
VAL_FRACTION = 0.2
FIGURES = ("val error", "val NLL", "test error", "test NLL")
BATCH, SIDE, ROUNDS = 128, 32, 15


@dataclass(frozen=True, slots=True)
class Work:
    """A data set, and how it is trained."""

    name: str
    settings: dict[str, Any]
    cell: Cell | None = None  # None: flowers, which stay a folder
    without: tuple[str, ...] = ()  # ways that it cannot go


WORKS = (
    Work("digits", {"model": "tiny", "cycles": 1, "cycle_epochs": 40}, Cell("digits", None)),
    Work(
        "CIFAR-10, 2,000 of 16 x 16",
        {"model": "small", "cycles": 1, "cycle_epochs": 20, "batch_size": 32},
        Cell("cifar10", 2_000, shrink=2),
    ),
    Work(
        "flowers, 160, fine-tuned",
        {"model": "efficientnet-lite0", "val_fraction": VAL_FRACTION},
        without=("--cutmix 1",),
    ),
)


def main() -> None:
    """Train and measure what is missing, print all rows, and save them."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.cost:
        save("augmentation-cost", {"rows": (rows := costs(args.threads))}, cost_table(rows))
        return
    begin(args.work, RESULTS / f"{args.name}.json")
    for seed in range(args.seeds):
        for work in WORKS:
            for way in WAYS:
                known = {(row["data"], row["way"], row["seed"]) for row in rows_of(args.work)}
                skipped = way in work.without or source_of(args, work) is None
                if not skipped and (work.name, way, seed) not in known:
                    one_run(args, work, way, seed)
    rows = rows_of(args.work)
    save(args.name, {"rows": rows}, table(rows))


def source_of(args: argparse.Namespace, work: Work) -> str | None:
    """The SPEC of a work's images; None if they were not given."""
    if work.cell is None:
        return None if args.flowers is None else str(args.flowers)
    if work.cell.data == "digits":
        return "digits" if args.digits else None
    return None if args.cifar10 is None else f"cifar10:{args.cifar10}"


def one_run(args: argparse.Namespace, work: Work, way: str, seed: int) -> None:
    """Train one way with one seed, and write what it gives."""
    spec = source_of(args, work)
    assert spec is not None
    place = args.work / f"{work.name.partition(',')[0]}-{seed}"
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
        **work.settings,
        **WAYS[way],
        **flip,
    )
    run_dir = resume(config.out) if (config.out / RUN_FILE).exists() else train(config)
    row = {"data": work.name, "way": way, "seed": seed, **measured(run_dir, config)}
    with (args.work / ROWS).open("a") as file_of_rows:
        file_of_rows.write(json.dumps(row) + "\n")
    shutil.rmtree(run_dir)


def measured(run_dir: Path, config: TrainConfig) -> dict[str, float]:
    """The figures of a run's last weights on validation and on test."""
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
    return dict(zip(FIGURES, found, strict=True))


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
            mean, reach = interval(unit * np.array(pairs))
            line.append("" if way == NONE else f"{mean:+.3f} +- {reach:.3f}")
        lines.append(tuple(line))
    return lines


def costs(threads: int) -> list[dict[str, Any]]:
    """The seconds of each way's batches, beyond the plain gathering, and of a training step."""
    torch.set_num_threads(threads)
    images_NCHW = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (4 * BATCH, 3, SIDE, SIDE), np.uint8)
    )
    timed: dict[str, Callable[[], object]] = {
        way: epoch_of(images_NCHW, settings) for way, settings in COSTS.items()
    }
    timed[STEP] = steps_of(images_NCHW)
    rounds: dict[str, list[float]] = {way: [] for way in timed}
    for _ in range(ROUNDS + 1):
        for way, epoch in timed.items():
            started = time.monotonic()
            epoch()
            rounds[way].append((time.monotonic() - started) / 4)
    return [{"way": way, "seconds": seconds[1:]} for way, seconds in rounds.items()]


STEP = "step of a ResNet-20, its batch plainly gathered"
COSTS: dict[str, tuple[Augmentation, Mixing | None]] = {
    "gathered": (Augmentation(), None),
    "shifts and mirrors": (Augmentation(crop_padding=4, flip=True), None),
    "--random-resized-crop 0.35": (Augmentation(min_area=0.35), None),
    "--trivial-augment": (Augmentation(trivial=True), None),
    "--mixup 0.2": (Augmentation(), Mixing(mixup=0.2)),
    "--cutmix 1": (Augmentation(), Mixing(cutmix=1.0)),
    "--random-erasing 0.25": (Augmentation(erasing=0.25), None),
    "--color-jitter 0.4": (Augmentation(jitter=0.4), None),
}


def batches_of(images_NCHW: torch.Tensor, how: Augmentation, mixing: Mixing | None) -> Batches:
    """Four batches to the epoch."""
    return Batches(
        source=Augmented(
            images_NCHW=images_NCHW,
            augmentation=how,
            fill_C=torch.zeros(3, dtype=torch.uint8),
        ),
        labels_N=torch.arange(len(images_NCHW)) % 10,
        batch_size=BATCH,
        seed=0,
        world=World(),
        mixing=mixing,
    )


def epoch_of(
    images_NCHW: torch.Tensor, settings: tuple[Augmentation, Mixing | None]
) -> Callable[[], object]:
    """What makes the batches of an epoch, and trains on none."""
    batches = batches_of(images_NCHW, *settings)
    return lambda: list(batches.epoch(0))


def steps_of(images_NCHW: torch.Tensor) -> Callable[[], object]:
    """An epoch of training."""
    image = ImageContract(
        channels=3, height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3)
    )
    model = build_model("resnet20", 10, image).to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types lack it
    state = State(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True))
    objective = Objective(network=model, label_smoothing=0.0, autocast=False)
    batches = batches_of(images_NCHW, Augmentation(), None)
    reading = Reading(batches.device)

    def epoch() -> None:
        cycle = Cycle(state.epoch, state.step, batches.steps_per_epoch)
        for _ in train_epoch(state, objective, batches, Constant(eta=0.0), cycle, reading):
            pass
        state.val_nlls.append(0.0)  # on to the next epoch

    return epoch


def cost_table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line per way: milliseconds for a batch, and as a share of the step."""
    step = median(next(row["seconds"] for row in rows if row["way"] == STEP))
    lines: list[tuple[str, ...]] = [
        (f"batch of {BATCH}, {SIDE} x {SIDE}", "ms: median (least to most)", "of the step")
    ]
    for row in rows:
        times = [1e3 * seconds for seconds in row["seconds"]]
        lines.append((row["way"], spread(times, ".2f"), f"{median(row['seconds']) / step:.1%}"))
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", metavar="DIR")
    parser.add_argument("--flowers", type=Path, metavar="DIR", help="train/CLASS/*, val/CLASS/*")
    parser.add_argument("--digits", action="store_true", help="the embedded digits too")
    parser.add_argument("--cost", action="store_true", help="only time the batches of each way")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="keeps the runs and the rows")
    parser.add_argument("--name", default="augmentation", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()

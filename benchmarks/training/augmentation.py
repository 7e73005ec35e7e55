"""What augmentation costs beside the step of a ResNet-20.

    python -m benchmarks.training.augmentation

Each way is timed on one batch after the other of CIFAR-10's size, in turns.

Shapes: N images, C channels.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.machine import save, spread
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.augmentation.batch import Augmentation
from snapensemble.trainer.augmentation.mixing import Mixing
from snapensemble.trainer.device.transfers import Reading
from snapensemble.trainer.distributed import World
from snapensemble.trainer.loop import Augmented, Batches, Objective, train_epoch
from snapensemble.trainer.models.registry import build_model
from snapensemble.trainer.recording.checkpoint import State
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Constant

BATCH, SIDE, ROUNDS = 128, 32, 15


def main() -> None:
    """Time all ways, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="augmentation-cost", help="of the result files")
    args = parser.parse_args()
    rows = costs(args.threads)
    save(args.name, {"rows": rows}, cost_table(rows))


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


if __name__ == "__main__":
    main()

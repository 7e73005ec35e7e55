"""Run directories for the tests of the report: made of numbers, without torch."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.metrics import softmax, val_figures
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import (
    RunManifest,
    ScheduleRecord,
    Snapshot,
    TrainingRecord,
    write_run,
)
from tests.factories import DATA

IMAGE = ImageContract(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
PER_EPOCH, PER_CYCLE = 5, 10
TRAINING = TrainingRecord(
    model="tiny", parameters=9, batch_size=2, momentum=0.9, nesterov=True, weight_decay=0.0,
    crop_padding=0, flip=False, seed=0, device="cpu", torch="2",
)  # fmt: skip


def make_run(
    directory: Path,
    *,
    snapshots: int = 3,
    cycles: int = 3,
    classes: Sequence[str] = ("ant", "bee", "cow"),
    images: int = 40,
) -> Path:
    """A run of noisy snapshots that know the right answer a little."""
    rng = np.random.default_rng(7)
    labels_N = rng.integers(0, len(classes), images)
    (directory / "val-logits").mkdir(parents=True)
    right_NK = 2 * np.eye(len(classes))[labels_N]
    found = []
    for cycle in range(snapshots):
        logits_NK = (right_NK + rng.normal(size=right_NK.shape)).astype(np.float32)
        found.append(
            Snapshot(
                cycle=cycle,
                step=PER_CYCLE * (cycle + 1),
                learning_rate=0.001,
                file=f"snapshots/cycle-{cycle:02d}.safetensors",
                sha256="0" * 64,
                val=val_figures(softmax(logits_NK), labels_N),
                val_logits=keep(directory, f"val-logits/cycle-{cycle:02d}.npy", logits_NK),
            )
        )
    manifest = RunManifest(
        snapensemble="0",
        classes=tuple(classes),
        image=IMAGE,
        data=DATA,
        schedule=ScheduleRecord(
            T_0=PER_CYCLE, T_mult=1, eta_max=0.1, eta_min=0.0, cycles=cycles,
            steps_per_epoch=PER_EPOCH, total_steps=PER_CYCLE * cycles,
        ),
        training=TRAINING,
        val_labels=keep(directory, "val-labels.npy", labels_N.astype(np.int64)),
        calibration_images=FileRef(file="calibration-images.npy", sha256="0" * 64),
        snapshots=tuple(found),
    )  # fmt: skip
    write_run(directory, manifest)
    write_metrics(directory, PER_CYCLE * max(snapshots, 1))
    return directory


def keep(directory: Path, file: str, array: np.ndarray) -> FileRef:
    """Write an array as a run does, and return the manifest's reference to it."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return FileRef(file=file, sha256=write_atomically(directory / file, buffer.getvalue()))


def metrics_lines(steps: int, first: int = 0) -> list[str]:
    """The lines that a run of this shape logs for steps `first` to `steps` - 1."""
    lines = []
    for step in range(first, steps):
        where = {"step": step, "epoch": step // PER_EPOCH, "cycle": step // PER_CYCLE}
        rate = 0.1 * (1 - step % PER_CYCLE / PER_CYCLE)
        lines.append(json.dumps({**where, "lr": rate, "loss": 2 / (1 + step)}))
        if step % PER_EPOCH == PER_EPOCH - 1:
            lines.append(json.dumps({**where, "val_nll": 1.0, "val_accuracy": 0.5, "seconds": 1.0}))
    return lines


def write_metrics(directory: Path, steps: int, *, tail: str = "") -> None:
    """Write the metrics.jsonl of a run that has done `steps` steps."""
    text = "".join(f"{line}\n" for line in metrics_lines(steps))
    (directory / "metrics.jsonl").write_text(text + tail)

"""RunWriter: the run directory while it grows. run.json lists complete files only."""

import io
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from torch import nn

from contracts.errors import InvalidConfig, WriteFailed
from contracts.files import write_atomically
from contracts.pixels import ImageContract
from contracts.records import FileRef, ValFigures
from contracts.run import (
    DataRecord,
    RunManifest,
    ScheduleRecord,
    Snapshot,
    TrainingRecord,
    write_run,
)
from trainer.data import Dataset
from trainer.schedule import Cycle
from trainer.seeding import Purpose, derived_seed
from trainer.snapshots import snapshot_bytes

CALIBRATION_IMAGES = 256


def refuse_taken(directory: Path) -> None:
    """Make sure that nothing is there yet; training may take hours before it writes.

    Raises:
        InvalidConfig: there is something; a run is never written over.
    """
    try:
        taken = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    except OSError as error:
        raise WriteFailed(f"{directory}: {error.strerror}; choose another --out") from error
    if taken:
        raise InvalidConfig(
            f"{directory} is not empty; a run is never written over another, choose a new --out"
        )


class RunWriter:
    """Owns a run directory: first the parts that all snapshots share, then one by one."""

    def __init__(self, directory: Path, manifest: RunManifest) -> None:
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def start(
        cls,
        directory: Path,
        dataset: Dataset,
        image: ImageContract,
        data: DataRecord,
        schedule: ScheduleRecord,
        training: TrainingRecord,
    ) -> "RunWriter":
        """Write what does not change any more, and a manifest without snapshots."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "snapshots").mkdir()
            (directory / "val-logits").mkdir()
        except OSError as error:
            raise WriteFailed(f"{directory}: cannot make it: {error.strerror}") from error
        calibration_NCHW = calibration_images(dataset, training.seed)
        manifest = RunManifest(
            snapensemble=version("snapensemble"),
            classes=dataset.classes,
            image=image,
            data=data,
            schedule=schedule,
            training=training,
            val_labels=_write_array(directory, "val-labels.npy", dataset.val.labels_N),
            calibration_images=_write_array(directory, "calibration-images.npy", calibration_NCHW),
        )
        write_run(directory, manifest)
        return cls(directory, manifest)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Note on whatever ends the run early what is left of it."""
        if error is not None:
            finished = len(self.manifest.snapshots)
            note = f"{finished} of {self.manifest.schedule.cycles} cycles are finished and whole"
            if finished:
                note += f"; snapensemble export {self.directory} takes them"
            error.add_note(note)

    def add_snapshot(
        self,
        cycle: Cycle,
        rate: float,
        model: nn.Module,
        logits_NK: NDArray[np.float32],
        val: ValFigures,
    ) -> Snapshot:
        """Keep the weights of a finished cycle with what they say of the validation split.

        Args:
            cycle: the one that has just ended.
            rate: the learning rate of its last update.
            model: as it is before the restart.
            logits_NK: its answers for the validation split.
            val: the figures of these answers.
        """
        name = f"cycle-{cycle.index:02d}"
        file = f"snapshots/{name}.safetensors"
        snapshot = Snapshot(
            cycle=cycle.index,
            step=cycle.end,
            learning_rate=rate,
            file=file,
            sha256=write_atomically(self.directory / file, snapshot_bytes(model)),
            val=val,
            val_logits=_write_array(self.directory, f"val-logits/{name}.npy", logits_NK),
        )
        self.manifest = self.manifest.model_copy(
            update={"snapshots": (*self.manifest.snapshots, snapshot)}
        )
        write_run(self.directory, self.manifest)
        return snapshot


def calibration_images(dataset: Dataset, seed: int) -> NDArray[np.uint8]:
    """Up to 256 training images: export checks parity, and later quantization, on real pixels."""
    count = min(CALIBRATION_IMAGES, len(dataset.train))
    rng = np.random.default_rng(derived_seed(seed, Purpose.CALIBRATION))
    chosen = np.sort(rng.choice(len(dataset.train), count, replace=False))
    return dataset.train.images_NCHW[chosen]


def _write_array(directory: Path, file: str, array: NDArray[np.generic]) -> FileRef:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return FileRef(file=file, sha256=write_atomically(directory / file, buffer.getvalue()))

"""The run directory while it grows; run.json lists complete files only."""

import fcntl
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from snapensemble.contracts.errors import InvalidConfig, InvalidManifest, WriteFailed
from snapensemble.contracts.files import (
    TEMPORARY,
    explaining_failures,
    read_verified,
    remove_unfinished,
    write_atomically,
)
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.run import (
    RUN_FILE,
    Branch,
    RunManifest,
    Snapshot,
    read_run,
    snapshot_name,
    write_run,
)
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import CONFIG_FILE, to_toml
from snapensemble.trainer.data.dataset import Dataset
from snapensemble.trainer.loop import TrainingDiverged
from snapensemble.trainer.recording.manifest import RunDescription, decided_record
from snapensemble.trainer.recording.snapshots import Kept, snapshot_bytes
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Plan
from snapensemble.trainer.seeding import Purpose, derived_seed

LOCK_FILE = ".lock"
CALIBRATION_IMAGES = 256
FOLDERS = ("snapshots", "val-logits")
VAL_LABELS, CALIBRATION = "val-labels.npy", "calibration-images.npy"
TRUNK_FILE = "trunk.safetensors"
BRANCH_FILE = "first.safetensors"  # what a branch begins with
FIRST_FILES = (
    LOCK_FILE,
    CONFIG_FILE,
    VAL_LABELS,
    CALIBRATION,
    TRUNK_FILE,
    BRANCH_FILE,
)  # written before the manifest


class RunWriter:
    """Owns a run directory; writes what all snapshots share, then the snapshots one by one."""

    def __init__(self, directory: Path, manifest: RunManifest) -> None:
        self.directory = directory
        self.manifest = manifest

    @classmethod
    @contextmanager
    def start(
        cls,
        config: TrainConfig,
        description: RunDescription,
        dataset: Dataset,
        model: nn.Module,
    ) -> Iterator["RunWriter"]:
        """Write what does not change any more, and a manifest without snapshots.

        The weights of the model are kept where the run is a branch, which begins with them.

        Raises:
            InvalidConfig: the directory is taken, perhaps only just now.
        """
        directory = config.out
        with explaining_failures(directory):
            directory.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            refuse_taken(directory)
            remove_unfinished(directory)
            for name in FOLDERS:
                (directory / name).mkdir(exist_ok=True)
            run = cls(directory, _first_manifest(directory, config, description, dataset, model))
            write_run(directory, run.manifest)
            with run._noting_what_is_left():
                yield run

    @classmethod
    @contextmanager
    def resumed(cls, config: TrainConfig, description: RunDescription) -> Iterator["RunWriter"]:
        """Go on with a run.

        Raises:
            InvalidManifest: the directory holds no run, or a damaged one.
        """
        directory = config.out
        with locked(directory):
            remove_unfinished(directory)
            run = cls(directory, read_run(directory))
            run._check_snapshots()
            run._go_on_as(description)
            with run._noting_what_is_left():
                yield run

    def _go_on_as(self, description: RunDescription) -> None:
        """Write down what is another than before: more cycles, or the machine that goes on.

        Raises:
            InvalidManifest: the plan does not go on as the one before.
        """
        found = self.manifest.schedule
        expected = description.schedule.shortened(found.cycles)
        if not found.cycle_ends:  # an earlier version did not keep them
            found = found.model_copy(update={"cycle_ends": expected.cycle_ends})
        if found.trial == "open":  # more cycles leave nothing to be tried
            found = found.model_copy(update={"trial": expected.trial})
        if found != expected:
            raise InvalidManifest(
                f"{self.directory}: this version understands the run's settings otherwise: "
                f"{expected} instead of {found}"
            )
        manifest = self.manifest.model_copy(
            update={
                "schedule": description.schedule,
                "training": description.training,
                "extended_after": description.extended_after,
            }
        )
        if manifest != self.manifest:
            self.manifest = manifest
            write_run(self.directory, manifest)

    def _check_snapshots(self) -> None:
        """Refuse damaged snapshots now, not in the export after days of further training."""
        for name in FOLDERS:  # an empty one is lost where a directory is copied file by file
            (self.directory / name).mkdir(exist_ok=True)
        for snapshot in self.manifest.all_snapshots:
            logits = snapshot.val_logits
            read_verified(self.directory, snapshot.file, snapshot.sha256, snapshot.size)
            read_verified(self.directory, logits.file, logits.sha256, logits.size)

    @contextmanager
    def _noting_what_is_left(self) -> Iterator[None]:
        """Note on whatever ends the run early what there is, and how to go on."""
        try:
            yield
        except BaseException as error:
            finished = len(self.manifest.snapshots)
            note = f"{finished} of {len(self.manifest.cycles)} cycles are finished and whole"
            if finished:
                note += f"; snapensemble export {self.directory} takes them"
            if not isinstance(error, TrainingDiverged):
                note += f"; snapensemble train --resume {self.directory} goes on"
            error.add_note(note)
            raise

    def add_snapshots(self, cycle: Cycle, rate: float, kept: Sequence[Kept], plan: Plan) -> None:
        """Keep what a finished cycle leaves: its last weights first, then averages.

        Args:
            cycle: the one that has just ended.
            rate: the learning rate of its last update.
            kept: the weights, as they are before the restart.
            plan: of the run from here on, which the first cycle's trial may have changed.
        """
        if cycle.index in {snapshot.cycle for snapshot in self.manifest.snapshots}:
            # It was kept before the run was stopped, after the checkpoint that it went on from.
            return
        last, *averages = (self._written(each, cycle, rate) for each in kept)
        self.manifest = self.manifest.model_copy(
            update={
                "snapshots": (*self.manifest.snapshots, last),
                "averages": (*self.manifest.averages, *averages),
                "schedule": decided_record(self.manifest.schedule, plan),
            }
        )
        write_run(self.directory, self.manifest)

    def plan(self, plan: Plan) -> None:
        """Write down what the first cycle's trial has decided."""
        schedule = decided_record(self.manifest.schedule, plan)
        self.manifest = self.manifest.model_copy(update={"schedule": schedule})
        write_run(self.directory, self.manifest)

    def _written(self, kept: Kept, cycle: Cycle, rate: float) -> Snapshot:
        """The record of weights whose files are written now."""
        name = snapshot_name(cycle.index, kept.weights, kept.of_cycles)
        file = f"snapshots/{name}.safetensors"
        return Snapshot(
            cycle=cycle.index,
            weights=kept.weights,
            of_cycles=kept.of_cycles,
            step=cycle.end,
            learning_rate=rate,
            file=file,
            sha256=write_atomically(self.directory / file, kept.data),
            size=len(kept.data),
            val=kept.val,
            val_logits=_write_array(self.directory, f"val-logits/{name}.npy", kept.logits_NK),
        )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; the system lets go of it however this process ends.

    Raises:
        InvalidConfig: another process holds it.
        WriteFailed: the directory is not there or not writable.
    """
    try:
        file = (directory / LOCK_FILE).open("a")
    except OSError as error:
        raise WriteFailed(f"{directory}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidConfig(f"another process is training in {directory}") from None
        except OSError:  # a file system without locks, as some network ones are
            pass
        yield


def refuse_taken(directory: Path) -> None:
    """Make sure that nothing is there yet; training may take hours before it writes.

    What a start that was killed before there was a manifest has left counts as nothing.

    Raises:
        InvalidConfig: there is something, and a run is never written over.
    """
    try:
        taken = directory.exists() and not holds_nothing(directory)
    except OSError as error:
        raise WriteFailed(f"{directory}: {error.strerror}; choose another --out") from error
    if taken:
        raise InvalidConfig(
            f"{directory} is not empty; a run is never written over another: choose a new --out"
            + (f", or go on with --resume {directory}" if (directory / RUN_FILE).exists() else "")
        )


def holds_nothing(directory: Path) -> bool:
    """Whether there is an empty directory, or what a start has left that was killed at once."""
    return directory.is_dir() and not any(map(_is_something, directory.iterdir()))


def calibration_images(dataset: Dataset, seed: int) -> NDArray[np.uint8]:
    """Up to 256 training images: export checks parity, and later quantization, on real pixels."""
    count = min(CALIBRATION_IMAGES, len(dataset.train))
    rng = np.random.default_rng(derived_seed(seed, Purpose.CALIBRATION))
    chosen = np.sort(rng.choice(len(dataset.train), count, replace=False))
    return dataset.train.images_NCHW[chosen]


def _is_something(file: Path) -> bool:
    if file.name in FOLDERS:
        return not file.is_dir() or any(file.iterdir())
    return file.name not in FIRST_FILES and file.suffix != TEMPORARY


def _first_manifest(
    directory: Path,
    config: TrainConfig,
    description: RunDescription,
    dataset: Dataset,
    model: nn.Module,
) -> RunManifest:
    """A manifest without snapshots; the files that all of them share are written first."""
    settings = to_toml(config).encode()
    calibration_NCHW = calibration_images(dataset, config.seed)
    return RunManifest(
        snapensemble=version("snapensemble"),
        classes=dataset.classes,
        image=description.image,
        data=description.data,
        schedule=description.schedule,
        training=description.training,
        branch=None
        if description.branch is None
        else Branch(
            cycle=description.branch,
            first=_write(directory, BRANCH_FILE, snapshot_bytes(model)),
        ),
        config=_write(directory, CONFIG_FILE, settings),
        val_labels=_write_array(directory, VAL_LABELS, dataset.val.labels_N),
        calibration_images=_write_array(directory, CALIBRATION, calibration_NCHW),
        trunk=None
        if description.trunk is None
        else _write(directory, TRUNK_FILE, snapshot_bytes(description.trunk)),
    )


def _write_array(directory: Path, file: str, array: NDArray[np.generic]) -> FileRef:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return _write(directory, file, buffer.getvalue())


def _write(directory: Path, file: str, data: bytes) -> FileRef:
    return FileRef(file=file, sha256=write_atomically(directory / file, data), size=len(data))

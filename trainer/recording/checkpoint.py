"""All that resuming needs, in `checkpoint.pt` in the run directory.

Random numbers are functions of the seed and the epoch (`trainer.seeding`), so no random state is
kept.
"""

import io
import time
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

import torch
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidManifest, memory_lacking
from snapensemble.contracts.files import read_regular, write_atomically
from snapensemble.contracts.run import ScheduleRecord
from snapensemble.trainer.averages import CycleAverages

CHECKPOINT_FILE = "checkpoint.pt"
MAX_CHECKPOINT_BYTES = 32 * 2**30  # a network, its optimizer, and room


@dataclass
class State:
    """What training changes with every step and with every validated epoch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0  # updates done
    loss: float = float("nan")  # of the last update
    val_nlls: list[float] = field(default_factory=list)  # after each epoch validated
    averages: CycleAverages = field(init=False)  # of the weights in the cycle being trained

    def __post_init__(self) -> None:
        """Begin the averages with the network as it is."""
        self.averages = CycleAverages(self.model)

    def restart_from(self, weights: dict[str, Tensor]) -> None:
        """Put other weights in the place of these; momentum begins anew."""
        self.model.load_state_dict(weights)
        self.optimizer.state.clear()

    def skip_to(self, schedule: ScheduleRecord, cycle: int) -> None:
        """Count the cycles before this one as done."""
        self.step = [0, *schedule.cycle_ends][cycle]
        # Only their number matters: the rates of SGDR do not depend on validation.
        self.val_nlls = [nan] * (self.step // schedule.steps_per_epoch)

    @property
    def rate(self) -> float:
        """The learning rate of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, or waits for its validation."""
        return len(self.val_nlls)


def save_checkpoint(run_dir: Path, state: State) -> None:
    """Write the state so that either the checkpoint before or all of this one is there.

    Raises:
        WriteFailed: the disk is full; the checkpoint before is whole.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "loss": state.loss,
            "val_nlls": state.val_nlls,
            "averages": state.averages.state_dict(),
        },
        buffer,
    )
    write_atomically(run_dir / CHECKPOINT_FILE, buffer.getvalue())


def has_checkpoint(run_dir: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return (run_dir / CHECKPOINT_FILE).exists()


def load_checkpoint(run_dir: Path, state: State) -> None:
    """Put the state back; without a checkpoint it stays at step 0.

    Raises:
        InvalidManifest: the file is damaged, or of another network.
    """
    if not has_checkpoint(run_dir):
        return
    file = run_dir / CHECKPOINT_FILE
    try:
        data = read_regular(file, MAX_CHECKPOINT_BYTES)
    except OSError as error:
        raise InvalidManifest(f"{file}: cannot read: {error.strerror or error}") from error
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        state.model.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.step, state.loss = int(content["step"]), float(content["loss"])
        state.val_nlls = [float(nll) for nll in content["val_nlls"]]
        if "averages" in content:  # versions up to 0.1 kept none; theirs begin where they go on
            state.averages.load_state_dict(content["averages"])
        else:
            state.averages = CycleAverages(state.model)
    except Exception as error:  # torch, pickle and zipfile raise a dozen types on damaged files
        if memory_lacking(error):
            raise
        raise InvalidManifest(
            f"{file} is damaged or another run's ({type(error).__name__}: {error}); "
            "remove it to train this run again from step 0"
        ) from error


def remove_checkpoint(run_dir: Path) -> None:
    """Remove the checkpoint of a complete run, which nobody will resume."""
    (run_dir / CHECKPOINT_FILE).unlink(missing_ok=True)


class Checkpoints:
    """The one checkpoint of a run, written anew every few minutes."""

    def __init__(self, run_dir: Path, minutes: float) -> None:
        self._run_dir = run_dir
        self._seconds = minutes * 60
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another one."""
        return time.monotonic() - self._written >= self._seconds

    def write(self, state: State) -> None:
        """Write a checkpoint, from which the minutes count anew."""
        save_checkpoint(self._run_dir, state)
        self._written = time.monotonic()

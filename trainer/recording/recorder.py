"""The record that the leading process writes and shows of a run; the others do neither."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import Tensor

from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.process import Stopped
from snapensemble.contracts.run import METRICS_FILE, read_run
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import Dataset
from snapensemble.trainer.loop import Step
from snapensemble.trainer.recording.checkpoint import (
    Checkpoints,
    State,
    has_checkpoint,
    load_checkpoint,
    remove_checkpoint,
)
from snapensemble.trainer.recording.manifest import RunDescription
from snapensemble.trainer.recording.observers import MetricsFile, Observer, Progress
from snapensemble.trainer.recording.run_directory import RunWriter
from snapensemble.trainer.recording.snapshots import Kept, read_weights
from snapensemble.trainer.recording.tensorboard import DIRECTORY, TensorBoard
from snapensemble.trainer.recording.tracking import Tracking
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Plan


class Recorder:
    """Receives all that happens and does nothing, for the processes that do not lead."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def earlier(self, cycle: int) -> dict[str, Tensor]:
        """The last weights of an earlier cycle by name, from the run directory."""
        run = read_run(self._run_dir)
        if run.branch is not None:  # it keeps the first cycle's, and needs no other
            return read_weights(self._run_dir, run.branch.first)
        return read_weights(self._run_dir, run.snapshots[cycle])

    def step(self, step: Step, epoch: int, cycle: Cycle) -> None:
        """Called after an optimizer update."""

    def epoch(self, step: Step, epoch: int, cycle: Cycle, val: ValFigures, seconds: float) -> None:
        """Called after a validation."""

    def snapshots(self, cycle: Cycle, rate: float, kept: Sequence[Kept], plan: Plan) -> None:
        """Called at the end of a cycle, before the restart; the last weights come first."""

    def planned(self, plan: Plan) -> None:
        """Called when the rest of the run is decided, and that is no end of a cycle."""

    def checkpoint_if_due(self) -> None:
        """Called when every update so far is recorded, and nothing is half so."""


class LeadersRecorder(Recorder):
    """Writes run.json, snapshots, metrics and checkpoints, and shows the progress."""

    def __init__(
        self, run: RunWriter, state: State, checkpoints: Checkpoints, observers: list[Observer]
    ) -> None:
        super().__init__(run.directory)
        self._run = run
        self._state = state
        self._checkpoints = checkpoints
        self._observers = observers

    def step(self, step: Step, epoch: int, cycle: Cycle) -> None:
        """Pass the step to the observers."""
        for observer in self._observers:
            observer.step(step, epoch, cycle.index)

    def epoch(self, step: Step, epoch: int, cycle: Cycle, val: ValFigures, seconds: float) -> None:
        """Pass the validation to the observers."""
        for observer in self._observers:
            observer.epoch(step, epoch, cycle.index, val, seconds)

    def snapshots(self, cycle: Cycle, rate: float, kept: Sequence[Kept], plan: Plan) -> None:
        """Keep the weights and the plan from here on, and pass the cycle to the observers."""
        self._run.add_snapshots(cycle, rate, kept, plan)
        for observer in self._observers:
            observer.snapshot(cycle)

    def planned(self, plan: Plan) -> None:
        """Write the plan down."""
        self._run.plan(plan)

    def checkpoint_if_due(self) -> None:
        """Write a checkpoint if the last one is old."""
        if self._checkpoints.due():
            self.checkpoint()

    def checkpoint(self) -> None:
        """Write a checkpoint, after the metrics up to it."""
        for observer in self._observers:
            observer.flush()
        self._checkpoints.write(self._state)


@contextmanager
def recording(
    config: TrainConfig,
    description: RunDescription,
    dataset: Dataset,
    state: State,
    *,
    leads: bool,
    resumed: bool,
) -> Iterator[Recorder]:
    """Open the run directory, put the state back if the run is resumed, and record.

    A run that is stopped leaves a checkpoint of its last whole step.
    """
    if not leads:
        if resumed:
            put_back(config.out, state, description.extended_after)
        yield Recorder(config.out)
        return
    opened = (
        RunWriter.resumed(config, description)
        if resumed
        else RunWriter.start(config, description, dataset, state.model)
    )
    with ExitStack() as stack:
        run = stack.enter_context(opened)
        if resumed:
            put_back(run.directory, state, description.extended_after)
        if run.manifest.branch is not None and not state.step:
            state.skip_to(run.manifest.schedule, run.manifest.branch.cycle)
        observers: list[Observer] = [
            stack.enter_context(Progress(run.manifest, state.step)),
            stack.enter_context(MetricsFile(run.directory / METRICS_FILE, state.step, state.epoch)),
        ]
        if config.tensorboard:
            board = TensorBoard(
                run.directory / DIRECTORY,
                batch_size=description.training.batch_size,
                purge_step=state.step if resumed else None,
            )
            observers.append(stack.enter_context(board))
        if config.track is not None:
            tracking = Tracking(
                config.track,
                run.directory,
                settings={name: value for name, value in config if value is not None},
                batch_size=description.training.batch_size,
            )
            observers.append(stack.enter_context(tracking))
        checkpoints = Checkpoints(run.directory, config.checkpoint_minutes)
        recorder = LeadersRecorder(run, state, checkpoints, observers)
        try:
            yield recorder
        except Stopped:
            recorder.checkpoint()
            raise
        remove_checkpoint(run.directory)


def put_back(run_dir: Path, state: State, extended_after: tuple[int, ...]) -> None:
    """Give a resumed run the state of its checkpoint, or of where it was last known without one.

    That is the beginning, or the end of a run that was finished and then got more cycles. Its
    checkpoint is gone; the weights are those of its last snapshot, and there is no momentum.

    Raises:
        InvalidManifest: the checkpoint or the snapshot is damaged.
    """
    if has_checkpoint(run_dir) or not extended_after:
        load_checkpoint(run_dir, state)
        return
    run = read_run(run_dir)
    last = next(each for each in run.snapshots if each.cycle == extended_after[-1] - 1)
    state.model.load_state_dict(read_weights(run_dir, last))
    state.skip_to(run.schedule, last.cycle + 1)

"""train(): from images to a run directory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.errors import (
    InvalidConfig,
    InvalidData,
    InvalidManifest,
    memory_lacking,
)
from snapensemble.contracts.files import refuse_unwritable
from snapensemble.contracts.process import Deferred, Stopped, say, signals_deferred
from snapensemble.contracts.run import DataRecord, RunManifest, read_run
from snapensemble.trainer.averages import keep_statistics, soups
from snapensemble.trainer.budget import about_trial, first_cycle_decides, has_fitted, planned
from snapensemble.trainer.build import (
    augmented_images,
    balancing_weights,
    build_batches,
    build_objective,
    choose_device,
    image_contract,
    load_images,
    new_model,
)
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import run_config
from snapensemble.trainer.device.transfers import Reading
from snapensemble.trainer.distributed import joined, local_device, threads_here
from snapensemble.trainer.fine_tuning.defaults import (
    refuse_absent,
    with_defaults,
    with_pretrained,
)
from snapensemble.trainer.fine_tuning.inputs import fit_first_head, training_inputs
from snapensemble.trainer.loop import Batches, Objective, Step, train_epoch
from snapensemble.trainer.models.registry import default_model, parameter_count
from snapensemble.trainer.optimizers import build_optimizer
from snapensemble.trainer.pace import settled
from snapensemble.trainer.recording.checkpoint import State, has_checkpoint, remove_checkpoint
from snapensemble.trainer.recording.manifest import (
    RunDescription,
    data_record,
    schedule_record,
    training_record,
)
from snapensemble.trainer.recording.recorder import Recorder, recording
from snapensemble.trainer.recording.run_directory import refuse_taken
from snapensemble.trainer.recording.snapshots import Kept, load_trunk, read_weights
from snapensemble.trainer.recording.tracking import refuse_absent_tool
from snapensemble.trainer.schedules import Plan
from snapensemble.trainer.seeding import keeping_random_state
from snapensemble.trainer.validation import Labelled, Validation, sample


def train(config: TrainConfig) -> Path:
    """Train one network and keep a snapshot at the end of every cycle.

    Returns:
        The run directory, `config.out`.

    Raises:
        InvalidConfig: a setting cannot work with this data or machine, or `out` is taken.
        InvalidData: the data set cannot be used.
        MemoryLacking: the machine or the device has too little memory.
        TrainingDiverged: the loss is not a number any more.
        WriteFailed: the disk is full. Snapshots finished before are whole in every case.
        ProcessLost: another process of the run has ended.
        Stopped: a signal came; a checkpoint of the last whole step is written.
    """
    return _train(config, resumed=False)


def resume(run_dir: Path, more_cycles: int = 0, **changes: Any) -> Path:
    """Go on with a run from its last checkpoint, to the end it would have had without a stop.

    For one process on the CPU the snapshots are the same to the bit, if `threads` is the same.

    Args:
        run_dir: made by `train`.
        more_cycles: are added to the run's plan and stay in it. A run that is not finished goes on
            as if it had always had them; a finished one goes on from the weights of its last
            snapshot, and its momentum begins anew.
        changes: settings of this machine: data (the same images in another place), device,
            threads, checkpoint_minutes, compile.

    Returns:
        The run directory; at once if the run is complete and gets no more cycles.

    Raises:
        InvalidManifest: the directory holds no run, or a damaged one.
        InvalidData: the images are not those that the run began with.
        InvalidConfig: another process trains in this directory, its schedule knows no more cycles,
            or it is a branch; all others as for `train`.
    """
    run = read_run(run_dir)
    if more_cycles and run.branch is not None:
        raise InvalidConfig(
            f"{run_dir} is one cycle of another run: give --more-cycles with that run, and train "
            "them by --branch"
        )
    extended_after = run.extended_after
    if run.complete:
        remove_checkpoint(run_dir)  # if the run was killed just before it did
        if not more_cycles:
            return run_dir
        extended_after += (run.schedule.cycles,)
    config = run_config(run_dir, more_cycles, **changes)
    branched = None if run.branch is None else run.branch.cycle
    origin = Origin(run_dir, run)
    return _train(config, origin, resumed=True, extended_after=extended_after, branched=branched)


def branch(run_dir: Path, cycle: int, out: Path, **changes: Any) -> Path:
    """Train one cycle of a run's star in a directory of its own, as the run itself would train it.

    For one process on the CPU the snapshot has the same bits as the run's own, if `threads` is the
    same. `export` takes the run and its branches together.

    Args:
        run_dir: made by `train`, with its first cycle finished, and cycles that all begin with it.
        cycle: which one, from 1.
        out: a new run directory.
        changes: settings of this machine, see `resume`.

    Returns:
        The new run directory.

    Raises:
        InvalidConfig: the run's cycles do not begin with the first one's weights, or it has no such
            cycle; all others as for `train`.
        InvalidManifest: the directory holds no run whose first cycle is finished.
        InvalidData: the images are not those that the run began with.
    """
    run = read_run(run_dir)
    if run.branch is not None:
        raise InvalidConfig(f"{run_dir} is one cycle of another run: name that run by --branch")
    if run.schedule.restart_from != "first":
        raise InvalidConfig(
            f"the cycles of {run_dir} begin with the previous one, so one cannot be trained "
            "without the others; train with --restart-from first"
        )
    if not 1 <= cycle < run.schedule.cycles:
        raise InvalidConfig(
            f"--cycle {cycle}: {run_dir} has the cycles 1 to {run.schedule.cycles - 1} after the "
            "first one"
        )
    if not run.snapshots:
        raise InvalidManifest(f"{run_dir} has no snapshot of its first cycle yet; finish it first")
    config = run_config(run_dir, **changes).model_copy(update={"out": out})
    return _train(config, Origin(run_dir, run), resumed=False, branched=cycle)


class Origin(NamedTuple):
    """A run that was begun before: it goes on, or one of its cycles is trained elsewhere."""

    directory: Path
    run: RunManifest

    def refuse_other_images(self, data: DataRecord) -> None:
        """Raise InvalidData unless the images are those that the run began with."""
        if self.run.data.fingerprint != data.fingerprint:
            raise InvalidData(
                f"{data.spec} is not what {self.directory} began with: its images, classes or "
                "split have changed; put them back, or train again with a new --out"
            )


def _train(
    config: TrainConfig,
    origin: Origin | None = None,
    *,
    resumed: bool,
    extended_after: tuple[int, ...] = (),
    branched: int | None = None,
) -> Path:
    started = time.monotonic()
    refuse_absent_tool(config.track)
    device = choose_device(local_device(config.device))
    torch.set_num_threads(config.threads or threads_here(cpu_budget()))
    with saying_what_needs_less_memory(), joined(device) as world:
        if world.leads:
            if not resumed:
                refuse_taken(config.out)
            refuse_unwritable(config.out)
        if origin is None:
            config = with_defaults(with_pretrained(config))
            refuse_absent(config)
        begun = None if origin is None else origin.run
        dataset = load_images(config, begun, world)
        data = data_record(config, dataset)
        if origin is not None:
            origin.refuse_other_images(data)
        image = begun.image if begun else image_contract(dataset, config.model, config.pretrained)
        name = config.model or default_model(image)
        # What brings all weights; the file that the run began with may be gone.
        kept = branched or (resumed and (has_checkpoint(config.out) or extended_after))
        pretrained = None if kept else config.pretrained
        network = new_model(name, config.seed, pretrained, dataset, image, device)
        if origin is not None:
            load_trunk(origin.directory, network)
        shown = augmented_images(config, dataset, image, device)
        with world.leader_first("features"):
            inputs = training_inputs(config, network, shown, dataset)
        model, weights_K = inputs.model, balancing_weights(config, dataset, device)
        if config.fine_tunes and not kept:
            fit_first_head(network, inputs, dataset, weights_K)
        if config.frozen_statistics:
            keep_statistics(model)
        batches = build_batches(config, inputs.source, dataset.train.labels_N, device, world)
        tries = begun is None and first_cycle_decides(config)
        config = settled(config, model, batches, inputs.val, started, begins=begun is None)
        plan = replace(planned(config, batches.steps_per_epoch, begun, tries), branch=branched)
        if origin is not None and not resumed:  # a branch, which begins with its weights
            first = read_weights(origin.directory, origin.run.snapshots[0])
            model.load_state_dict(first)
        state = State(model, build_optimizer(model, config, plan.schedule, device))
        objective = build_objective(config, model, world, device, weights_K)
        description = RunDescription(
            image,
            data,
            schedule_record(config, plan),
            training_record(config, name, parameter_count(model), batches, device),
            inputs.trunk,
            branched,
            extended_after,
        )
        with (
            keeping_random_state(device),
            signals_deferred() as deferred,
            recording(
                config, description, dataset, state, leads=world.leads, resumed=resumed
            ) as record,
        ):
            world.refuse_other_steps(state.step)
            taught = (
                sample(dataset.train, len(dataset.val), config.seed, device)
                if plan.if_fitted is not None
                else None
            )
            train_cycles(state, objective, batches, plan, inputs.val, taught, record, deferred)
    return config.out


@contextmanager
def saying_what_needs_less_memory() -> Iterator[None]:
    """Raise MemoryLacking for the errors of torch and Python that say so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (lacking := memory_lacking(error)) is None:
            raise
        lacking.add_note("a smaller --batch-size, --image-size or network needs less")
        raise lacking from error


def train_cycles(
    state: State,
    objective: Objective,
    batches: Batches,
    plan: Plan,
    val: Labelled,
    taught: Labelled | None,
    record: Recorder,
    deferred: Deferred,
) -> None:
    """Train from where the state is to the end of the plan; keep snapshots after each cycle.

    Args:
        state: moves on with each step and each validation.
        objective: gives the loss.
        batches: of training images.
        plan: the schedule and its cycles.
        val: of validation.
        taught: some of the training images, where the first cycle is to be tried.
        record: receives every step, validation and snapshot.
        deferred: signals that wait for a place where stopping is safe.
    """
    world = batches.world
    validation, reading = Validation(val, batches, deferred), Reading(batches.device)

    def stop_if_signalled() -> None:
        """Raise Stopped in all processes after the same step, whichever of them got the signal."""
        if signum := world.largest(deferred.signum):
            raise Stopped(signum)

    for epoch in range(state.epoch, plan.epochs):
        cycle, started = plan.cycle_of(epoch), time.monotonic()
        if plan.restart_from == "first" and state.step == cycle.start > 0:
            world.meet()  # or one reads the first one's weights before the leader has written them
            state.restart_from(record.earlier(0))
        for steps in train_epoch(state, objective, batches, plan.schedule, cycle, reading):
            for step in steps:
                record.step(step, epoch, cycle)
            record.checkpoint_if_due()
            stop_if_signalled()
        seconds = time.monotonic() - started
        world.average_batch_norm(state.model)
        last = Step(state.step - 1, state.rate, state.loss)
        logits_NK, figures = validation.of(state.model, last)
        averages, kept = state.averages.networks(), []
        tried = plan.if_fitted
        is_tried = tried is not None and state.step == tried.cycles[0].end
        if is_tried or state.step == cycle.end:
            average = validation.averaged("ema", averages["ema"], last, epoch)
        if is_tried and taught is not None:
            # Its moving average is where the network would be if the rate had fallen by now.
            train_nll = Validation(taught, batches, deferred).of(averages["ema"], last)[1].nll
            plan = plan.decided(has_fitted(train_nll, average.val.nll))
            cycle = plan.cycle_of(epoch)
            if world.leads:
                say(about_trial(train_nll, average.val.nll, plan))
        if state.step == cycle.end:
            kept += [Kept.of("last", state.model, logits_NK, figures), average]
            if not plan.is_cut(cycle):
                kept.append(validation.averaged("tail", averages["tail"], last, epoch))
            if plan.is_last(cycle):
                for cycles, soup in soups(state.model, cycle.index, record.earlier):
                    kept.append(validation.averaged("soup", soup, last, epoch, cycles))
        # Whatever a signal may interrupt is done: from here on nothing is half recorded.
        record.epoch(last, epoch, cycle, figures, seconds)
        state.val_nlls.append(figures.nll)
        if kept:
            record.snapshots(cycle, state.rate, kept, plan)
        elif plan.if_fitted is not tried:
            record.planned(plan)
        record.checkpoint_if_due()

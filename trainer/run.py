"""train(): from images to a run directory."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.cpu import cpu_budget
from contracts.figures import softmax, val_figures
from contracts.run import read_run
from contracts.stopping import signals_deferred
from trainer.checkpoint import State
from trainer.config import TrainConfig
from trainer.config_file import run_config
from trainer.data import load_dataset, repeated_images
from trainer.distributed import World, joined, local_device, threads_here
from trainer.evaluate import predict_logits
from trainer.loop import Batches, Objective, Step, TrainingDiverged, diverged, train_epoch
from trainer.models import default_model, parameter_count
from trainer.notices import say
from trainer.optimizers import build_optimizer
from trainer.readers import Split
from trainer.recorder import Recorder, recording
from trainer.records import RunDescription, data_record, schedule_record, training_record
from trainer.schedules import Plan
from trainer.setup import build_batches, build_objective, choose_device, image_contract, new_model
from trainer.writer import refuse_taken


def train(config: TrainConfig) -> Path:
    """Train one network and keep a snapshot at the end of every cycle.

    Returns:
        The run directory, `config.out`.

    Raises:
        InvalidConfig: a setting cannot work with this data or machine, or `out` is taken.
        InvalidData: the data set cannot be used.
        TrainingDiverged: the loss is not a number any more.
        WriteFailed: the disk is full. Snapshots finished before are whole in every case.
        ProcessLost: another process of the run has ended.
        Stopped: SIGINT or SIGTERM came; a checkpoint of the last whole step is written.
    """
    return _train(config, resumed=False)


def resume(run_dir: Path, **changes: Any) -> Path:
    """Go on with a run from its last checkpoint, to the end it would have had without a stop.

    On the CPU the snapshots are the same to the bit, if `threads` is the same.

    Args:
        run_dir: made by `train`.
        changes: settings of this machine: device, threads, checkpoint_minutes.

    Returns:
        The run directory; at once if the run is complete.

    Raises:
        InvalidManifest: the directory holds no run, or a damaged one.
        InvalidData: the images are not those that the run began with.
        InvalidConfig: another process trains in this directory; and the others as in `train`.
    """
    if read_run(run_dir).complete:
        return run_dir
    return _train(replace(run_config(run_dir), **changes), resumed=True)


def _train(config: TrainConfig, *, resumed: bool) -> Path:
    device = choose_device(local_device(config.device))
    torch.set_num_threads(config.threads or threads_here(cpu_budget()))
    with joined(device) as world:
        if world.leads and not resumed:
            refuse_taken(config.out)
        with world.leader_first():
            dataset = load_dataset(
                config.data,
                val_fraction=config.val_fraction,
                split_seed=config.split_seed,
                image_size=config.image_size,
                max_bad_images=config.max_bad_images,
            )
        if world.leads and (repeated := repeated_images(dataset.train, dataset.val)):
            say(
                f"warning: {repeated} of {len(dataset.val)} validation images are among the "
                "training images too, pixel by pixel; validation figures look better than they are"
            )
        image = image_contract(dataset, config.model if config.pretrained else None)
        name = config.model or default_model(image)
        model = new_model(name, config, dataset, image, device)
        batches = build_batches(config, dataset, image, device, world)
        plan = config.plan(batches.steps_per_epoch)
        state = State(model, build_optimizer(model, config, plan.schedule, device))
        objective = build_objective(config, model, world, device)
        description = RunDescription(
            image,
            data_record(config, dataset),
            schedule_record(config, plan),
            training_record(config, name, parameter_count(model), batches, device),
        )
        with (
            signals_deferred() as stop_if_asked,
            recording(
                config, description, dataset, state, leads=world.leads, resumed=resumed
            ) as record,
        ):
            train_cycles(state, objective, batches, plan, dataset.val, record, stop_if_asked)
    return config.out


def train_cycles(
    state: State,
    objective: Objective,
    batches: Batches,
    plan: Plan,
    val: Split,
    record: Recorder,
    stop_if_asked: Callable[[], None],
) -> None:
    """Train from where the state is to the end of the plan; keep a snapshot after each cycle.

    Args:
        state: moves on with each step and each validation.
        objective: gives the loss.
        batches: of training images.
        plan: the schedule and its cycles.
        val: the validation split.
        record: is told of everything.
        stop_if_asked: is called where stopping is safe.
    """
    val_images_NCHW = torch.from_numpy(val.images_NCHW).to(batches.images_NCHW.device)
    for epoch in range(state.epoch, plan.epochs):
        cycle, started = plan.cycle_of(epoch), time.monotonic()
        for step in train_epoch(state, objective, batches, plan.schedule):
            record.step(step, epoch, cycle)
            stop_if_asked()
        seconds = time.monotonic() - started
        logits_NK = validated(state.model, val_images_NCHW, batches.world, stop_if_asked)
        last = Step(state.step - 1, state.rate, state.loss)
        if not np.isfinite(logits_NK).all():  # the epoch's last update was too much
            raise TrainingDiverged(diverged("validation gave no numbers", last))
        figures = val_figures(softmax(logits_NK), val.labels_N)
        record.epoch(last, epoch, cycle, figures, seconds)
        state.val_nlls.append(figures.nll)
        if state.step == cycle.end:
            record.snapshot(cycle, state.rate, logits_NK, figures)
        record.checkpoint_if_due()


def validated(
    model: nn.Module, images_NCHW: Tensor, world: World, between: Callable[[], None]
) -> NDArray[np.float32]:
    """logits_NK of all images; each process answers for its part of them."""
    world.average_batch_norm(model)
    mine = world.share(len(images_NCHW))
    return world.gathered(predict_logits(model, images_NCHW[mine], between))

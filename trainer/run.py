"""train(): SGDR from images to a run directory."""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.cpu import cpu_budget
from contracts.figures import softmax, val_figures
from contracts.records import ValFigures
from trainer.config import TrainConfig
from trainer.data import load_dataset
from trainer.evaluate import predict_logits
from trainer.loop import Batches, TrainingDiverged, diverged, train_epoch
from trainer.models import Classifier, default_model, parameter_count
from trainer.progress import MetricsFile, Observer, Progress
from trainer.readers import Split
from trainer.records import data_record, schedule_record, training_record
from trainer.schedule import Cycle, Sgdr, first_cycles, learning_rate
from trainer.setup import (
    build_batches,
    choose_device,
    image_contract,
    nesterov_sgd,
    new_model,
)
from trainer.writer import RunWriter, refuse_taken


def train(config: TrainConfig) -> Path:
    """Train one network with SGDR and keep a snapshot at the end of every cycle.

    Returns:
        The run directory, `config.out`.

    Raises:
        InvalidConfig: a setting cannot work with this data or machine, or `out` is taken.
        InvalidData: the data set cannot be used.
        TrainingDiverged: the loss is not a number any more.
        WriteFailed: the disk is full. Snapshots finished before are whole in every case.
    """
    device = choose_device(config.device)
    torch.set_num_threads(config.threads or cpu_budget())
    refuse_taken(config.out)
    dataset = load_dataset(
        config.data,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        image_size=config.image_size,
    )
    image = image_contract(dataset)
    name = config.model or default_model(image)
    model = new_model(name, dataset, image, config.seed, device)
    batches = build_batches(config, dataset, device)
    sgdr = config.sgdr(batches.steps_per_epoch)
    run = RunWriter.start(
        config.out,
        dataset,
        image,
        data_record(config, dataset),
        schedule_record(config, sgdr),
        training_record(config, name, parameter_count(model), batches, device),
    )
    optimizer = nesterov_sgd(model, config, device)
    with (
        run,
        Progress(run.manifest) as progress,
        MetricsFile(config.out / "metrics.jsonl") as metrics,
    ):
        for cycle in first_cycles(config.cycle_count, sgdr):
            logits_NK, val = train_cycle(
                model, optimizer, batches, cycle, sgdr, dataset.val, (progress, metrics)
            )
            run.add_snapshot(cycle, learning_rate(cycle.end - 1, sgdr), model, logits_NK, val)
            progress.say(f"cycle {cycle.index}  snapshot after step {cycle.end}")
    return run.directory


def train_cycle(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    cycle: Cycle,
    sgdr: Sgdr,
    val: Split,
    observers: tuple[Observer, ...],
) -> tuple[NDArray[np.float32], ValFigures]:
    """Anneal once, from the highest rate to the lowest, validating after each epoch.

    Returns:
        logits_NK of the validation split and their figures, from the weights at the end.
    """
    val_images_NCHW = torch.from_numpy(val.images_NCHW).to(batches.images_NCHW.device)
    per_epoch = batches.steps_per_epoch
    for epoch in range(cycle.start // per_epoch, cycle.end // per_epoch):
        started = time.monotonic()
        for step in train_epoch(model, optimizer, batches, epoch, sgdr):
            for observer in observers:
                observer.step(step, epoch, cycle.index)
        seconds = time.monotonic() - started
        logits_NK = predict_logits(model, val_images_NCHW)
        if not np.isfinite(logits_NK).all():  # the epoch's last update was too much
            raise TrainingDiverged(diverged("validation gave no numbers", step))
        figures = val_figures(softmax(logits_NK), val.labels_N)
        for observer in observers:
            observer.epoch(step, epoch, cycle.index, figures, seconds)
    return logits_NK, figures

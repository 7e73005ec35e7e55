"""train(): SGDR from images to a run directory."""

import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.errors import InvalidConfig
from contracts.pixels import ImageContract
from trainer.config import TrainConfig
from trainer.data import Dataset, load_dataset
from trainer.evaluate import predict_logits
from trainer.loop import Batches, train_epoch
from trainer.models import Classifier, build_model, default_model, parameter_count
from trainer.progress import MetricsFile, Observer, Progress
from trainer.readers import Split
from trainer.records import data_record, schedule_record, training_record
from trainer.schedule import Cycle, Sgdr, first_cycles, learning_rate
from trainer.seeding import Purpose, derived_seed
from trainer.writer import RunWriter, refuse_taken, validate


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
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
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
            logits_NK = train_cycle(
                model, optimizer, batches, cycle, sgdr, dataset.val, (progress, metrics)
            )
            run.add_snapshot(cycle, learning_rate(cycle.end - 1, sgdr), model, logits_NK)
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
) -> NDArray[np.float32]:
    """Anneal once, from the highest rate to the lowest, validating after each epoch.

    Returns:
        logits_NK of the validation split, from the weights at the end.
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
        figures = validate(logits_NK, val.labels_N)
        for observer in observers:
            observer.epoch(step, epoch, cycle.index, figures, seconds)
    return logits_NK


def nesterov_sgd(
    model: Classifier, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; the schedule sets the rate at each step."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.lr_max,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        InvalidConfig: torch does not know the device, or cannot use it here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidConfig(f"device {name!r} cannot be used here: {reason}") from error
    return device


def image_contract(dataset: Dataset) -> ImageContract:
    """The images' shape, with the training split's mean and deviation per channel.

    Both come from a histogram of the 256 grey values, exact and without a float copy.
    """
    channels, height, width = dataset.shape
    means, stds = [], []
    for channel in range(channels):
        counts_256 = _histogram(dataset.train.images_NCHW[:, channel])
        values_256 = np.arange(256) / 255
        mean = float(np.average(values_256, weights=counts_256))
        variance = float(np.average((values_256 - mean) ** 2, weights=counts_256))
        means.append(round(mean, 6))
        # A channel that never varies still needs a scale: one grey value.
        stds.append(round(max(variance**0.5, 1 / 255), 6))
    return ImageContract(
        channels=1 if channels == 1 else 3,
        height=height,
        width=width,
        mean=tuple(means),
        std=tuple(stds),
    )


def new_model(
    name: str, dataset: Dataset, image: ImageContract, seed: int, device: torch.device
) -> Classifier:
    """Weights drawn from the seed alone; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, Purpose.WEIGHTS))
        model = build_model(name, len(dataset.classes), image)
    return model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def build_batches(config: TrainConfig, dataset: Dataset, device: torch.device) -> Batches:
    """The training split on the device, whole, as uint8.

    Raises:
        InvalidConfig: fewer images than one batch, or padding beyond the image.
    """
    _, height, width = dataset.shape
    padding = default_padding(height) if config.crop_padding is None else config.crop_padding
    if padding >= min(height, width):
        raise InvalidConfig(
            f"crop_padding {padding} must be below the image's side of {min(height, width)} pixels"
        )
    batches = Batches(
        images_NCHW=torch.from_numpy(dataset.train.images_NCHW).to(device),
        labels_N=torch.from_numpy(dataset.train.labels_N).to(device),
        batch_size=config.batch_size,
        crop_padding=padding,
        flip=dataset.mirror_keeps_class if config.flip is None else config.flip,
        seed=config.seed,
    )
    if batches.steps_per_epoch == 0:
        raise InvalidConfig(
            f"batch_size {config.batch_size} is more than the {len(dataset.train)} training "
            f"images; use at most {len(dataset.train)}"
        )
    return batches


def default_padding(height: int) -> int:
    """An eighth of the height, 4 pixels for CIFAR as in the papers; none below 16 pixels.

    A picture that small fills its frame: on the digits a shift of one pixel costs accuracy
    (docs/results.md).
    """
    return height // 8 if height >= 16 else 0


def _histogram(images_NHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    counts_256 = np.zeros(256, dtype=np.int64)
    for part in np.array_split(images_NHW, max(1, len(images_NHW) // 4096)):
        counts_256 += np.bincount(part.ravel(), minlength=256)
    return counts_256

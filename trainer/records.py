"""TrainConfig and what came of it, as parts of the run manifest."""

import torch

from contracts.run import DataRecord, ScheduleRecord, TrainingRecord
from trainer.config import TrainConfig
from trainer.data import Dataset, resolved
from trainer.loop import Batches
from trainer.schedule import Sgdr, first_cycles


def data_record(config: TrainConfig, dataset: Dataset) -> DataRecord:
    """Where the images came from and how they were split."""
    return DataRecord(
        spec=resolved(config.data),
        fingerprint=dataset.fingerprint(),
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        train_images=len(dataset.train),
        val_images=len(dataset.val),
        test_images=0 if dataset.test is None else len(dataset.test),
    )


def schedule_record(config: TrainConfig, sgdr: Sgdr) -> ScheduleRecord:
    """The cycles in optimizer steps."""
    return ScheduleRecord(
        T_0=sgdr.T_0,
        T_mult=sgdr.T_mult,
        eta_max=sgdr.eta_max,
        eta_min=sgdr.eta_min,
        cycles=config.cycle_count,
        steps_per_epoch=sgdr.T_0 // config.cycle_epochs,
        total_steps=first_cycles(config.cycle_count, sgdr)[-1].end,
    )


def training_record(
    config: TrainConfig, model: str, parameters: int, batches: Batches, device: torch.device
) -> TrainingRecord:
    """The settings of network, optimizer and augmentation, as they were resolved."""
    return TrainingRecord(
        model=model,
        parameters=parameters,
        batch_size=batches.batch_size,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
        crop_padding=batches.crop_padding,
        flip=batches.flip,
        seed=batches.seed,
        device=device.type,
        torch=torch.__version__,
    )

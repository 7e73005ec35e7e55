"""TrainConfig and what was resolved from it, as parts of the run manifest."""

from dataclasses import dataclass

import torch
from torch import nn

from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import DataRecord, ScheduleRecord, TrainingRecord
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.balance import class_counts
from snapensemble.trainer.data.dataset import Dataset, resolved
from snapensemble.trainer.loop import Batches
from snapensemble.trainer.models.tuning import ALL
from snapensemble.trainer.schedules import Hypergradient, Plan, Plateau, StepDecay


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What run.json says of a run apart from its files."""

    image: ImageContract
    data: DataRecord
    schedule: ScheduleRecord
    training: TrainingRecord
    trunk: nn.Module | None = None  # what is not trained
    branch: int | None = None  # the one cycle that is trained
    extended_after: tuple[int, ...] = ()


def data_record(config: TrainConfig, dataset: Dataset) -> DataRecord:
    """Where the images came from and how they were split."""
    return DataRecord(
        spec=resolved(config.data),
        fingerprint=dataset.fingerprint(),
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        max_bad_images=config.max_bad_images,
        max_image_cost=config.max_image_cost,
        train_images=len(dataset.train),
        class_counts=tuple(class_counts(dataset.train.labels_N, len(dataset.classes))),
        val_images=len(dataset.val),
        test_images=0 if dataset.test is None else len(dataset.test),
    )


def schedule_record(config: TrainConfig, plan: Plan) -> ScheduleRecord:
    """The schedule and its cycles in optimizer steps."""
    second = None if config.first_cycle_epochs is None else config.cycle_epochs
    record = ScheduleRecord(
        name=config.schedule,
        T_0=plan.cycles[0].length,
        T_1=None if second is None else second * plan.steps_per_epoch,
        T_mult=config.t_mult,
        eta_max=config.top_rate,
        eta_min=config.lr_min,
        warmup=(config.warmup_epochs or 0) * plan.steps_per_epoch,
        eta_max_decay=config.lr_max_decay,
        restart_from=plan.restart_from,
        cycles=len(plan.cycles),
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.steps,
        cycle_ends=tuple(cycle.end for cycle in plan.cycles),
        trial=plan.trial,
        falls_over=plan.falls_over,
    )
    match plan.schedule:
        case StepDecay(milestones=milestones, factor=factor):
            return record.model_copy(update={"milestones": milestones, "factor": factor})
        case Plateau(factor=factor, patience=patience):
            return record.model_copy(update={"factor": factor, "patience": patience})
        case Hypergradient(eta_start=eta_start, beta=beta, rule=rule):
            return record.model_copy(update={"eta_start": eta_start, "beta": beta, "rule": rule})
    return record


def decided_record(record: ScheduleRecord, plan: Plan) -> ScheduleRecord:
    """The schedule's record under a plan that the trial of the first cycle may have changed."""
    changes: dict[str, object] = {"trial": plan.trial}
    if plan.trial == "fitted":
        first, second, *_ = plan.cycles
        ends = tuple(cycle.end for cycle in plan.cycles)
        changes |= {"T_0": first.length, "T_1": second.length}
        changes |= {"cycles": len(ends), "cycle_ends": ends, "falls_over": plan.falls_over}
    return record.model_copy(update=changes)


def training_record(
    config: TrainConfig,
    model: str,
    parameters: int,
    batches: Batches,
    device: torch.device,
) -> TrainingRecord:
    """The settings of network, optimizer and augmentation, as they were resolved."""
    return TrainingRecord(
        model=model,
        parameters=parameters,
        batch_size=batches.batch_size,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.l2_penalty,
        crop_padding=batches.source.augmentation.crop_padding,
        flip=batches.source.augmentation.flip,
        cutout=batches.source.augmentation.cutout,
        random_resized_crop=config.random_resized_crop,
        trivial_augment=config.trivial_augment,
        color_jitter=config.color_jitter,
        random_erasing=config.random_erasing,
        mixup=config.mixup,
        cutmix=config.cutmix,
        label_smoothing=config.label_smoothing,
        class_balance=config.class_balance,
        pretrained=config.fine_tunes,
        frozen_statistics=config.frozen_statistics or False,
        clip_norm=config.clip_norm,
        tune=config.tune or ALL,
        layer_decay=config.layer_decay,
        precision=config.precision,
        compiled=config.compile is True,
        processes=batches.world.size,
        seed=batches.seed,
        device=device.type,
        torch=torch.__version__,
    )

"""TrainConfig: every choice that a training run depends on, as flags and as TOML."""

from typing import Literal

from pydantic import Field, model_validator

from snapensemble.contracts.cpu import MAX_THREADS
from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.run import Balance
from snapensemble.trainer.options.images import MAX_SEED, ImageOptions
from snapensemble.trainer.options.network import NetworkOptions
from snapensemble.trainer.options.schedule import ScheduleOptions

WEIGHT_DECAY = 5e-4


class TrainConfig(ImageOptions, ScheduleOptions, NetworkOptions):
    """What `train` needs to know; None is a choice that depends on the images or on others."""

    frozen_statistics: bool | None = Field(
        None,
        description="keep batch normalisation's mean and variance (with pretrained weights)",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="longest gradient; longer ones are scaled down (1 with pretrained weights)",
    )
    batch_size: int | None = Field(
        None,
        ge=2,
        description="images per step, over all processes; batch normalisation needs two "
        "(128, or less where an epoch would have fewer than 20 steps; 32 with pretrained weights)",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="L2 penalty (0.0005; 0.002 on up to 2,500 training images; 0.0001 with "
        "pretrained weights)",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label that is spread over all classes"
    )
    class_balance: Balance = Field(
        "none",
        description="how much an image of a rare class counts more: not at all, by the root of how "
        "rare the class is, or so that all classes count the same",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="weights, order and augmentation")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    threads: int | None = Field(
        None, ge=1, le=MAX_THREADS, description="CPU threads (all that this process may use)"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast, for GPUs")
    compile: bool | Literal["auto"] = Field(
        False,
        description="torch.compile: a slow first step, then perhaps faster ones; auto: both ways "
        "are timed, and the faster one is taken, where the run is long enough",
    )
    checkpoint_minutes: float = Field(
        2.0, ge=0, description="minutes between checkpoints, which --resume goes on from"
    )
    tensorboard: bool = Field(False, description="TensorBoard event files in RUN_DIR/tensorboard")
    track: Literal["mlflow", "wandb"] | None = Field(
        None,
        description="tell MLflow or Weights & Biases of settings, curves and snapshots; their own "
        "variables say where and with which key",
    )

    @model_validator(mode="after")
    def _one_rate_is_moved(self) -> "TrainConfig":
        if self.layer_decay != 1 and self.schedule == "hypergradient":
            raise Misfit(
                "{layer_decay} gives stages rates of their own, and {schedule} hypergradient moves "
                "one for all; leave one of them out"
            )
        return self

    @property
    def l2_penalty(self) -> float:
        """The weight decay; 0.0005 where nothing has said what it is."""
        return WEIGHT_DECAY if self.weight_decay is None else self.weight_decay

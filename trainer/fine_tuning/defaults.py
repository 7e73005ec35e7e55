"""What is different by default where training begins with pretrained weights.

docs/decisions/0038 has the measurements. What is resolved here is written down with the run, so
that a later start follows it.
"""

from pathlib import Path
from typing import Any

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import build
from snapensemble.contracts.pixels import MAX_SIDE
from snapensemble.contracts.process import say
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import holds_pictures
from snapensemble.trainer.models import timm
from snapensemble.trainer.models.pretrained import EXTRA, PUBLISHED, absent, published_file
from snapensemble.trainer.models.tuning import ALL
from snapensemble.trainer.options.network import FRESH, HUB

STAGE = "stage7"  # the first that is trained, in the networks that have it
SIZE = 160  # pixels, height and width
CROP = 0.35  # the smallest share of a picture's area that is shown
LARGER = 1.4  # so many times the network's size have the pictures that crops are cut from
BATCH = 32
WEIGHT_DECAY = 1e-4
LONGEST_GRADIENT = 1.0
STAR_LR_MAX, STAGE_LR_MAX, WHOLE_LR_MAX = 0.1, 0.03, 0.01


def with_pretrained(config: TrainConfig) -> TrainConfig:
    """The settings with where a network begins that has published weights of its own."""
    published = PUBLISHED.get(config.model or "")
    if published is None or config.pretrained is not None:
        return config
    if published.path is None:
        say(
            f"warning: {config.model} begins with random weights: the package "
            f"{published.distribution} is not installed; {EXTRA} gives it its weights, and "
            f"--pretrained {FRESH} says that random ones are meant"
        )
    else:
        say(f"{config.model} begins with its ImageNet weights, from {published.distribution}")
    pretrained = FRESH if published.path is None else HUB
    return build(TrainConfig, {**dict(config), "pretrained": pretrained})


def refuse_absent(config: TrainConfig) -> None:
    """Look for the network's package and its weights before pictures are decoded.

    Raises:
        InvalidConfig: something is not there, or cannot be used.
    """
    model = config.model or ""
    if model.startswith(timm.PREFIX):
        timm.expected_normalisation(model)
    if not config.fine_tunes:
        return
    if config.pretrained != HUB:
        if not (file := Path(config.pretrained or "")).exists():
            raise absent(file)
    elif not model.startswith(timm.PREFIX):
        published_file(model or "the default network")


def with_defaults(config: TrainConfig) -> TrainConfig:
    """The settings with what fine-tuning does by default, but for what depends on the cycles.

    Raises:
        InvalidConfig: only a part is to be trained of a network without pretrained weights, or
            pictures are to be mixed where only features are at hand.
    """
    if not config.fine_tunes:
        if config.tune not in (None, ALL):
            raise InvalidConfig(
                f"--tune {config.tune} keeps the rest of the network as it is, which needs "
                "pretrained weights: --pretrained"
            )
        return config
    defaults: dict[str, Any] = {
        "tune": STAGE if config.model in PUBLISHED else ALL,
        "weight_decay": WEIGHT_DECAY,
        "frozen_statistics": True,
        "clip_norm": LONGEST_GRADIENT,
    }
    if holds_pictures(config.data):
        defaults["image_size"] = SIZE
        if config.crop_padding is None:
            defaults["random_resized_crop"] = CROP
    filled = _filled(config, defaults)
    if filled.cutmix and filled.tune != ALL:
        raise InvalidConfig(
            f"--cutmix cuts pictures, and with --tune {filled.tune} only features of them are "
            "trained on, each of which has seen more than its place; give --mixup, which may blend "
            f"features, or --tune {ALL}"
        )
    return filled


def with_rates(config: TrainConfig) -> TrainConfig:
    """The settings with how fine-tuning restarts and its rates, now that the cycles are known.

    The restarts of a star have to lead somewhere else, and an average bears what one network does
    not: its rate is higher.
    """
    if not config.fine_tunes:
        return config
    lengths = config.cycle_lengths
    stars = would_be_star(config) and len(lengths) > 1
    rate = WHOLE_LR_MAX if config.tune == ALL else STAR_LR_MAX if stars else STAGE_LR_MAX
    warms_up = config.schedule in ("sgdr", "cosine") and lengths[0] > 1
    defaults = {
        "restart_from": "first" if stars else None,
        "lr_max": rate,
        "warmup_epochs": 1 if warms_up else None,
    }
    return _filled(config, defaults)


def would_be_star(config: TrainConfig) -> bool:
    """Whether cycles after the first one, if there are any, begin with its weights."""
    restarts = config.schedule == "sgdr"
    return config.is_star or (restarts and config.fine_tunes and config.restart_from is None)


def large_size(config: TrainConfig) -> int | None:
    """The size of the pictures that crops are cut from, in fine-tuning on a folder; else None.

    They are larger than what the network gets, so that even a small part is not blown up much.
    Where pictures are shown whole, nothing is cut from them.
    """
    cuts = (
        config.fine_tunes and holds_pictures(config.data) and (config.random_resized_crop or 1) < 1
    )
    return min(MAX_SIDE, round(LARGER * config.image_size)) if cuts and config.image_size else None


def _filled(config: TrainConfig, defaults: dict[str, Any]) -> TrainConfig:
    """The settings, with defaults for those that are not given."""
    given = {name: value for name, value in config if value is not None}
    return build(TrainConfig, {**dict(config), **defaults, **given})

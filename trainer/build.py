"""What a run needs before its first step: device, images and their contract, weights, batches."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.process import say
from snapensemble.contracts.run import RunManifest
from snapensemble.trainer.augmentation.batch import Augmentation, fill_colour
from snapensemble.trainer.augmentation.mixing import Mixing
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.balance import about_classes, class_counts, class_weights
from snapensemble.trainer.data.dataset import Dataset, load_dataset, repeated_images, resolved
from snapensemble.trainer.distributed import World
from snapensemble.trainer.fine_tuning.defaults import BATCH, large_size
from snapensemble.trainer.loop import Augmented, Batches, Objective, Source
from snapensemble.trainer.models.pretrained import taught_by_others
from snapensemble.trainer.models.registry import (
    Classifier,
    build_model,
    expected_normalisation,
    set_whitening,
)
from snapensemble.trainer.options.network import FRESH, HUB
from snapensemble.trainer.seeding import Purpose, derived_seed

FEWEST_VAL_IMAGES = 2  # that export can divide into two halves


def choose_device(name: str) -> torch.device:
    """The torch device of this name; `auto` is the GPU where there is one.

    Raises:
        InvalidConfig: torch does not know the device, or cannot use it here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidConfig(f"--device {name!r} cannot be used here: {reason}") from error
    return device


def load_images(config: TrainConfig, begun: RunManifest | None, world: World) -> Dataset:
    """The data set; what there is to say about it is said.

    Args:
        config: says which, and how it is read.
        begun: the run that goes on, if one does; its pictures fit their frame as they did.
        world: its leader reads first, and says it.

    Raises:
        InvalidData: it cannot be used, or what would be trained on it could not be exported.
    """
    with world.leader_first("images"), noting_where_from(begun is not None):
        dataset = load_dataset(
            config.data,
            val_fraction=config.val_fraction,
            split_seed=config.split_seed,
            image_size=config.image_size,
            fit=config.fit if begun is None else begun.image.fit,
            large_size=large_size(config),
            max_bad_images=config.max_bad_images,
            max_image_cost=config.max_image_cost,
        )
    if begun is None and len(dataset.val) < FEWEST_VAL_IMAGES:
        raise InvalidData(
            f"the validation part has {len(dataset.val)} image; export needs {FEWEST_VAL_IMAGES} "
            "at least, one to choose by and one to measure on: add some, or remove the part, and a "
            "share of the training images will validate (--val-fraction)"
        )
    if world.leads and (repeated := repeated_images(dataset.train, dataset.val)):
        say(
            f"warning: {repeated} of {len(dataset.val)} validation images are among the "
            "training images too, pixel by pixel; validation figures look better than they are"
        )
    for line in about_classes(dataset, config.class_balance) if world.leads else ():
        say(line)
    if world.leads and begun is None and config.fine_tunes and config.pretrained != HUB:
        place, split = Path(config.pretrained or ""), (config.val_fraction, config.split_seed)
        if warning := taught_by_others(place, resolved(config.data), *split):
            say(warning)
    return dataset


@contextmanager
def noting_where_from(resumed: bool) -> Iterator[None]:
    """Note on data that cannot be read that a resumed run began with it."""
    try:
        yield
    except InvalidData as error:
        if resumed:
            error.add_note(
                "the run began with these images; put them back, or give their new place by --data"
            )
        raise


def image_contract(
    dataset: Dataset, model: str | None = None, pretrained: str | None = None
) -> ImageContract:
    """The images' shape and normalisation.

    Args:
        dataset: gives the mean and deviation per channel of its training split, from a histogram
            of the 256 grey values: exact and without a float copy.
        model: the network, if it is not the default one.
        pretrained: where its weights are from, which may expect a normalisation of their own.
    """
    channels, height, width = dataset.shape
    expected = None
    if pretrained is not None and pretrained != FRESH:
        expected = expected_normalisation(model or "", channels, pretrained)
    means, stds = expected or train_statistics(dataset)
    return ImageContract(
        channels=1 if channels == 1 else 3,
        height=height,
        width=width,
        mean=tuple(means),
        std=tuple(stds),
        fit=dataset.fit,
    )


def train_statistics(dataset: Dataset) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel of the training images, in units of full scale."""
    channels, _, _ = dataset.shape
    means, stds = [], []
    for channel in range(channels):
        counts_256 = _histogram(dataset.train.images_NCHW[:, channel])
        values_256 = np.arange(256) / 255
        mean = float(np.average(values_256, weights=counts_256))
        variance = float(np.average((values_256 - mean) ** 2, weights=counts_256))
        means.append(round(mean, 6))
        # A channel that never varies still needs a scale: one grey value.
        stds.append(round(max(variance**0.5, 1 / 255), 6))
    return means, stds


def new_model(
    name: str,
    seed: int,
    pretrained: str | None,
    dataset: Dataset,
    image: ImageContract,
    device: torch.device,
) -> Classifier:
    """A network whose weights follow from the seed; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, Purpose.WEIGHTS))
        model = build_model(name, len(dataset.classes), image, pretrained)
    if pretrained in (None, FRESH):
        set_whitening(model, torch.from_numpy(dataset.train.images_NCHW))
    return model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def augmented_images(
    config: TrainConfig, dataset: Dataset, image: ImageContract, device: torch.device
) -> Augmented:
    """Put the whole training split on the device, as uint8.

    Raises:
        InvalidConfig: padding beyond the image.
    """
    _, height, width = dataset.shape
    large_NCHW = dataset.train.large_NCHW
    side = min(height, width)
    padding = default_padding(side) if config.crop_padding is None else config.crop_padding
    if config.random_resized_crop is not None:
        padding = 0
    for name, pixels in (("--crop-padding", padding), ("--cutout", config.cutout)):
        if pixels >= side:
            raise InvalidConfig(f"{name} {pixels} must be below the image's side of {side} pixels")
    return Augmented(
        images_NCHW=torch.from_numpy(
            dataset.train.images_NCHW if large_NCHW is None else large_NCHW
        ).to(device),
        augmentation=Augmentation(
            crop_padding=padding,
            flip=dataset.mirror_keeps_class if config.flip is None else config.flip,
            cutout=config.cutout,
            min_area=config.random_resized_crop or 1.0,
            size=None if large_NCHW is None else (height, width),
            trivial=config.trivial_augment,
            jitter=config.color_jitter,
            erasing=config.random_erasing,
        ),
        fill_C=fill_colour(image).to(device),
    )


def build_batches(
    config: TrainConfig,
    source: Source,
    labels_N: NDArray[np.int64],
    device: torch.device,
    world: World,
) -> Batches:
    """Batches of the training split.

    Raises:
        InvalidConfig: fewer images than one batch, or a batch that the processes cannot share
            equally.
    """
    images = len(labels_N)
    batches = Batches(
        source=source,
        labels_N=torch.from_numpy(labels_N),
        batch_size=config.batch_size or default_batch_size(images, config.fine_tunes),
        seed=config.seed,
        world=world,
        device=device,
        mixing=Mixing(mixup=config.mixup, cutmix=config.cutmix)
        if config.mixup or config.cutmix
        else None,
    )
    if batches.batch_size % world.size or batches.batch_size < 2 * world.size:
        raise InvalidConfig(
            f"a batch of {batches.batch_size} cannot be shared equally by {world.size} processes, "
            "at least 2 images each; choose another --batch-size"
        )
    if batches.steps_per_epoch == 0:
        raise InvalidConfig(
            f"--batch-size {batches.batch_size} is more than the {images} training "
            f"images; use at most {images}"
        )
    return batches


def build_objective(
    config: TrainConfig,
    model: nn.Module,
    world: World,
    device: torch.device,
    class_weights_K: Tensor | None = None,
) -> Objective:
    """The loss of the model as it is trained.

    Raises:
        InvalidConfig: `compile` without a compiler.
    """
    network = world.wrapped(model)
    if config.compile:
        if device.type == "cpu" and not any(map(shutil.which, compilers())):
            raise InvalidConfig(
                "--compile on the CPU needs a C++ compiler; found none. Install one, or train, or "
                "go on, with --no-compile"
            )
        network = cast(nn.Module, torch.compile(network, dynamic=False))
    return Objective(
        network=network,
        label_smoothing=config.label_smoothing,
        autocast=config.precision == "bf16",
        longest_gradient=config.clip_norm,
        class_weights_K=class_weights_K,
    )


def balancing_weights(config: TrainConfig, dataset: Dataset, device: torch.device) -> Tensor | None:
    """class_weights_K as `class_balance` says, float32; None where all images count the same."""
    if config.class_balance == "none":
        return None
    counts_K = class_counts(dataset.train.labels_N, len(dataset.classes))
    return torch.from_numpy(class_weights(counts_K, config.class_balance)).to(device)


def compilers() -> tuple[str, ...]:
    """The C++ compilers that torch.compile would try."""
    named = os.environ.get("CXX")
    return (named,) if named else ("c++", "g++", "clang++")


def default_batch_size(images: int, fine_tunes: bool = False) -> int:
    """128, or for few images a smaller power of two from 16 on, so that an epoch has 20 steps.

    Fine-tuning takes 32.
    """
    if fine_tunes:
        return max(2, min(BATCH, images))
    size = 128
    while size > 16 and images // size < 20:
        size //= 2
    return max(2, min(size, images))


def default_padding(side: int) -> int:
    """An eighth of the shorter side, 4 pixels for CIFAR as in the papers; none below 16 pixels.

    A picture that small fills its frame, and a shift gains nothing
    (docs/decisions/0005-networks-and-augmentation-for-small-images.md).
    """
    return side // 8 if side >= 16 else 0


def _histogram(images_NHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    counts_256 = np.zeros(256, dtype=np.int64)
    # bincount makes each pixel an int64, so it takes pieces of about 4 million pixels.
    for part in np.array_split(images_NHW, max(1, images_NHW.size >> 22)):
        counts_256 += np.bincount(part.ravel(), minlength=256)
    return counts_256

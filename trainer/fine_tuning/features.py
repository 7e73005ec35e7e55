"""What a trunk makes of images, computed once: training the rest then costs a fraction.

Features of training images are kept in the cache directory, in one file for each trunk, set of
images and augmentation, so that a run that goes on, and another that tries other rates, find them.

Shapes: V views, N images, C channels, H height, W width, D what the features of one image have.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.files import hidden_directory
from snapensemble.contracts.process import say, say_once
from snapensemble.trainer.data.memmap import (
    CACHE_VARIABLE,
    cache_directory,
    open_rows,
    refuse_without_room,
    write_rows,
)
from snapensemble.trainer.loop import Augmented, Views
from snapensemble.trainer.seeding import Purpose, generator

BATCH = 64  # images


def views(trunk: nn.Module, images: Augmented, count: int, seed: int) -> Views:
    """The features of `count` augmented views of each image, from the cache if it has them.

    Args:
        trunk: on the images' device.
        images: what augments them.
        count: how many views, V.
        seed: draws them.

    Raises:
        InvalidConfig: an image's features are not finite numbers.
    """
    total = count * len(images.images_NCHW)
    shape_D = _shape(trunk, images)
    try:
        file = cache_directory() / f"features-{_key(trunk, images, count, seed)}.npy"
        found = _opened(file, total, shape_D)
        if found is None:
            found = _written(file, _rows(trunk, images, count, seed), total, shape_D)
    except OSError as error:
        say_once(
            f"features are not kept: {error}; to keep them, "
            f"set {CACHE_VARIABLE} to a directory with free space"
        )
        # From the first row again: the disk may have taken some of them before it was full.
        found = np.stack(list(_rows(trunk, images, count, seed)))
    features_VN = torch.from_numpy(found).reshape(count, -1, *shape_D)
    return Views(features_VN=features_VN, augmentation=images.augmentation)


@torch.inference_mode()
def features(trunk: nn.Module, images_NCHW: Tensor) -> Tensor:
    """The features of images as they are, float32, a row per image, on their device."""
    trunk.eval()
    return torch.cat([trunk(batch) for batch in torch.split(images_NCHW, BATCH)]).clone()


def folded(trunk: nn.Module) -> nn.Module:
    """A copy in evaluation mode with each batch normalisation inside the convolution before it.

    It is 1.6 times as fast; the numbers differ in their sixth digit.
    """
    copy = deepcopy(trunk).eval()
    for module in list(copy.modules()):
        if isinstance(module, nn.Sequential):
            for (at, conv), (after, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module.add_module(at, fuse_conv_bn_eval(conv, norm))
                    module.add_module(after, nn.Identity())
    return copy


def _shape(trunk: nn.Module, images: Augmented) -> tuple[int, ...]:
    draws = images.draw(1, generator(0, Purpose.VIEWS))
    device = images.images_NCHW.device
    one = images.take(torch.zeros(1, dtype=torch.long), draws, slice(0, 1), device)
    return tuple(features(trunk, one).shape[1:])


def _rows(
    trunk: nn.Module, images: Augmented, count: int, seed: int
) -> Iterator[NDArray[np.float16]]:
    """Each view's features, view by view."""
    total, trunk = len(images.images_NCHW), folded(trunk)
    device = images.images_NCHW.device
    say(f"computing the features of {total:,} images, {count} views of each")
    with tqdm(
        total=count * total, unit=" views", unit_scale=True, leave=False, disable=None
    ) as bar:
        for view in range(count):
            numbers = generator(seed, Purpose.VIEWS, view)
            for chosen_B in torch.split(torch.arange(total), BATCH):
                draws = images.draw(len(chosen_B), numbers)
                shown = images.take(chosen_B, draws, slice(0, len(chosen_B)), device)
                features_BD = features(trunk, shown).half().cpu().contiguous()
                if not features_BD.isfinite().all():
                    raise InvalidConfig(
                        "the pretrained weights give no finite numbers for these images; are they "
                        "the right file?"
                    )
                yield from features_BD.numpy()
                bar.update(len(chosen_B))


def _key(trunk: nn.Module, images: Augmented, count: int, seed: int) -> str:
    """Changes with whatever could change a number."""
    digest = hashlib.sha256(repr((images.augmentation, count, seed, torch.__version__)).encode())
    state = {name: tensor.cpu().contiguous() for name, tensor in trunk.state_dict().items()}
    digest.update(safetensors.torch.save(state))
    digest.update(repr(trunk).encode())
    digest.update(images.fill_C.cpu().numpy().tobytes())
    for chosen in torch.split(images.images_NCHW, 1_024):
        digest.update(chosen.cpu().numpy().tobytes())
    return digest.hexdigest()


def _opened(file: Path, total: int, shape_D: tuple[int, ...]) -> NDArray[np.float16] | None:
    """The rows of a whole file of this user; None if it is absent or something else."""
    try:
        bytes_NX = open_rows(file)
        if file.stat().st_uid != os.getuid():
            return None
    except (OSError, ValueError, EOFError, OverflowError):
        return None
    if bytes_NX.shape != (total, 1, 1, 2 * int(np.prod(shape_D))):
        return None
    found: NDArray[np.float16] = bytes_NX.view(np.float16)
    return found


def _written(
    file: Path, rows: Iterator[NDArray[np.float16]], total: int, shape_D: tuple[int, ...]
) -> NDArray[np.float16]:
    """Write the rows as a file of bytes, which takes its name when it is whole."""
    shape = (1, 1, 2 * int(np.prod(shape_D)))
    with hidden_directory(file.parent, ".new-") as directory:
        refuse_without_room(file.parent, total * shape[-1])
        written = directory / file.name
        write_rows(written, (row.view(np.uint8).reshape(shape) for row in rows), total, shape)
        found = _opened(written, total, shape_D)
        if found is None:
            raise OSError("what was written cannot be read back")
        with contextlib.suppress(OSError):
            written.rename(file)
    return found  # its map outlives the name

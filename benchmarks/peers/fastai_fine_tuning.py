"""fastai's own way to fine-tune a network on a folder, for benchmarks.training.fine_tuning.

    python -m benchmarks.peers.fastai_fine_tuning DATA ANSWERS.npz --minutes 10

`fine_tune` as its tutorials call it: the new last layer alone for an epoch, then all layers with
lower rates for the lower ones, in one cycle; resized crops, flips, rotations and light from
`aug_transforms`. The network and its weights are those that our runs begin with. The number of
epochs is the largest that fits into the time, from the time that a few batches take.

It writes the probabilities for val/ and test/, and their labels.
"""

import argparse
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.models.registry import (
    PooledClassifier,
    build_model,
    expected_normalisation,
)
from snapensemble.trainer.models.timm import make_torchvision_importable

MODEL, SIZE, LARGER = "efficientnet-lite0", 160, 224
SPARE = 0.1
TIMED = 5  # batches


class Normalised(nn.Module):
    """The network for pixels from 0 to 1, in the two groups that get rates of their own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        mean, std = expected_normalisation(MODEL, 3) or ((), ())
        image = ImageContract(channels=3, height=SIZE, width=SIZE, mean=mean, std=std)
        model = build_model(MODEL, classes, image, "hub")
        assert isinstance(model, PooledClassifier)
        self.mean, self.std = mean[0], std[0]
        self.body = model.features
        self.head = nn.Sequential(model.dropout, model.head)

    def forward(self, pixels: Tensor) -> Tensor:
        """logits_BK."""
        maps_BCHW = self.body((pixels - self.mean) / self.std)
        logits_BK: Tensor = self.head(maps_BCHW.mean(dim=(2, 3)))
        return logits_BK


def main() -> None:
    """Train within the time, and write the answers."""
    args = _arguments()
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    vision = _fastai()
    loaders = vision.ImageDataLoaders.from_folder(
        args.data,
        train="train",
        valid="val",
        bs=64,
        num_workers=0,
        item_tfms=vision.Resize(LARGER),
        batch_tfms=vision.aug_transforms(size=SIZE, min_scale=0.35),
    )
    network = Normalised(loaders.c).to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types lack it
    learner = vision.Learner(
        loaders,
        network,
        loss_func=vision.CrossEntropyLossFlat(),
        splitter=lambda net: [vision.params(net.body), vision.params(net.head)],
    )
    epoch_s = _epoch_seconds(network, loaders.train)
    left = 60 * args.minutes * (1 - SPARE) - (time.monotonic() - started)
    epochs = max(1, int(left / epoch_s) - 1)  # the epoch of the last layer alone counts as one
    print(f"an epoch takes {epoch_s:.0f} s: {epochs} of them", flush=True)
    learner.fine_tune(epochs)
    files = vision.get_image_files(args.data / "test")
    test = loaders.test_dl(files)
    names = list(loaders.vocab)
    val_NK, val_labels_N = learner.get_preds(dl=loaders.valid)
    test_NK, _ = learner.get_preds(dl=test)
    np.savez(
        args.answers,
        val_probs=val_NK.double().numpy(),
        val_labels=val_labels_N.numpy(),
        test_probs=test_NK.double().numpy(),
        test_labels=np.array([names.index(file.parent.name) for file in files]),
    )


def _epoch_seconds(network: nn.Module, loader: Any) -> float:
    """What an epoch of all layers takes, from a few batches; the gradients are not used."""
    began = time.monotonic()
    for _, (pixels, labels) in zip(range(TIMED), loader, strict=False):
        logits_BK = network(pixels.as_subclass(Tensor))  # fastai's own kinds of tensors
        loss = nn.functional.cross_entropy(logits_BK, labels.as_subclass(Tensor))
        loss.backward()  # type: ignore[no-untyped-call]
    network.zero_grad()
    return (time.monotonic() - began) / TIMED * len(loader)


def _fastai() -> Any:
    """Fastai's vision module, also where torchvision was built for another torch."""
    make_torchvision_importable()
    return import_module("fastai.vision.all")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="train/, val/ and test/CLASS/*")
    parser.add_argument("answers", type=Path, help="an .npz file to write")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()

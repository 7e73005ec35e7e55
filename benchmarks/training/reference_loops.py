"""How others train a snapshot ensemble: a DataLoader that augments image by image, and their loop.

Shapes: N images, K classes, C channels, H height, W width.
"""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from snapensemble.trainer.data.readers import Split

PADDING, LR, MOMENTUM, WEIGHT_DECAY = 4, 0.1, 0.9, 5e-4


def data_loader(part: Split, batch_size: int, workers: int) -> DataLoader[tuple[Tensor, int]]:
    """A loader of shuffled, augmented batches; whole ones only, as ours are."""
    return DataLoader(
        Augmented(part),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def plain(model: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> Callable[[], object]:
    """The training loop of the tutorials."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    criterion = nn.CrossEntropyLoss()

    def block() -> None:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()

    return block


def torchensemble(
    network: Callable[[], nn.Module], loader: DataLoader[tuple[Tensor, int]]
) -> Callable[[], object]:
    """One epoch of a new SnapshotEnsembleClassifier."""
    ensemble = peer(network, 1)
    return lambda: fit(ensemble, loader, 1)


def peer(network: Callable[[], nn.Module], members: int) -> Any:
    """A SnapshotEnsembleClassifier with the same optimizer."""
    from torchensemble import SnapshotEnsembleClassifier

    ensemble = SnapshotEnsembleClassifier(estimator=network(), n_estimators=members, cuda=False)
    ensemble.set_optimizer(
        "SGD", lr=LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    return ensemble


def fit(ensemble: Any, loader: DataLoader[tuple[Tensor, int]], epochs: int) -> None:
    """Train a peer, without what it prints at each log."""
    with contextlib.redirect_stdout(io.StringIO()):
        ensemble.fit(loader, epochs=epochs, log_interval=10**9, save_model=False)


class Augmented(Dataset[tuple[Tensor, int]]):
    """Images one by one: padded, cut and mirrored in Python."""

    def __init__(self, part: Split) -> None:
        self._part = part
        # TorchEnsemble would read all images once to count the classes.
        self.classes = range(int(part.labels_N.max()) + 1)

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image_CHW = self._part.images_NCHW[index]
        _, H, W = image_CHW.shape
        edges = ((0, 0), (PADDING, PADDING), (PADDING, PADDING))
        padded = np.pad(image_CHW, edges, mode="reflect")
        top, left = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
        cut: NDArray[np.uint8] = padded[:, top : top + H, left : left + W]
        if torch.rand(()) < 0.5:
            cut = cut[:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(cut)), int(self._part.labels_N[index])

"""Parts of a data set as a data set of their own, a run, and its answers to test images.

Shapes: S snapshots, N images, C channels, H height, W width, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snapensemble.contracts.metrics import softmax
from snapensemble.contracts.run import RUN_FILE, Snapshot, read_run
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.readers import Split
from snapensemble.trainer.recording.snapshots import load_model
from snapensemble.trainer.run import resume, train
from snapensemble.trainer.validation import predict_logits


def save_parts(file: Path, classes: tuple[str, ...], **parts: Split) -> None:
    """Write train, val and test as an .npz file that `--data npz:FILE` takes."""
    arrays: dict[str, Any] = {f"x_{name}": part.images_NCHW for name, part in parts.items()}
    arrays |= {f"y_{name}": part.labels_N for name, part in parts.items()}
    np.savez(file, classes=np.array(classes), **arrays)


def shrunk(images_NCHW: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """The mean of each square of `by` x `by` pixels."""
    N, C, H, W = images_NCHW.shape
    tiles = images_NCHW.reshape(N, C, H // by, by, W // by, by)
    shrunk_NCHW: NDArray[np.uint8] = np.rint(tiles.mean(axis=(3, 5))).astype(np.uint8)
    return shrunk_NCHW


def trained(config: TrainConfig) -> Path:
    """The run, trained to its end or gone on with."""
    return resume(config.out) if (config.out / RUN_FILE).exists() else train(config)


def test_probabilities(
    run_dir: Path, test: Split, snapshots: Sequence[Snapshot] | None = None
) -> NDArray[np.float64]:
    """The snapshots' probabilities for the test images, computed by torch: probs_SNK.

    Without `snapshots` those of the last weights of every cycle.
    """
    run = read_run(run_dir)
    images_NCHW = torch.from_numpy(test.images_NCHW)
    return np.stack(
        [
            softmax(predict_logits(load_model(run_dir, run, snapshot), images_NCHW))
            for snapshot in snapshots or run.snapshots
        ]
    )

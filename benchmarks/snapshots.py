"""What every snapshot of a run says of images that neither taught nor chose.

Shapes: S snapshots, N images, K classes.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.figures import softmax
from contracts.run import read_run
from trainer.evaluate import predict_logits
from trainer.readers import Split
from trainer.snapshots import load_model


def test_probabilities(run_dir: Path, test: Split) -> NDArray[np.float64]:
    """probs_SNK, by torch."""
    run = read_run(run_dir)
    images_NCHW = torch.from_numpy(test.images_NCHW)
    return np.stack(
        [
            softmax(predict_logits(load_model(run_dir, run, snapshot), images_NCHW))
            for snapshot in run.snapshots
        ]
    )

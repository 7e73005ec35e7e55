"""What the network says of a split.

Shapes: N images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BATCH = 500


@torch.inference_mode()
def predict_logits(
    model: nn.Module, images_NCHW: Tensor, between: Callable[[], None] | None = None
) -> NDArray[np.float32]:
    """logits_NK, float32, in evaluation mode; the model's mode is put back afterwards.

    Args:
        model: uint8 images in, logits out.
        images_NCHW: on the model's device.
        between: called after each batch; may raise to end it early.
    """
    was_training = model.training
    model.eval()
    parts = []
    try:
        for batch in torch.split(images_NCHW, BATCH):
            parts.append(model(batch).float().cpu())
            if between is not None:
                between()
    finally:
        model.train(was_training)
    logits_NK: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits_NK

"""What the network says of a split.

Shapes: N images, C channels, H height, W width, K classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BATCH = 500


@torch.inference_mode()
def predict_logits(model: nn.Module, images_NCHW: Tensor) -> NDArray[np.float32]:
    """logits_NK, float32, in evaluation mode; the model's mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        parts = [model(batch).float().cpu() for batch in torch.split(images_NCHW, BATCH)]
    finally:
        model.train(was_training)
    logits_NK: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits_NK

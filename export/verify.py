"""Torch against ONNX Runtime: an export that answers differently is not published.

Shapes: B batch, C channels, H height, W width, K classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from contracts.bundle import ParityRecord
from contracts.errors import SnapensembleError
from contracts.figures import softmax
from contracts.sessions import open_session

BATCH_SIZES = (1, 2, 7, 32)
# Both engines compute in float32 and order their sums differently.
MAX_LOGIT_DIFFERENCE = 1e-3  # absolute, or relative where logits exceed 1
MAX_PROBABILITY_DIFFERENCE = 1e-5


class ParityFailed(SnapensembleError):
    """The ONNX file does not compute what the snapshot computes."""


def parity(
    model: nn.Module, onnx_file: bytes, images_NCHW: NDArray[np.uint8], *, what: str
) -> ParityRecord:
    """Compare the answers at batch sizes 1, 2, 7 and 32.

    Args:
        model: the snapshot, in evaluation mode.
        onnx_file: its conversion.
        images_NCHW: real images; black, white and noise are added.
        what: the member's name, for the message.

    Returns:
        The largest differences found.

    Raises:
        ParityFailed: one of them exceeds its limit.
    """
    session = open_session(onnx_file)
    logit_gap = probability_gap = 0.0
    for size in BATCH_SIZES:
        images_BCHW = parity_images(images_NCHW, size)
        with torch.inference_mode():
            expected_BK = model(torch.from_numpy(images_BCHW)).numpy()
        (found_BK,) = session.run(["logits"], {"images": images_BCHW})
        if found_BK.shape != expected_BK.shape:
            raise ParityFailed(
                f"{what}: ONNX Runtime gives shape {found_BK.shape} for a batch of {size}, "
                f"torch gives {expected_BK.shape}"
            )
        gaps_BK = np.abs(found_BK - expected_BK) / np.maximum(1, np.abs(expected_BK))
        logit_gap = _larger(logit_gap, gaps_BK)
        gaps_BK = np.abs(softmax(found_BK) - softmax(expected_BK))
        probability_gap = _larger(probability_gap, gaps_BK)
        agree = logit_gap <= MAX_LOGIT_DIFFERENCE and probability_gap <= MAX_PROBABILITY_DIFFERENCE
        if not agree:  # NaN does not agree either
            raise ParityFailed(
                f"{what}: at batch size {size} ONNX Runtime differs from torch by "
                f"{logit_gap:.2e} in logits (limit {MAX_LOGIT_DIFFERENCE:.0e}) and "
                f"{probability_gap:.2e} in probabilities (limit {MAX_PROBABILITY_DIFFERENCE:.0e}); "
                "nothing was published"
            )
    return ParityRecord(
        batch_sizes=BATCH_SIZES,
        max_logit_difference=logit_gap,
        max_probability_difference=probability_gap,
    )


def parity_images(images_NCHW: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A batch of real images, repeated if need be; larger batches end with the extremes."""
    batch = images_NCHW[np.arange(size) % len(images_NCHW)].copy()
    if size >= 7:
        batch[-1], batch[-2] = 0, 255
        batch[-3] = np.random.default_rng(0).integers(0, 256, batch[-3].shape, dtype=np.uint8)
    return batch


def _larger(gap: float, gaps_BK: NDArray[np.floating]) -> float:
    """The largest gap so far; NaN stays NaN, where Python's max would drop it."""
    return float(np.maximum(gap, gaps_BK.max()))

"""A cascade of networks that nobody has trained, for measuring lanes and not answers.

Shapes: M members, N images, C channels, H height, W width, K classes, d members asked.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.cascade import Cascade, first_weights, margin
from contracts.figures import mean_probabilities, softmax
from contracts.pixels import ImageContract
from contracts.sessions import open_session
from export.convert import to_onnx
from serving.micro_batch import MemberCall
from trainer.models import build_model

MEMBERS, IMAGES, GOING_ON = 5, 1000, 0.3


def random_members() -> list[MemberCall]:
    """ResNet-20 for 3x32x32 and 10 classes, each with weights of its own seed."""
    image = ImageContract(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    sessions = []
    for seed in range(MEMBERS):
        torch.manual_seed(seed)
        sessions.append(open_session(to_onnx(build_model("resnet20", 10, image), image)))
    return [lambda x, s=s: s.run(["logits"], {"images": x})[0] for s in sessions]


def random_images() -> NDArray[np.uint8]:
    """images_NCHW: a colour each, and noise of an amplitude each, so that members differ."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (IMAGES, 3, 1, 1))
    share = rng.uniform(0, 1, (IMAGES, 1, 1, 1))
    noise = rng.integers(0, 256, (IMAGES, 3, 32, 32))
    return (colour * (1 - share) + share * noise).clip(0, 255).astype(np.uint8)


def fitted(members: Sequence[MemberCall], images_NCHW: NDArray[np.uint8]) -> Cascade:
    """Thresholds under which `GOING_ON` of those that are inside go on at each depth."""
    pieces = np.array_split(images_NCHW, IMAGES // 50)
    probs_MNK = np.stack([np.concatenate([softmax(m(p)) for p in pieces]) for m in members])
    weights_M = [1 / MEMBERS] * MEMBERS
    thresholds, inside_N = [], np.arange(IMAGES)
    for d in range(1, MEMBERS):
        probs_NK = mean_probabilities(probs_MNK[:d, inside_N], first_weights(weights_M, d))
        thresholds.append(float(np.quantile(margin(probs_NK), GOING_ON)))
        inside_N = inside_N[margin(probs_NK) < thresholds[-1]]
    return Cascade(
        rule="threshold",
        thresholds=thresholds,
        temperatures=[1.0] * (MEMBERS - 1),
        weights_M=weights_M,
    )

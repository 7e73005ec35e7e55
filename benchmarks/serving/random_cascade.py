"""A cascade of networks with random weights, for measuring the scheduler and not the answers.

Shapes: M members, N images, C channels, H height, W width, K classes, d members run.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.random_members import random_members
from snapensemble.contracts.cascade import Cascade, first_weights, margin
from snapensemble.contracts.metrics import mean_probabilities, softmax
from snapensemble.contracts.sessions import open_session
from snapensemble.serving.inference.batch import MemberCall

GOING_ON = 0.3  # share of the images inside that go on at each depth


def member_calls(count: int) -> list[MemberCall]:
    """A function for each of some random members that runs it."""
    return [partial(logits_of, open_session(file)) for file in random_members(count)]


def logits_of(session: Any, images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """logits_BK of one member."""
    logits_BK: NDArray[np.float32] = session.run(["logits"], {"images": images_BCHW})[0]
    return logits_BK


def random_images(count: int) -> NDArray[np.uint8]:
    """images_NCHW with a colour and an amplitude of noise each, so that members differ."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (count, 3, 1, 1))
    share = rng.uniform(0, 1, (count, 1, 1, 1))
    noise = rng.integers(0, 256, (count, 3, 32, 32))
    return (colour * (1 - share) + share * noise).clip(0, 255).astype(np.uint8)


def fitted(members: Sequence[MemberCall], images_NCHW: NDArray[np.uint8]) -> Cascade:
    """A cascade whose thresholds let `GOING_ON` of the images inside go on at each depth."""
    M, N = len(members), len(images_NCHW)
    pieces = np.array_split(images_NCHW, -(-N // 50))
    probs_MNK = np.stack([np.concatenate([softmax(m(p)) for p in pieces]) for m in members])
    weights_M = [1 / M] * M
    thresholds, inside_N = [], np.arange(N)
    for d in range(1, M):
        probs_NK = mean_probabilities(probs_MNK[:d, inside_N], first_weights(weights_M, d))
        thresholds.append(float(np.quantile(margin(probs_NK), GOING_ON)))
        inside_N = inside_N[margin(probs_NK) < thresholds[-1]]
    return Cascade(
        rule="threshold",
        thresholds=thresholds,
        temperatures=[1.0] * (M - 1),
        weights_M=weights_M,
    )

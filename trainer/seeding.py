"""Random numbers as functions of (seed, purpose, count): no state to save, none to lose."""

from contextlib import AbstractContextManager
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What the numbers are for; each purpose has a stream of its own."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENTATION = 2
    CALIBRATION = 3
    FORWARD = 4  # dropout
    VIEWS = 5  # augmentation of what a trunk sees once
    TRIAL = 6  # training images on which the first cycle is tried


def derived_seed(seed: int, purpose: Purpose, count: int = 0) -> int:
    """A 63-bit seed for the `count`-th use of `purpose` under `seed`."""
    words = np.random.SeedSequence([seed, purpose, count]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def generator(seed: int, purpose: Purpose, count: int = 0) -> torch.Generator:
    """A torch generator on the CPU, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, count))


def keeping_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Give the caller's random state back: networks with dropout draw from torch's generators."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

"""Copies to the training device, and when what it has computed is read.

A GPU works through a queue. Whoever reads a number from it, or copies ordinary memory to it, waits
until the queue is empty, and then the GPU idles until the next step is in it. So what a step needs
is copied from page-locked memory, in the queue's order, and the losses of many steps are read at
once.
"""

import time

import torch
from torch import Tensor

from snapensemble.trainer.distributed import World

READ_SECONDS = 0.5
FIRST_STEPS, MOST_STEPS = 8, 64


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor of the CPU on this device; nothing waits for the copy, nor for the device."""
    if device.type == "cpu":
        return tensor
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Reading:
    """After how many steps their losses are read together.

    On the CPU after each, since there is nothing to wait for; on other devices about twice a
    second, which also is how soon a signal, or a loss that is no number, ends the run.

    Args:
        device: the one that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type != "cpu"
        self.steps = FIRST_STEPS if self._waits else 1
        self._since = time.monotonic()

    def choose(self, world: World) -> None:
        """Choose the next number of steps by how long the last ones took.

        Args:
            world: the processes that train together, which agree on the largest.
        """
        if self._waits:
            seconds = time.monotonic() - self._since
            wanted = round(self.steps * READ_SECONDS / max(seconds, 1e-6))
            self.steps = world.largest(max(1, min(MOST_STEPS, wanted)))
            self._since = time.monotonic()

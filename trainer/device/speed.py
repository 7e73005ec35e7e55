"""What makes steps faster on the machine at hand: memory that stays, and compiling where it pays.

Measured: docs/decisions/0055-what-makes-training-faster.md.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable

import torch

from snapensemble.contracts.process import say

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST_BLOCK, KEPT = 32 << 20, 1 << 30  # bytes; glibc takes no higher threshold than the first
COMPILING_S = 60.0  # about what compiling takes; a run has to be ten times as long
LEAST_GAIN = 1.05  # of speed; less may be noise, and two runs had better have the same bits


def keep_large_blocks(device: torch.device) -> None:
    """Have glibc keep the memory of feature maps that are freed, for the next ones.

    By default it gives blocks above 128 KiB to 32 MiB back to the system, which then has to fill
    the next ones with zeros, page by page: about 4,500 pages in each step of a ResNet-20. Other C
    libraries have no such setting; whoever has set it in the environment has decided.

    Args:
        device: the one that trains; only the CPU's memory is meant.
    """
    if device.type != "cpu" or {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & {*os.environ}:
        return
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)


def compiling_pays(epochs: int, epoch_seconds: Callable[[bool], float]) -> bool:
    """Whether a run ends earlier if its network is compiled first, by trying both.

    A run that would be over before compiling is earned back is not worth the trial.

    Args:
        epochs: of the run.
        epoch_seconds: times some steps, plain or compiled, and gives the seconds of an epoch.
    """
    plain = epoch_seconds(False)
    if plain * epochs < 10 * COMPILING_S:
        say(f"not compiled: {epochs} epochs of {plain:.1f} s are too short to earn it back")
        return False
    try:
        compiled = epoch_seconds(True)
    except Exception as error:  # a compiler that is there and does not work fails in many ways
        say(f"not compiled: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return False
    pays = plain > LEAST_GAIN * compiled
    say(
        f"{'compiled' if pays else 'not compiled'}: an epoch takes {compiled:.1f} s compiled and "
        f"{plain:.1f} s otherwise"
    )
    return pays

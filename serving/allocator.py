"""Memory for large pictures goes back to the system when they are done with."""

import contextlib
import ctypes
import os

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 2**20  # bytes


def give_large_blocks_back() -> None:
    """Keep glibc from raising the size from which a block is mapped by itself, up to 32 MiB.

    It does that when the first large block is freed. From then on decoded pictures lie between
    small blocks that live longer, and what they leave cannot be given back. Other C libraries
    have no such setting; whoever has set it in the environment has decided.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)

"""A member's answers to many images.

Shapes: N images, B of them at a time, C channels, H height, W width, K classes.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from contracts.cpu import cpu_budget
from contracts.sessions import open_session

IMAGES_AT_A_TIME = 32


def run_member(
    onnx_file: bytes, images_NCHW: NDArray[np.uint8], threads: int | None = None
) -> NDArray[np.float32]:
    """logits_NK for uint8 images; the number of threads does not change a bit of them.

    Args:
        onnx_file: the member.
        images_NCHW: at least one.
        threads: each runs its own images through one session; as many as there are processors to
            use, and never more.
    """
    session = open_session(onnx_file)

    def answer(start: int) -> NDArray[np.float32]:
        images_BCHW = np.ascontiguousarray(images_NCHW[start : start + IMAGES_AT_A_TIME])
        logits_BK: NDArray[np.float32] = session.run(["logits"], {"images": images_BCHW})[0]
        return logits_BK

    workers = min(threads or cpu_budget(), cpu_budget())
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(answer, range(0, len(images_NCHW), IMAGES_AT_A_TIME))))

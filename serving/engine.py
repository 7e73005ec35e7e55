"""load_engine(): a bundle directory -> something that answers images.

Shapes: M members, N images, C channels, H height, W width, K classes.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.bundle import BundleManifest, read_bundle
from contracts.cpu import cpu_budget
from contracts.errors import InvalidManifest
from contracts.figures import Floats
from serving.lanes import Lanes
from serving.members import MemberSession, load_member
from serving.micro_batch import BatchReport, Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How an engine uses its machine. Times in seconds."""

    threads: int | None = None  # lanes; the CPU budget of this process if not given
    max_batch_size: int = 32
    max_queue: int = 1024
    max_wait_s: float = math.inf


class Engine:
    """A verified, warmed up bundle and the lanes that run it. Use as a context manager."""

    def __init__(self, bundle: BundleManifest, lanes: Lanes, limits: Limits) -> None:
        self.bundle = bundle
        self.lanes = lanes
        self._chunk = min(256, limits.max_queue)

    def __enter__(self) -> "Engine":
        self.lanes.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.lanes.__exit__(*error)

    def submit(self, images: Sequence[Image]) -> "list[Future[Floats]]":
        """One future per image: its members' distributions, probs_MK. See `Lanes.submit`."""
        return self.lanes.submit(images)

    def predict(self, images_NCHW: NDArray[np.uint8]) -> Floats:
        """probs_MNK of any number of images, in pieces that fit the queue; waits for them."""
        parts = []
        for start in range(0, len(images_NCHW), self._chunk):
            futures = self.submit(list(images_NCHW[start : start + self._chunk]))
            parts += [future.result() for future in futures]
        return np.stack(parts, axis=1)


def load_engine(
    bundle_dir: Path,
    limits: Limits = Limits(),  # frozen
    on_batch: Callable[[BatchReport], None] = lambda _: None,
) -> Engine:
    """Verify a bundle, load its members and warm them up.

    Raises:
        InvalidManifest: a file is absent, changed or not what the manifest says.
    """
    bundle = read_bundle(bundle_dir)
    members = [load_member(bundle_dir, bundle, member) for member in bundle.members]
    warm_up(members, bundle, limits.max_batch_size)
    lanes = Lanes(
        members,
        threads=limits.threads or cpu_budget(),
        max_batch_size=limits.max_batch_size,
        max_queue=limits.max_queue,
        max_wait_s=limits.max_wait_s,
        on_batch=on_batch,
    )
    return Engine(bundle, lanes, limits)


def warm_up(members: Sequence[MemberSession], bundle: BundleManifest, max_batch_size: int) -> None:
    """Run each member on its largest batch, then on one image: the first request is not slower.

    The largest comes first, so that the memory arena is taken once and not in steps.

    Raises:
        InvalidManifest: a member fails, or does not give numbers of the promised shape.
    """
    for size in sorted({max_batch_size, 1}, reverse=True):
        images_BCHW = np.zeros((size, *bundle.image.shape), dtype=np.uint8)
        for member in members:
            try:
                logits_BK = member(images_BCHW)
            except Exception as error:  # ONNX Runtime raises a class per kind of failure
                raise InvalidManifest(f"member {member.name} cannot run: {error}") from error
            expected = (size, len(bundle.classes))
            if logits_BK.shape != expected or not np.isfinite(logits_BK).all():
                raise InvalidManifest(
                    f"member {member.name} gives shape {logits_BK.shape} for black images, "
                    f"expected finite numbers of shape {expected}"
                )

"""Comparing ONNX Runtime with torch: an export that answers differently is not published.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snapensemble.contracts.bundle import CLASS_BIAS, CLASS_WEIGHTS, MAPS, ParityRecord
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.errors import SnapensembleError
from snapensemble.contracts.metrics import Floats, mean_probabilities, softmax
from snapensemble.contracts.sessions import open_session

IMAGES_AT_A_TIME = 32
BATCH_SIZES = (1, 2, 7, 32)
# Both engines compute in float32 and order their sums differently. In a network of 60 layers the
# logits of a sure answer have been 5e-5 apart, and a probability moves by up to half of that.
MAX_LOGIT_DIFFERENCE = 1e-3  # absolute, or relative where logits exceed 1
MAX_PROBABILITY_DIFFERENCE = 1e-4


class ParityFailed(SnapensembleError):
    """The ONNX file does not compute what the snapshot computes."""


class Chain:
    """ONNX files that run one after the other: a member, or a trunk and the member behind it."""

    def __init__(self, *onnx_files: bytes) -> None:
        self._sessions = [open_session(onnx_file) for onnx_file in onnx_files]

    def __call__(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """What the last file gives for the first one's input; several threads may call it."""
        return self.beside(inputs)[0]

    def beside(
        self, inputs: NDArray[np.generic], *names: str
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """What the last file gives, and further outputs of any file, by name, that have these."""
        found: dict[str, NDArray[Any]] = {}
        outputs: NDArray[Any] = inputs
        for session in self._sessions:
            first, *more = (value.name for value in session.get_outputs())
            more = [name for name in more if name in names]
            outputs, *values = session.run([first, *more], {session.get_inputs()[0].name: outputs})
            found |= dict(zip(more, values, strict=True))
        return outputs, found

    def explained(
        self, inputs: NDArray[np.generic]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """logits_BK, and the means over positions of all class activation maps, if there are any.

        A map is the last layer's answer for each position, so the mean is that for the mean.
        """
        outputs, found = self.beside(inputs, MAPS, CLASS_WEIGHTS, CLASS_BIAS)
        if not {MAPS, CLASS_WEIGHTS} <= found.keys():
            return outputs, None
        means_BC = found[MAPS].mean(axis=(2, 3))
        return outputs, means_BC @ found[CLASS_WEIGHTS].T + found[CLASS_BIAS]


class Compared(NamedTuple):
    """The answers of torch and of ONNX Runtime to the same images, one entry per batch size."""

    record: ParityRecord
    torch_probs: list[Floats]
    onnx_probs: list[Floats]


def parity(
    model: nn.Module,
    onnx_files: Sequence[bytes],
    images_NCHW: NDArray[np.uint8],
    *,
    what: str,
    offsets_K: NDArray[np.float64] | None = None,
) -> Compared:
    """Compare a member's answers, and the means of its maps, at batch sizes 1, 2, 7 and 32.

    Args:
        model: the snapshot, a whole network in evaluation mode.
        onnx_files: the model's conversion, or those of its trunk and its member.
        images_NCHW: real images; those of `extremes` are added.
        what: the member's name, for the message.
        offsets_K: by how much the file's logits are lower than the model's.

    Raises:
        ParityFailed: a difference exceeds its limit.
    """
    chain = Chain(*onnx_files)
    logit_gap = probability_gap = 0.0
    torch_probs, onnx_probs = [], []
    for size in BATCH_SIZES:
        images_BCHW = parity_images(images_NCHW, size)
        with torch.inference_mode():
            expected_BK = model(torch.from_numpy(images_BCHW)).numpy()
        if offsets_K is not None:
            expected_BK = expected_BK - offsets_K
        found_BK, map_means_BK = chain.explained(images_BCHW)
        if found_BK.shape != expected_BK.shape:
            raise ParityFailed(
                f"{what}: ONNX Runtime gives shape {found_BK.shape} for a batch of {size}, "
                f"torch gives {expected_BK.shape}"
            )
        for logits_BK in (found_BK, found_BK if map_means_BK is None else map_means_BK):
            gaps_BK = np.abs(logits_BK - expected_BK) / np.maximum(1, np.abs(expected_BK))
            logit_gap = _larger(logit_gap, gaps_BK)
        torch_probs.append(softmax(expected_BK))
        onnx_probs.append(softmax(found_BK))
        probability_gap = _larger(probability_gap, np.abs(onnx_probs[-1] - torch_probs[-1]))
        _refuse_gaps(what, size, logit_gap, probability_gap)
    return Compared(_record(logit_gap, probability_gap), torch_probs, onnx_probs)


def ensemble_parity(members: Sequence[Compared], weights_M: Sequence[float]) -> ParityRecord:
    """Compare the average of the members' probabilities, without running the members again.

    Args:
        members: what `parity` found, each on the same images.
        weights_M: one per member, summing to 1.

    Returns:
        The largest differences of all members and of their average.

    Raises:
        ParityFailed: the averages differ too much.
    """
    logit_gap = max(member.record.max_logit_difference for member in members)
    probability_gap = max(member.record.max_probability_difference for member in members)
    for index, size in enumerate(BATCH_SIZES):
        expected_BK, found_BK = (
            mean_probabilities(np.stack([probs[index] for probs in outputs]), weights_M)
            for outputs in ([m.torch_probs for m in members], [m.onnx_probs for m in members])
        )
        probability_gap = _larger(probability_gap, np.abs(found_BK - expected_BK))
        _refuse_gaps("the ensemble", size, logit_gap, probability_gap)
    return _record(logit_gap, probability_gap)


def run_file(
    onnx_file: bytes, inputs_N: NDArray[np.generic], threads: int | None = None
) -> NDArray[np.float32]:
    """One file's output for each of its inputs, in order; see `run_members`."""
    return np.concatenate(_in_parts(Chain(onnx_file), inputs_N, threads))


def run_members(
    members: Sequence[bytes],
    images_NCHW: NDArray[np.uint8],
    trunk: bytes | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """logits_MNK for uint8 images; the number of threads does not change a bit of them.

    Args:
        members: their files.
        images_NCHW: at least one image.
        trunk: the file behind which the members are, run once for all of them; its features are
            never kept for more images than are computed at a time.
        threads: how many run their own images through one session; never more than there are
            processors to use, which is also the default.
    """
    if trunk is None:
        return np.stack([run_file(member, images_NCHW, threads) for member in members])
    features, heads = Chain(trunk), [Chain(member) for member in members]

    def answers(images_BCHW: NDArray[np.generic]) -> NDArray[np.float32]:
        shared = features(images_BCHW)
        return np.stack([head(shared) for head in heads])

    return np.concatenate(_in_parts(answers, images_NCHW, threads), axis=1)


def _in_parts(
    run: Callable[[NDArray[np.generic]], NDArray[np.float32]],
    inputs_N: NDArray[np.generic],
    threads: int | None,
) -> list[NDArray[np.float32]]:
    workers = min(threads or cpu_budget(), cpu_budget())
    starts = range(0, len(inputs_N), IMAGES_AT_A_TIME)
    with ThreadPoolExecutor(workers) as pool:
        return list(
            pool.map(
                lambda start: run(np.ascontiguousarray(inputs_N[start:][:IMAGES_AT_A_TIME])), starts
            )
        )


def parity_images(images_NCHW: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A batch of real images, repeated if need be; one of seven and more ends with extremes."""
    batch = images_NCHW[np.arange(size) % len(images_NCHW)].copy()
    if size >= 7:
        unusual = extremes(batch.shape[1:])[: size - 1]
        batch[-len(unusual) :] = unusual
    return batch


def extremes(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Black, white, noise, and each channel alone at its brightest."""
    black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    single = np.zeros((shape[0], *shape), np.uint8)
    single[np.arange(shape[0]), np.arange(shape[0])] = 255
    return np.stack([black, white, noise, *single])


def _refuse_gaps(what: str, size: int, logit_gap: float, probability_gap: float) -> None:
    agree = logit_gap <= MAX_LOGIT_DIFFERENCE and probability_gap <= MAX_PROBABILITY_DIFFERENCE
    if not agree:  # NaN does not agree either
        raise ParityFailed(
            f"{what}: at batch size {size} ONNX Runtime differs from torch by "
            f"{logit_gap:.2e} in logits (limit {MAX_LOGIT_DIFFERENCE:.0e}) and "
            f"{probability_gap:.2e} in probabilities (limit {MAX_PROBABILITY_DIFFERENCE:.0e}); "
            "nothing was published"
        )


def _record(logit_gap: float, probability_gap: float) -> ParityRecord:
    return ParityRecord(
        batch_sizes=BATCH_SIZES,
        max_logit_difference=logit_gap,
        max_probability_difference=probability_gap,
    )


def _larger(gap: float, gaps_BK: NDArray[np.floating]) -> float:
    """The largest gap so far; NaN stays NaN, where Python's max would drop it."""
    return float(np.maximum(gap, gaps_BK.max()))

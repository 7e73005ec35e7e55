"""Pictures that are there more than once: the same pixels, or nearly the same picture.

Shapes: N images, B some of them, P pairs, C channels, H height, W width, F frequencies.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from snapensemble.trainer.data.dataset import digest

SIDE, FREQUENCIES = 32, 8  # pixels that are transformed; what is kept of each axis
HASH_BITS = FREQUENCIES**2
MAX_DISTANCE = 6  # bits in which two hashes may differ: docs/decisions/0046
MIN_SIDE = 32  # pixels; smaller images are too alike for a hash
MIN_DEVIATION = 4.0  # grey values; a picture of nearly one colour has no hash of its own
EXACT = -1  # the distance of images that have the same pixels
_BLOCK = HASH_BITS // (MAX_DISTANCE + 1)  # bits; of 7 blocks one is equal where 6 bits differ
_TOGETHER = 4_096  # images transformed at a time

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]
Hashes = NDArray[np.uint64]


class Pairs(NamedTuple):
    """Two images each that belong together, the first of them earlier in its data set."""

    first_P: Indices
    second_P: Indices
    distance_P: Indices  # bits in which their hashes differ, or EXACT


def duplicates(*parts_NCHW: Images) -> Pairs:
    """The pairs that hold together each group of the same or nearly the same images.

    A group of n images has n - 1 pairs, those with the smallest distances.

    Args:
        parts_NCHW: uint8 images of one shape, counted on from part to part.
    """
    digests = [digest(image_CHW) for part_NCHW in parts_NCHW for image_CHW in part_NCHW]
    found = [equal(np.array(digests, dtype="S16"), EXACT)]
    if digests and min(parts_NCHW[0].shape[2:]) >= MIN_SIDE:
        hashes_N, shown_N = perceptual_hashes(*parts_NCHW)
        shown_N[found[0].second_P] = False  # of images with the same pixels one is compared
        places = np.flatnonzero(shown_N)
        found += [
            Pairs(places[pairs.first_P], places[pairs.second_P], pairs.distance_P)
            for pairs in (equal(hashes_N[places], 0), near(hashes_N[places]))
        ]
    return _spanning(Pairs(*map(np.concatenate, zip(*found, strict=True))), len(digests))


def perceptual_hashes(*parts_NCHW: Images) -> tuple[Hashes, NDArray[np.bool_]]:
    """A hash of each image, and whether the image shows enough for it to mean something.

    Of the lowest frequencies of the grey picture, a bit for each that is above their median
    (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions, section 3.2).
    """
    hashes: list[Hashes] = [np.empty(0, np.uint64)]
    shown: list[NDArray[np.bool_]] = [np.empty(0, np.bool_)]
    for part_NCHW in parts_NCHW:
        for start in range(0, len(part_NCHW), _TOGETHER):
            grey_BHW = np.stack([_grey(image) for image in part_NCHW[start : start + _TOGETHER]])
            low_BHW = dctn(grey_BHW, axes=(1, 2))[:, :FREQUENCIES, :FREQUENCIES]
            low_BF = low_BHW.reshape(len(grey_BHW), -1)
            bits_BF = low_BF > np.median(low_BF, axis=1, keepdims=True)
            hashes.append(np.packbits(bits_BF, axis=1).view(np.uint64)[:, 0])
            shown.append(grey_BHW.std(axis=(1, 2)) >= MIN_DEVIATION)
    return np.concatenate(hashes), np.concatenate(shown)


def equal(keys_N: NDArray[np.generic], distance: int) -> Pairs:
    """Each later one of equal keys, with the first of them."""
    _, first_U, of_N = np.unique(keys_N, return_index=True, return_inverse=True)
    first_N = first_U[of_N]
    second_P = np.flatnonzero(first_N != np.arange(len(keys_N)))
    return Pairs(first_N[second_P], second_P, np.full(len(second_P), distance))


def near(hashes_N: Hashes) -> Pairs:
    """All pairs of different hashes that differ in `MAX_DISTANCE` bits at most.

    In one of seven blocks of nine bits they are equal (Norouzi et al. 2012, multi-index hashing),
    so that hardly more than a hundredth of all pairs is compared, a step of the order at a time.
    """
    hashes_U, first_U = np.unique(hashes_N, return_index=True)
    found: list[tuple[Indices, Indices]] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for shift in range(0, HASH_BITS - _BLOCK + 1, _BLOCK):
        blocks_U = (hashes_U >> np.uint64(shift)) & np.uint64(2**_BLOCK - 1)
        order_U = np.argsort(blocks_U, kind="stable")
        sorted_U, blocks_U = hashes_U[order_U], blocks_U[order_U]
        places, step = np.arange(len(order_U)), 1
        while len(places := places[: np.searchsorted(places, len(order_U) - step)]):
            places = places[blocks_U[places] == blocks_U[places + step]]
            close = places[_differing(sorted_U[places], sorted_U[places + step]) <= MAX_DISTANCE]
            found.append((first_U[order_U[close]], first_U[order_U[close + step]]))
            step += 1
    one, other = map(np.concatenate, zip(*found, strict=True))
    both_P2 = np.unique(np.sort(np.stack([one, other], axis=1), axis=1), axis=0)
    first_P, second_P = both_P2[:, 0], both_P2[:, 1]
    return Pairs(first_P, second_P, _differing(hashes_N[first_P], hashes_N[second_P]))


def _differing(one: Hashes, other: Hashes) -> Indices:
    bits_P: Indices = np.bitwise_count(one ^ other).astype(np.int64)
    return bits_P


def _spanning(pairs: Pairs, count: int) -> Pairs:
    """Of each group only as many pairs as connect it, the closest ones first."""
    weights_P = pairs.distance_P - EXACT + 1  # what is 0 would be no edge
    edges = coo_array((weights_P, (pairs.first_P, pairs.second_P)), shape=(count, count))
    tree = minimum_spanning_tree(edges.tocsr()).tocoo()
    distance_P = tree.data.astype(np.int64) + EXACT - 1
    one_P, other_P = (index_P.astype(np.int64) for index_P in tree.coords)
    first_P, second_P = np.minimum(one_P, other_P), np.maximum(one_P, other_P)
    order_P = np.lexsort((second_P, first_P, distance_P))
    return Pairs(first_P[order_P], second_P[order_P], distance_P[order_P])


def _grey(image_CHW: Images) -> NDArray[np.float32]:
    """The picture in grey, `SIDE` pixels a side."""
    pixels = image_CHW[0] if len(image_CHW) == 1 else np.moveaxis(image_CHW, 0, 2)
    picture = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32)

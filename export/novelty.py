"""Fitting what the server needs to say which pictures are unlike those that taught.

The first member's features of training images give a direction for each class, which goes into its
ONNX file; the distances of the calibration half of validation, which chose nothing, give the
thresholds. See `contracts.novelty`.

Shapes: N images, C features, K classes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from snapensemble.contracts.bundle import CLASS_DIRECTIONS, MAPS
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import Floats
from snapensemble.contracts.novelty import NoveltyRecord, directions, distances, fit_thresholds
from snapensemble.contracts.process import noting_progress
from snapensemble.export.candidates import Pool
from snapensemble.export.config import ExportConfig
from snapensemble.export.members import Ensemble, Say
from snapensemble.export.onnx_graph import add_constant
from snapensemble.export.parity import IMAGES_AT_A_TIME, Chain
from snapensemble.trainer.data.reread import reread_parts

MOST_IMAGES = 2_000  # of each part: more change little and take long
OF_EACH_CLASS = 5  # at least, as far as it has them, beyond those


def with_novelty(
    served: Ensemble, pool: Pool, calibration_N: NDArray[np.intp], config: ExportConfig, say: Say
) -> tuple[Ensemble, NoveltyRecord | None]:
    """The ensemble whose first member knows the directions of all classes, and the thresholds.

    Args:
        served: in the precision that will be served.
        pool: the runs, whose data is read again.
        calibration_N: the validation images that chose nothing.
        config: whether that is wanted, and where the data is now.
        say: called with a sentence about what takes long.

    Raises:
        InvalidConfig: a member gives no feature maps.
        InvalidData: the data is not where it was, or has changed.
    """
    if not config.novelty:
        return served, None
    if unexplained := served.unexplained:
        raise InvalidConfig(
            f"--novelty: {', '.join(unexplained)} do not end in a mean over height and width and "
            "one linear layer, whose input could be compared; leave --novelty out"
        )
    run = pool.first_run
    train, val = reread_parts(
        run.data, run.classes, run.image, spec=config.data, splits=("train", "val")
    )
    taught = looked_at(train.labels_N)
    held_out = calibration_N[:: -(-len(calibration_N) // MOST_IMAGES)]
    say(f"asking the first member about {len(taught) + len(held_out):,} images, for --novelty")
    look = partial(means_of_maps, served.first_chain, say=say)
    features_NC = look(train.images_NCHW[taught])
    directions_KC = directions(features_NC, train.labels_N[taught], len(run.classes))
    as_served_KC = directions_KC.astype(np.float32)
    record = fit_thresholds(distances(look(val.images_NCHW[held_out]), as_served_KC))
    first, *others = served.members
    first = replace(first, onnx_file=with_directions(first.onnx_file, as_served_KC))
    return replace(served, members=(first, *others)), record


def looked_at(labels_N: NDArray[np.int64]) -> NDArray[np.intp]:
    """The places of the training images that give the directions, in their order.

    A class that none of them is of would have no direction, and its pictures would be called novel.
    """
    drawn_N = np.random.default_rng(0).permutation(len(labels_N))
    by_class_N = np.argsort(labels_N[drawn_N], kind="stable")  # places among the drawn ones
    sorted_N = labels_N[drawn_N][by_class_N]
    rank_N = np.empty_like(drawn_N)  # of each drawn one among those of its class
    rank_N[by_class_N] = np.arange(len(labels_N)) - np.searchsorted(sorted_N, sorted_N)
    taken_N = (np.arange(len(labels_N)) < MOST_IMAGES) | (rank_N < OF_EACH_CLASS)
    return np.sort(drawn_N[taken_N])


def means_of_maps(
    onnx_files: Sequence[bytes], images_NCHW: NDArray[np.uint8], say: Say = lambda _: None
) -> Floats:
    """features_NC: the means over height and width of the last feature maps.

    Args:
        onnx_files: a member, or a trunk and the member behind it, one of which gives maps.
        images_NCHW: any number of images.
        say: called every few seconds with how many are done.
    """
    chain, found = Chain(*onnx_files), []
    starts = range(0, len(images_NCHW), IMAGES_AT_A_TIME)
    for start in noting_progress(starts, "batches of images looked at", say):
        _, more = chain.beside(images_NCHW[start : start + IMAGES_AT_A_TIME], MAPS)
        found.append(more[MAPS].mean(axis=(2, 3)))
    return np.concatenate(found)


def with_directions(onnx_file: bytes, directions_KC: NDArray[np.float32]) -> bytes:
    """A member's file that has the directions of all classes as one more output, a constant."""
    model = onnx.load_from_string(onnx_file)
    add_constant(model.graph, CLASS_DIRECTIONS, directions_KC)
    shape = list(directions_KC.shape)
    model.graph.output.append(
        helper.make_tensor_value_info(CLASS_DIRECTIONS, TensorProto.FLOAT, shape)
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data

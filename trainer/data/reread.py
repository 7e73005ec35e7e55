"""Read the images of a run or a bundle again, split as they were for its training."""

from collections.abc import Sequence
from dataclasses import replace

from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.manifest import how_classes_differ
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import DataRecord
from snapensemble.trainer.data.dataset import Dataset, holds_pictures, load_dataset
from snapensemble.trainer.data.readers import Split
from snapensemble.trainer.data.sources.splits import composed

# Where a data set is not there any more, or what reads it is not installed here.
NOT_AT_HAND = (InvalidData, InvalidConfig)


def reread(
    trained_on: DataRecord,
    classes: tuple[str, ...],
    image: ImageContract,
    *,
    spec: str | None = None,
    split: str = "test",
) -> Split:
    """A part of the data set that a run or a bundle was trained on, or of another one.

    It is split as it was for training, so that the test part holds no image that taught or chose.

    Args:
        trained_on: what the manifest says of the data.
        classes: the classes that it must have, in this order.
        image: the shape that its images must have.
        spec: where it is now, or another data set; where it was if not given.
        split: train, val or test.

    Raises:
        InvalidData: there is no such split, classes or shapes differ, or the data set has changed
            since, so that nobody knows any more which of its images taught.
    """
    (part,) = reread_parts(trained_on, classes, image, spec=spec, splits=(split,))
    return part


def reread_parts(
    trained_on: DataRecord,
    classes: tuple[str, ...],
    image: ImageContract,
    *,
    spec: str | None = None,
    splits: Sequence[str],
) -> list[Split]:
    """Several parts, for which the data set is read once; see `reread`."""
    dataset = reread_dataset(trained_on, classes, image, spec=spec)
    known = [split for split in splits if not (split == "test" and dataset.brings_test)]
    if known and dataset.fingerprint() != trained_on.fingerprint:
        raise InvalidData(
            f"{spec or trained_on.spec} is not, or no longer, what the snapshots were trained on, "
            f"so its {known[0]} part would hold images that taught; put the images to measure into "
            "test/CLASS/* of a folder with train/CLASS/*"
        )
    return [dataset.part(split) for split in splits]


def reread_dataset(
    trained_on: DataRecord,
    classes: tuple[str, ...],
    image: ImageContract,
    *,
    spec: str | None = None,
) -> Dataset:
    """All parts of the data set, or of another one of the same classes and shape.

    Args:
        trained_on: see `reread`.
        classes: see `reread`.
        image: see `reread`.
        spec: see `reread`.

    Raises:
        InvalidData: it cannot be read, or classes or shapes differ.
    """
    spec = spec or trained_on.spec
    try:
        dataset = load_dataset(
            spec,
            val_fraction=trained_on.val_fraction,
            split_seed=trained_on.split_seed,
            image_size=image.height if holds_pictures(spec) else None,
            fit=image.fit,
            channels=image.channels,
            max_bad_images=trained_on.max_bad_images,
            max_image_cost=trained_on.max_image_cost,
        )
    except InvalidData as error:
        if spec == trained_on.spec:
            error.add_note("the snapshots were trained on it; if it has moved, give --data")
        raise
    if tuple(map(composed, classes)) == dataset.classes:
        dataset = replace(dataset, classes=classes)  # as an earlier version read a Mac's names
    if dataset.classes != classes:
        raise InvalidData(
            f"the data has {len(dataset.classes):,} classes, the snapshots {len(classes):,}, and "
            f"they must be equal: the data {how_classes_differ(dataset.classes, classes)}"
        )
    if dataset.shape != image.shape:
        raise InvalidData(
            f"the data's images are {dataset.shape} (channels, height, width), "
            f"the snapshots take {image.shape}"
        )
    return dataset

"""Image folders, and other data, as tests lay them out."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.trainer.data.dataset import Dataset, load_dataset
from tests.factories import encoded, picture


def load(spec: str | Path, **options: Any) -> Dataset:
    return load_dataset(str(spec), val_fraction=0.25, split_seed=0, **options)


def make_folder(root: Path, images: dict[str, int], kind: str = "PNG") -> Path:
    """CLASS/* with so many pictures each, all different."""
    for index, (name, count) in enumerate(images.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            data = encoded(picture(100 * index + i, width=20, height=16), kind)
            (root / name / f"{i}.{kind.lower()}").write_bytes(data)
    return root


def rows(images_NCHW: NDArray[np.uint8]) -> set[bytes]:
    return {image.tobytes() for image in images_NCHW}

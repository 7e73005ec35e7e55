"""A folder of pictures, with a folder per class, as uint8 images [N, C, H, W] and labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pixels import SUFFIXES
from snapensemble.contracts.process import say
from snapensemble.trainer.data.cache import Pictures, decoded
from snapensemble.trainer.data.decoding import MAX_IMAGE_COST
from snapensemble.trainer.data.readers import RawData, Split

MOST_NAMED = 20


@dataclass(frozen=True)
class _Part:
    """The images of train/, val/ or test/, and the lines that name unreadable files."""

    split: Split
    bad: list[str]
    costly: int


def image_folder(
    directory: Path,
    *,
    size: int,
    channels: int,
    large_size: int | None = None,
    max_bad_images: int = 0,
    max_image_cost: float = MAX_IMAGE_COST,
) -> RawData:
    """Read train/CLASS/* with optional val/ and test/, or CLASS/* alone.

    Each file is decoded as the server decodes it, once: see `trainer.data.cache`. Files whose
    names do not end as a picture's are passed over.

    Args:
        directory: the folder.
        size: height and width of the images, pixels.
        channels: 1 or 3.
        large_size: height and width of a second version of what teaches, pixels; None: none.
        max_bad_images: so many pictures that cannot be read are named and left out.
        max_image_cost: what decoding one may cost, as a multiple of what a server accepts.

    Raises:
        InvalidData: fewer than two classes, no images, or more unreadable ones than allowed.
    """
    has_parts = any(d.is_dir() for d in directory.glob("train/*"))
    root = directory / "train" if has_parts else directory
    classes = tuple(sorted(d.name for d in root.iterdir() if d.is_dir() and _visible(d)))
    if len(classes) < 2:
        raise InvalidData(
            f"{root} has {len(classes)} class folder{'' if len(classes) == 1 else 's'}; "
            "expected at least two, one per class, with the images inside"
        )
    roots = {"everything": root}
    if has_parts:
        names = ("train", "val", "test")
        roots = {name: directory / name for name in names if (directory / name).is_dir()}
    parts = {
        name: _read_part(
            directory,
            root,
            classes,
            partial(Pictures, channels=channels, max_image_cost=max_image_cost),
            size,
            large_size if name in ("everything", "train") else None,
        )
        for name, root in roots.items()
    }
    bad = [line for part in parts.values() for line in part.bad]
    _refuse_bad(bad, max_bad_images)
    if costly := sum(part.costly for part in parts.values()):
        total = sum(len(part.split) for part in parts.values())
        say(f"a server with its default limits would refuse {costly:,} of these {total:,} pictures")
    for name, part in parts.items():
        if not len(part.split):
            raise InvalidData(f"{roots[name]}: none of its {len(part.bad)} images can be read")
    splits = {name: part.split for name, part in parts.items()}
    return RawData(
        classes,
        mirror_keeps_class=True,
        everything=splits.get("everything"),
        train=splits.get("train"),
        val=splits.get("val"),
        test=splits.get("test"),
        bad_images=len(bad),
    )


def _read_part(
    folder: Path,
    root: Path,
    classes: tuple[str, ...],
    pictures: Callable[[Path, Sequence[Path], int], Pictures],
    size: int,
    large_size: int | None,
) -> _Part:
    unknown = sorted(
        d.name for d in root.iterdir() if d.is_dir() and _visible(d) and d.name not in classes
    )
    if unknown:
        raise InvalidData(f"{root} has classes that train/ has not: {', '.join(unknown[:5])}")
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and _visible(path, root) and path.is_file()
    ]
    if not files:
        raise InvalidData(f"{root} holds no images; expected CLASS/* with {', '.join(SUFFIXES)}")
    paths, labels = zip(*files, strict=True)
    images = decoded(pictures(root, paths, size))
    good = [index for index in range(len(paths)) if index not in images.bad]
    large_NCHW = None
    if large_size is not None:
        large = decoded(pictures(root, [paths[index] for index in good], large_size))
        if large.bad:  # it was read a moment ago
            index, reason = next(iter(large.bad.items()))
            raise InvalidData(f"{paths[good[index]]}: at {large_size} pixels a side: {reason}")
        large_NCHW = large.images_NCHW
    names = tuple(paths[index].relative_to(folder).as_posix() for index in good)
    return _Part(
        Split(images.images_NCHW, np.array(labels, dtype=np.int64)[good], large_NCHW, names),
        [f"{paths[index]}: {reason}" for index, reason in images.bad.items()],
        images.costly,
    )


def _refuse_bad(bad: list[str], allowed: int) -> None:
    """Name the pictures that cannot be read; too many end the reading."""
    if not bad:
        return
    more = len(bad) - MOST_NAMED
    lines = "\n".join([*bad[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])
    if len(bad) <= allowed:
        say(f"left out, cannot be read: {len(bad)} of at most {allowed}\n{lines}")
    elif len(bad) == 1:
        raise InvalidData(f"{lines}; repair or remove this file, or allow --max-bad-images 1")
    else:
        raise InvalidData(
            f"{len(bad)} images cannot be read, at most {allowed} may be:\n{lines}\n"
            f"repair or remove these files, or allow --max-bad-images {len(bad)}"
        )


def _visible(path: Path, root: Path | None = None) -> bool:
    """Whether a path is not hidden, nor in a hidden folder below `root` (.ipynb_checkpoints)."""
    parts = path.relative_to(root).parts if root else (path.name,)
    return not any(part.startswith(".") for part in parts)

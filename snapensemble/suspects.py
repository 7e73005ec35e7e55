"""`snapensemble suspects`: pictures of a run's data set to look at again, as a table and a page."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from snapensemble.contracts.options import Options, add_options, build
from snapensemble.contracts.process import printable_lines
from snapensemble.contracts.run import read_run
from snapensemble.many.rows import path_text
from snapensemble.report.html import refuse_directory
from snapensemble.report.suspects import (
    KINDS,
    SUSPECTS_PAGE,
    SUSPECTS_TABLE,
    Picture,
    Suspect,
    summary,
    write_suspects,
)
from snapensemble.trainer.data.dataset import SPECS, Dataset
from snapensemble.trainer.data.reread import reread_dataset
from snapensemble.trainer.suspects.duplicates import EXACT, HASH_BITS, duplicates

if TYPE_CHECKING:  # torch takes seconds to import; `--help` does not need it
    from snapensemble.trainer.suspects.labels import SuspectLabels

SHARE, MOST = 0.05, 1_000  # of the labels that are listed by default: a share, and a number


class SuspectsConfig(Options):
    """The options of `snapensemble suspects`."""

    out: Path | None = Field(
        None,
        description="where to (suspects in the run)",
        json_schema_extra={"metavar": "DIR"},
    )
    data: str | None = Field(
        None,
        description=f"{SPECS} (the one that the run was trained on)",
        json_schema_extra={"metavar": "SPEC"},
    )
    top: int | None = Field(
        None,
        ge=1,
        description=f"labels that are listed (a twentieth of all, {MOST:,} at most)",
        json_schema_extra={"metavar": "N"},
    )
    thumbnails: bool = Field(True, description="show the pictures on the page")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `snapensemble suspects`."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    add_options(parser, SuspectsConfig)


def run(args: argparse.Namespace) -> int:
    """Write the table and the page; the last line of stdout is the page."""
    options = vars(args)
    lines, page = suspects(options.pop("run_dir"), **options)
    print(printable_lines("\n".join([*lines, str(page)])))
    return 0


def suspects(run_dir: Path, **options: Any) -> tuple[list[str], Path]:
    """Judge the labels of training and validation, and look for pictures that are there twice.

    The labels of test pictures are not judged: who corrects there what the networks disagree with
    makes them look better.

    Args:
        run_dir: made by `snapensemble train`, with one finished cycle at least.
        options: those of SuspectsConfig.

    Returns:
        What was found, in a few sentences, and the page; the table is beside it.

    Raises:
        InvalidConfig: an option is out of bounds, or the run has no snapshot yet.
        InvalidData: the data set cannot be read, or has other classes or shapes.
        InvalidManifest: the run is damaged.
        WriteFailed: the directory cannot be written.
    """
    from snapensemble.trainer.suspects.labels import probabilities, suspect_labels

    config = build(SuspectsConfig, options)
    out = config.out or run_dir / "suspects"
    run = read_run(run_dir)
    refuse_directory(out, SUSPECTS_PAGE)
    dataset = reread_dataset(run.data, run.classes, run.image, spec=config.data)
    judged = len(dataset.train) + len(dataset.val)
    most = config.top or min(MOST, round(SHARE * judged))
    labels_N = np.concatenate([dataset.train.labels_N, dataset.val.labels_N])
    labels = suspect_labels(probabilities(run_dir, run, dataset), labels_N, most)
    found = [*doubled(dataset), *_doubtful(dataset, labels)]
    found.sort(key=lambda suspect: KINDS.index(suspect.kind))
    spec = config.data or run.data.spec
    write_suspects(out, found, data=spec, judged=judged, thumbnails=config.thumbnails)
    return [*summary(found, judged), f"{out / SUSPECTS_TABLE}"], out / SUSPECTS_PAGE


def doubled(dataset: Dataset) -> list[Suspect]:
    """The pictures of a data set that are there twice, or nearly so."""
    picture = _pictures(dataset)
    pairs = duplicates(*(part.images_NCHW for part in dataset.parts.values()))
    return [
        Suspect(
            "exact-duplicate" if distance == EXACT else "near-duplicate",
            picture(second),
            1 - max(0, distance) / HASH_BITS,
            other=picture(first),
        )
        for first, second, distance in zip(*(array.tolist() for array in pairs), strict=True)
    ]


def _doubtful(dataset: Dataset, labels: "SuspectLabels") -> list[Suspect]:
    picture = _pictures(dataset)
    return [
        Suspect("label", picture(image), doubt, suggested=dataset.classes[suggested])
        for image, suggested, doubt in zip(*(array.tolist() for array in labels), strict=True)
    ]


def _pictures(dataset: Dataset) -> Callable[[int], Picture]:
    """What gives the picture of a number, counted on from part to part."""
    parts = dataset.parts
    ends = np.cumsum([len(part) for part in parts.values()])

    def picture(number: int) -> Picture:
        place = int(np.searchsorted(ends, number, side="right"))
        name, part = list(parts.items())[place]
        row = number - int(ends[place]) + len(part)
        assert part.names is not None  # load_dataset names all
        label = dataset.classes[part.labels_N[row]]
        return Picture(path_text(part.names[row]), name, label, part.images_NCHW[row])

    return picture

"""Answer pictures in this process: the same engine, and the same answers, as over HTTP."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.errors import ImageTooCostly, InvalidData, InvalidImage
from snapensemble.contracts.pixels import SERVER_LIMITS, ImageContract
from snapensemble.pictures import BadPicture, Picture, loaded, name_of
from snapensemble.serving.http.responses import prediction, promised
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.engine import Engine, Limits, load_engine
from snapensemble.serving.inference.request import Answer, in_order

PER_LANE = 64  # pictures that are under way


def own_engine(
    bundle_dir: Path,
    *,
    max_image_cost: float = 1.0,
    threads: int | None = None,
    max_accuracy_drop: float | None = None,
    expected_sha256: str | None = None,
) -> Engine:
    """Load an engine for pictures of one's own, whose decoding may take as long as it takes.

    Args:
        bundle_dir: made by `snapensemble export`.
        max_image_cost: what decoding a picture may cost, in times what a server accepts.
        threads: lanes; as many as this process has processors if not given.
        max_accuracy_drop: picks a point of the cascade.
        expected_sha256: of the bundle's manifest, if only one is right.

    Raises:
        InvalidManifest, InvalidParameter: as for `load_engine`.
    """
    image = read_bundle(bundle_dir, expected_sha256).image
    return load_engine(
        bundle_dir,
        Limits(threads=threads),
        max_accuracy_drop=max_accuracy_drop,
        expected_sha256=expected_sha256,
        decode=partial(image.decode, limits=SERVER_LIMITS.times(max_image_cost)),
    )


def answers(
    engine: Engine,
    pictures: Iterable[Picture],
    options: PredictOptions,
    names: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a prediction of `POST /predict` for each picture, in their order.

    The lanes decode and ask; no more pictures are in memory than keep them busy.

    Args:
        engine: that of `own_engine`, started.
        pictures: any number.
        options: what an answer has; a deadline is not kept.
        names: of the pictures, for messages; their own if not given.

    Raises:
        InvalidParameter, NotExplainable: the bundle cannot grant an option.
        BadPicture: one of the pictures cannot be read.
    """
    mode = options.mode or "full"
    engine.check_mode(mode)
    promises = promised(engine, mode, options)
    asked = engine.asked(options.explain, options.novelty)

    def submit(picture: Picture) -> Answer | Exception:
        try:
            source = submitted(picture, engine.bundle.image)
        except (InvalidData, InvalidImage) as error:
            return error  # those before it may be wrong as well, and come first
        return engine.submit([source], mode, asked)[0]

    handed_over = (
        ((index, name_of(picture, index) if names is None else names[index]), submit(picture))
        for index, picture in enumerate(pictures)
    )
    for (index, name), answer in in_order(handed_over, PER_LANE * engine.scheduler.threads):
        try:
            if isinstance(answer, Exception):
                raise answer
            yield prediction(answer.whole(), engine.bundle, options, promises)
        except (InvalidData, InvalidImage) as error:
            more = "; or give --max-image-cost" if isinstance(error, ImageTooCostly) else ""
            raise BadPicture(index, name, error, f"{error}{more}") from error


def submitted(picture: Picture, image: ImageContract) -> bytes | NDArray[np.uint8]:
    """What an engine takes of a picture: bytes, which a lane decodes, or the pixels of a frame.

    Raises:
        InvalidData, InvalidImage: it cannot be read.
    """
    found = loaded(picture)
    return found if isinstance(found, bytes) else image.frame(found)

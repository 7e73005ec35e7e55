"""load(): a bundle directory -> an ensemble that answers pictures in this process."""

import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Unpack, overload

from pydantic import Field

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.cpu import MAX_THREADS
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import Options, build, in_python_words
from snapensemble.offline import answers, own_engine
from snapensemble.pictures import Picture, as_several
from snapensemble.predictions import Asked, Prediction, explained_classes
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.engine import Engine


class LoadConfig(Options):
    """The arguments of `load`."""

    bundle: Path
    threads: int | None = Field(None, ge=1, le=MAX_THREADS)
    max_image_cost: float = Field(1.0, ge=1, le=10_000)
    max_accuracy_drop: float | None = None
    expect_bundle: str | None = None


def load(
    bundle: str | os.PathLike[str],
    *,
    threads: int | None = None,
    max_image_cost: float = 1.0,
    max_accuracy_drop: float | None = None,
    expect_bundle: str | None = None,
) -> "Ensemble":
    """Load a bundle: every file of it is verified, and its members are warm afterwards.

    Args:
        bundle: the directory, made by `export`.
        threads: inference lanes; as many as this process has processors if not given.
        max_image_cost: what decoding a picture may cost, in times what a server accepts.
        max_accuracy_drop: accuracy that the cascade may cost, fraction; the bundle's choice if not
            given.
        expect_bundle: SHA-256 of the bundle's `ensemble.json`; another one is refused.

    Raises:
        InvalidConfig: an argument is out of bounds.
        InvalidManifest: the bundle is absent, damaged or not the expected one.
        InvalidParameter: the bundle carries no cascade to choose from.
    """
    with in_python_words():
        values = {
            "bundle": bundle,
            "threads": threads,
            "max_image_cost": max_image_cost,
            "max_accuracy_drop": max_accuracy_drop,
            "expect_bundle": expect_bundle,
        }
        asked = build(LoadConfig, values, word=str)
        engine = own_engine(
            asked.bundle,
            max_image_cost=asked.max_image_cost,
            threads=asked.threads,
            max_accuracy_drop=asked.max_accuracy_drop,
            expected_sha256=asked.expect_bundle and asked.expect_bundle.lower(),
        )
    return Ensemble(engine)


class Ensemble:
    """A bundle that answers. It may be asked from any number of threads.

    `with` ends its lanes, and so does `close`, or nobody knowing of it any more.

    Args:
        engine: has not been started.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process = os.getpid()
        engine.__enter__()
        self._end = weakref.finalize(self, engine.__exit__, None, None, None)

    def __enter__(self) -> "Ensemble":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        bundle = self.manifest
        return (
            f"<Ensemble {bundle.name} {bundle.version}: {len(bundle.members)} members, "
            f"{len(bundle.classes)} classes>"
        )

    def close(self) -> None:
        """Answer what was asked, and end the lanes; nothing can be asked afterwards."""
        self._end()

    @property
    def manifest(self) -> BundleManifest:
        """What `ensemble.json` says: members, figures, calibration, and where they come from."""
        return self._engine.bundle

    @property
    def name(self) -> str:
        """The name of the bundle."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Eight digits that change with anything in the bundle."""
        return self.manifest.version

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `Prediction.probabilities`."""
        return self.manifest.classes

    @overload
    def predict(  # type: ignore[overload-overlap] # a text is a sequence of texts, too
        self, pictures: Picture, **asked: Unpack[Asked]
    ) -> Prediction: ...

    @overload
    def predict(self, pictures: Iterable[Picture], **asked: Unpack[Asked]) -> list[Prediction]: ...

    def predict(
        self, pictures: "Picture | Iterable[Picture]", **asked: Unpack[Asked]
    ) -> Prediction | list[Prediction]:
        """Answer one picture, or several in their order, with the numbers of `POST /predict`.

        Args:
            pictures: a path, the bytes of a file, a Pillow image, an array of uint8 (height x
                width, perhaps x 1, 3 or 4 channels), or any iterable of these.
            asked: `top`, `probabilities`, `members`, `mode`, `coverage`, `abstain`, `novelty` and
                `explain`, with the meanings and defaults of `POST /predict`.

        Raises:
            InvalidConfig: an argument is out of bounds.
            InvalidParameter, NotExplainable: the bundle cannot grant an option.
            BadPicture: a picture cannot be read; it says which one.
        """
        with in_python_words():
            values = {**asked, "explain": explained_classes(asked.get("explain", ()))}
            options = build(PredictOptions, values, word=str)
            if options.deadline_ms is not None:
                raise InvalidConfig("deadline_ms: only a server keeps a deadline; leave it out")
            self._refuse_closed()
            several, is_one = as_several(pictures)
            found = [Prediction.of(each) for each in answers(self._engine, several, options)]
        return found[0] if is_one else found

    def evaluate(
        self,
        data: str | None = None,
        *,
        split: Literal["test", "val", "train"] = "test",
        limit: int | None = None,
        mode: Mode = "full",
        unlike: str | os.PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """Measure the ensemble and each member on a data set; needs `snapensemble[train]`.

        Args:
            data: as `--data` of the commands; what the run was trained on if not given.
            split: which part of it.
            limit: so many images, evenly spread over the part.
            mode: every member, or as many as an image needs.
            unlike: pictures of other things, a data set or any directory, to measure novelty.

        Returns:
            What `snapensemble evaluate --json` prints.

        Raises:
            InvalidConfig: an argument is out of bounds.
            InvalidData: the data cannot be read, or has other classes or shapes.
            InvalidParameter: the bundle carries no cascade, or does not know what is novel.
        """
        with in_python_words():
            from snapensemble.evaluate import EvaluateConfig, measured

            self._refuse_closed()
            values: dict[str, Any] = {"data": data, "split": split, "limit": limit, "mode": mode}
            if unlike is not None:
                is_path = isinstance(unlike, os.PathLike)
                values["unlike"] = os.fspath(unlike) if is_path else unlike
            return measured(self._engine, build(EvaluateConfig, values, word=str))

    def _refuse_closed(self) -> None:
        if not self._end.alive:
            raise InvalidConfig(f"{self!r} is closed; load the bundle again")
        if os.getpid() != self._process:  # the threads of its lanes stay behind in a fork
            raise InvalidConfig(f"{self!r} was loaded in another process; load it in this one")

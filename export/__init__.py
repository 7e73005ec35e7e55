"""Run directories -> a bundle directory. The package can be called, as `snapensemble.export`.

A function of this name could not be kept beside a package of this name: Python binds the package to
it at the first import of anything inside (docs/decisions/0049-python.md).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from snapensemble.export.config import ExportOptions


class ExportPackage(ModuleType):
    """This package."""

    def __call__(
        self,
        runs: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]",
        out: "str | os.PathLike[str]",
        *,
        force: bool = False,
        **settings: "Unpack[ExportOptions]",
    ) -> Path:
        """Turn the best snapshots of a run, or of several, into a bundle of ONNX members.

        Args:
            runs: run directories, made by `train`.
            out: the bundle directory, which appears when everything in it is complete.
            force: replace a bundle that is there.
            settings: those of `snapensemble export`, see docs/export.md: for example `members`,
                `select`, `quantize`, `cascade`, `novelty`, `name`.

        Returns:
            The bundle directory.

        Raises:
            InvalidConfig: a setting is out of bounds or does not fit, or `out` is taken.
            InvalidManifest: a run is damaged.
            InvalidData: the run's images are needed, and are not where they were.
            ParityFailed, QuantizationRefused: a member would answer otherwise than it should.
        """
        from snapensemble.contracts.options import build, in_python_words

        with in_python_words():
            from snapensemble.export.config import ExportConfig, ExportPlaces

            several = [runs] if isinstance(runs, str | bytes | os.PathLike) else runs
            values = {"runs": several, "out": out, "force": force}
            places = build(ExportPlaces, values, word=str)
            config = build(ExportConfig, settings, word=str)
            from snapensemble.contracts.process import say
            from snapensemble.export.bundle import build_bundle

            build_bundle(
                places.runs,
                places.out,
                config,
                force=places.force,
                say=lambda text: say(f"export: {text}"),
            )
        return places.out


sys.modules[__name__].__class__ = ExportPackage

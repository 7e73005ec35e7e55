"""Charts that are drawn and not rendered."""

import contextlib
from collections.abc import Iterator
from typing import BinaryIO

import pytest
from matplotlib.figure import Figure
from PIL import Image


@contextlib.contextmanager
def unrendered() -> Iterator[None]:
    """Let each chart become one pixel: to render it takes half a second."""

    def savefig(_: Figure, file: BinaryIO, **__: object) -> None:
        Image.new("RGB", (1, 1)).save(file, "png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield

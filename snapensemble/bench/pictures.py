"""The pictures of a benchmark: picture files, or noise of the shape that a bundle takes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from snapensemble.contracts.errors import InvalidData, InvalidImage
from snapensemble.contracts.files import read_picture
from snapensemble.contracts.pixels import ImageContract
from snapensemble.serving.inference.request import Image as Pixels

NOISE_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures, encoded and decoded, and where they come from in words."""

    encoded: Sequence[bytes]
    images: Sequence[Pixels]  # image_CHW of each
    source: str

    def groups(self, size: int) -> tuple[list[list[bytes]], list[list[Pixels]]]:
        """As many groups of `size` as there are pictures, encoded and decoded."""
        count = len(self.encoded)
        places = [[(start * size + k) % count for k in range(size)] for start in range(count)]
        return (
            [[self.encoded[place] for place in group] for group in places],
            [[self.images[place] for place in group] for group in places],
        )


def read_pictures(files: Sequence[Path], image: ImageContract) -> Pictures:
    """The pictures in files, each of which can be decoded.

    Raises:
        InvalidData: a file is absent or no picture; the message names it.
    """
    encoded, images = [], []
    for file in files:
        try:
            encoded.append(read_picture(file))
            images.append(image.decode(encoded[-1]))
        except OSError as error:
            raise InvalidData(f"{file}: {error.strerror or error}") from error
        except InvalidImage as error:
            raise InvalidData(f"{file}: {error}") from error
    mean_kib = sum(map(len, encoded)) / len(encoded) / 1024
    return Pictures(encoded, images, f"{len(encoded)} picture files, {mean_kib:.1f} KiB on average")


def noise(image: ImageContract) -> Pictures:
    """Random pixels as PNG files of the bundle's size: no picture is harder to compress."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(NOISE_PICTURES):
        pixels_HWC = rng.integers(0, 256, (image.height, image.width, image.channels), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels_HWC[..., 0] if image.channels == 1 else pixels_HWC).save(
            buffer, "PNG"
        )
        encoded.append(buffer.getvalue())
    size = f"{image.width} x {image.height}"
    source = f"{NOISE_PICTURES} synthetic pictures of noise, {size}, PNG"
    return Pictures(encoded, [image.decode(data) for data in encoded], source)

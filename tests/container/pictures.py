"""What containers are asked about."""

from PIL import Image

from tests.factories import encoded, picture

MIB = 2**20
SMALL = [encoded(picture(seed, width=32, height=32)) for seed in range(8)]


def costliest() -> list[bytes]:
    """As much time, memory and bytes as the image's settings take, turned, and seen through."""
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = []
    for mode, size in (("RGBA", (4600, 4300)), ("LA", (4600, 4300)), ("L", (6300, 6300))):
        data = encoded(Image.new(mode, size), compress_level=1, exif=turned)
        pictures += [data, data + bytes(16 * MIB - len(data))]
    return [*pictures, encoded(Image.new("RGB", (6300, 6300)), compress_level=1, exif=turned)]

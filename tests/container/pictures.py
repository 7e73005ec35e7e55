"""What containers are asked about."""

from PIL import Image

from tests.factories import encoded, picture

MIB = 2**20
SMALL = [encoded(picture(seed, width=32, height=32)) for seed in range(8)]


def costliest() -> list[bytes]:
    """As many pixels and bytes as the image's settings take, turned, and seen through."""
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = []
    for mode in ("RGBA", "LA", "RGB"):
        data = encoded(Image.new(mode, (4880, 2500)), compress_level=1, exif=turned)
        pictures += [data, data + bytes(16 * MIB - len(data))]
    return pictures

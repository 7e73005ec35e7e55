"""What an AVIF picture costs: its boxes are bounded, and every frame in them is counted."""

from snapensemble.contracts.errors import InvalidImage
from snapensemble.contracts.pictures.av1 import scan_av1
from snapensemble.contracts.pictures.boxes import BoxFile
from snapensemble.contracts.pictures.directory import refuse_costly_exif
from snapensemble.contracts.pictures.limits import NS, PictureLimits, Scan

BRANDS = (b"avif", b"avis")
_MAJOR = (*BRANDS, b"mif1", b"msf1")  # of which Pillow's decoder is asked
# Nanoseconds, as measured, rounded up.
_PER_PIXEL, _PER_BYTE, _PER_SHOWN_PIXEL, _FLATTEN = 40, 60, 8, 13


def scan_avif(data: bytes, limits: PictureLimits) -> Scan:
    """Add up what dav1d, libavif and Pillow would do.

    Everything that is coded counts, whether it is the picture, its transparency or a preview: which
    of it is decoded would follow from many boxes.

    Args:
        data: begins with a box of file types.
        limits: what is accepted.

    Raises:
        InvalidImage: the boxes are damaged, or hold no picture.
        ImageTooLarge: too many pixels.
        ImageTooCostly: too many boxes, items or frames, or Exif that is made to be slow.
    """
    file = BoxFile(data, limits)
    if file.brands[0] not in _MAJOR:
        raise InvalidImage(f"the AVIF begins as {file.brands[0]!r}, expected {_MAJOR}")
    is_track = file.brands[0] != b"avif" and file.track_size is not None
    size = file.track_size if is_track else file.size
    if size is None or not size[0] * size[1]:
        raise InvalidImage("the AVIF does not say how large it is")
    for each in (*file.sizes, size):
        limits.refuse_pixels(*each)
    width, height = size
    coded_pixels = units = parts = 0
    held = 0.0
    for item in file.items:
        if b"Exif" in item.kinds:
            refuse_costly_exif(item.data[4:], limits)
        if b"av01" in item.kinds:
            coded = scan_av1(item.data, limits)
            coded_pixels += coded.pixels * item.uses
            held += coded.held * item.uses
            parts += 1
            units += coded.units
            limits.refuse_more(units, limits.max_parts, "{} AV1 units and more", "save one frame")
    if not parts:
        raise InvalidImage("the AVIF holds no AV1 data")
    pixels = width * height
    return Scan(
        format="AVIF",
        width=width,
        height=height,
        pixel_bytes=4,
        decoded=pixels,
        seconds=(coded_pixels * _PER_PIXEL + len(data) * _PER_BYTE + pixels * _PER_SHOWN_PIXEL)
        * NS,
        # The frames, what they are put together to, and two copies for Pillow.
        memory=int(held) + pixels * (4 + 6 + 2),
        planes=3,
        flatten_s=pixels * (_FLATTEN if parts > 1 else 1) * NS,
        why=f"{coded_pixels / 1e6:.1f} megapixels of AV1",
    )

"""Builders of AVIF pictures whose boxes and AV1 headers claim anything."""

import struct
from collections.abc import Callable, Sequence

from snapensemble.contracts.pictures.boxes import BoxFile
from snapensemble.contracts.pictures.limits import PictureLimits
from tests.attacks.pictures import exif_of, saved

P = 6_324  # P x P are just 40 megapixels


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full(kind: bytes, *content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def unit(kind: int, data: bytes) -> bytes:
    """An AV1 unit with its size."""
    size, left = b"", len(data)
    while True:
        size += bytes([left & 127 | (128 if left > 127 else 0)])
        left >>= 7
        if not left:
            return bytes([kind << 3 | 2]) + size + data


def bits(*fields: tuple[int, int]) -> bytes:
    """Numbers, each in so many bits, and zeros to the end of the last byte."""
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def sequence(width: int, height: int, *, reduced: bool = True, wide_bits: int = 16) -> bytes:
    """A sequence header that claims a size."""
    size = [(wide_bits - 1, 4), (wide_bits - 1, 4), (width - 1, wide_bits), (height - 1, wide_bits)]
    if reduced:
        tail = [(0, 3), (0, 3), (0, 1), (0, 1), (0, 1), (1, 1), (0, 2), (0, 1), (0, 1), (1, 1)]
        return unit(1, bits((0, 3), (1, 1), (1, 1), (13, 5), *size, *tail))
    operating = [(0, 1), (0, 1), (0, 5), (0, 12), (0, 5)]
    tail = [(0, 1), (0, 3), (0, 4), (0, 1), (1, 1), (1, 1), (0, 3)]
    return unit(1, bits((0, 3), (0, 1), (0, 1), *operating, *size, *tail, (0, 20)))


def frame(*, override: bool = False) -> bytes:
    """A frame's unit, of no use to a decoder."""
    # It is shown, is no key frame, and has the fields that `sequence` says it has.
    return unit(6, bits((0, 1), (1, 2), (1, 1), (0, 1), (0, 1), (0, 1), (override, 1), (0, 64)))


def av1(width: int = 16, height: int = 16, frames: int = 1) -> bytes:
    return sequence(width, height) + frame() * frames


def avif(
    items: Sequence[tuple[bytes, bytes]] = ((b"av01", av1()),),
    *,
    size: tuple[int, int] = (16, 16),
    brand: bytes = b"avif",
    references: bytes = b"",
    properties: bytes = b"",
    associations: Sequence[int] = (1,),
    extents: int = 1,
    more: bytes = b"",
) -> bytes:
    """An AVIF of items, each a kind and its data; the first is the picture."""
    start = box(b"ftyp", brand, bytes(4), b"mif1", b"avif")
    numbers = range(1, len(items) + 1)
    infos = b"".join(
        full(b"infe", struct.pack(">HH4sB", number, 0, kind, 0), version=2)
        for number, (kind, _) in zip(numbers, items, strict=True)
    )

    def meta(at: int) -> bytes:
        places = b""
        for number, (_, data) in zip(numbers, items, strict=True):
            places += struct.pack(">HHH", number, 0, extents)
            places += struct.pack(">II", at, len(data)) * extents
            at += len(data)
        ipco = box(b"ipco", full(b"ispe", struct.pack(">II", *size)), properties)
        ipma = struct.pack(">I", 1) + struct.pack(">HB", 1, len(associations)) + bytes(associations)
        return full(
            b"meta",
            full(b"hdlr", bytes(4), b"pict", bytes(13)),
            full(b"pitm", struct.pack(">H", 1)),
            full(b"iloc", b"\x44\0", struct.pack(">H", len(items)), places),
            full(b"iinf", struct.pack(">H", len(items)), infos),
            full(b"iref", references) if references else b"",
            box(b"iprp", ipco, full(b"ipma", ipma)),
        )

    at = len(start) + len(meta(0)) + 8
    return start + meta(at) + box(b"mdat", *(data for _, data in items)) + more


def animation(samples: int, *, width: int = 16, height: int = 16) -> bytes:
    """An AVIF of one track with so many pictures, of which one byte each is there."""
    head = box(b"ftyp", b"avis", bytes(4), b"avis", b"mif1")
    data = av1()
    table = box(
        b"stbl",
        full(b"stsd", struct.pack(">I", 1), box(b"av01", bytes(78))),
        full(b"stts", struct.pack(">III", 1, samples, 1)),
        full(b"stsc", struct.pack(">IIII", 1, 1, samples, 1)),
        full(b"stsz", struct.pack(">II", len(data), samples)),
        full(b"stco", struct.pack(">II", 1, len(head) + 8)),
    )
    shape = struct.pack(">II", width << 16, height << 16)
    track = box(b"trak", full(b"tkhd", bytes(72), shape), box(b"mdia", box(b"minf", table)))
    return head + box(b"mdat", data) + box(b"moov", track)


def grid(rows: int, columns: int, tile: tuple[int, int]) -> bytes:
    """A picture that is put together from tiles of this size."""
    size = tile[0] * columns, tile[1] * rows
    tiles = rows * columns
    content = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, *size)
    numbers = struct.pack(f">{tiles}H", *range(2, tiles + 2))
    references = box(b"dimg", struct.pack(">HH", 1, tiles), numbers)
    coded = av1(*tile)
    return avif([(b"grid", content), *[(b"av01", coded)] * tiles], size=size, references=references)


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "boxes that claim a size": ("81.0 megapixels", lambda: avif(size=(9_000, 9_000))),
    "data of another size than its boxes": (
        "81.0 megapixels", lambda: avif([(b"av01", av1(9_000, 9_000))]),
    ),
    "a frame with a size of its own": ("4295.0 megapixels", lambda: avif(
        [(b"av01", sequence(16, 16, reduced=False) + frame(override=True))]
    )),
    "many frames": ("megapixels in", lambda: avif([(b"av01", av1(2_000, 2_000, frames=50))])),
    "a picture of many large parts": ("megapixels in", lambda: grid(10, 10, (600, 600))),
    "parts that are used again and again": ("megapixels in", lambda: avif(
        [(b"av01", av1(500, 500))],
        references=box(b"dimg", struct.pack(">HH", 9, 900), struct.pack(">H", 1) * 900),
    )),
    "many items": ("items", lambda: avif([(b"av01", av1())] * 1_100)),
    "many units": ("AV1 units", lambda: avif([(b"av01", av1() + unit(2, b"") * 5_000)])),
    "units in many items": (
        "coded units", lambda: avif([(b"av01", av1() + unit(2, b"") * 900)] * 20),
    ),
    "references": ("references", lambda: avif(
        references=box(b"cdsc", struct.pack(">HH", 1, 40_000), bytes(80_000))
    )),
    "properties of an item": ("bytes of properties", lambda: avif(
        properties=box(b"free", bytes(1 << 20)), associations=[1] + [2] * 200,
    )),
    "parts on top of one another": ("lie on one another", lambda: avif(
        [(b"av01", av1() + bytes(50_000))], extents=500
    )),
    "pictures of an animation": ("pictures of an animation", lambda: animation(2_000_000)),
    "boxes": ("boxes", lambda: avif(more=box(b"free") * 1_900_000)),
    "slow Exif": ("Exif", lambda: avif([
        (b"av01", av1()), (b"Exif", bytes(4) + exif_of(2_000, kind=7, values=9)),
    ])),
}  # fmt: skip

DAMAGED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a box beyond the file": ("cut off", lambda: avif()[:-5]),
    "an item beyond the file": ("cut off", lambda: avif(
        more=b"" , items=[(b"av01", av1())])[:-len(av1()) - 8] + box(b"mdat")),
    "no frame": ("no frame", lambda: avif([(b"av01", sequence(16, 16))])),
    "a frame first": ("before its sequence", lambda: avif([(b"av01", frame() + av1())])),
    "a unit beyond its item": ("AV1 data is cut off", lambda: avif([(b"av01", av1()[:-3])])),
    "no coded item": ("holds no av01", lambda: avif([(b"mime", b"x")])),
    "no size": ("how large", lambda: avif(associations=())),
    "another kind of file": ("'isom'", lambda: avif(brand=b"isom")),
    "boxes in boxes": ("how large", lambda: nested(2_000)),
}  # fmt: skip

ATTACKS: dict[str, Callable[[], bytes]] = {
    "avif honest boxes, no pixels": lambda: avif(
        [(b"av01", av1(3_000, 3_000))], size=(3_000, 3_000)
    ),
    "avif one colour 10": lambda: saved("AVIF", mode="RGB", size=(3_200, 3_200), speed=10),
    "avif animation of 2400": lambda: animation(2_400),
    "avif scaled up 40": lambda: scaled(P, P),
    "avif scaled up 10": lambda: scaled(3_200, 3_200),
    **{f"avif {name}": build for name, (_, build) in (REFUSED | DAMAGED).items()},
}


def nested(depth: int) -> bytes:
    """Boxes in boxes."""
    inner = b""
    for _ in range(depth):
        inner = box(b"moov", inner)
    return box(b"ftyp", b"avif", bytes(4), b"avif") + inner


def scaled(width: int, height: int) -> bytes:
    """A real picture of 16 x 16 pixels, whose boxes ask for any size."""
    data = saved("AVIF", mode="RGB")
    at = data.index(b"av1C") - 4
    properties = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    (item,) = BoxFile(data, PictureLimits()).items
    return avif(
        [(b"av01", item.data)], size=(width, height), properties=properties, associations=[1, 2]
    )

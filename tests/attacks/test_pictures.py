"""Pictures that are made to be costly: none of them costs what its kind could."""

import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.contracts.errors import ImageTooCostly, ImageTooLarge, InvalidImage
from snapensemble.contracts.pictures.cost import picture_cost
from snapensemble.contracts.pixels import SERVER_LIMITS, decode_image
from tests.attacks import avif
from tests.attacks.pictures import (
    PIXELS as P,
)
from tests.attacks.pictures import (
    bmp,
    chunk,
    exif_of,
    gif,
    jpeg_claiming,
    jpeg_with,
    mpo_index,
    png,
    saved,
    segment,
    striped,
    tables_of_codes,
    webp_chunks,
    webp_frame,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:PIL"),
]
# Processor time of a core half as fast as the one the limits are about.
MOST_SECONDS = 2.0
MOST_SCAN_SECONDS = 0.1

ATTACKS: dict[str, Callable[[], bytes]] = {
    "jpeg 100 scans at limit gray prog": lambda: jpeg_claiming(P, P, scans=90, progressive=True),
    "jpeg 94 scans 444 prog": lambda: jpeg_claiming(
        P, P, scans=90, progressive=True, mode="RGB", subsampling=0
    ),
    "jpeg 94 scans rgb 20MP prog": lambda: jpeg_claiming(
        4472, 4472, scans=90, progressive=True, mode="RGB"
    ),
    "jpeg restarts": lambda: jpeg_claiming(P, P, scans=20, progressive=True, restarts=True),
    "jpeg restarts 8MP": lambda: jpeg_claiming(
        2828, 2828, scans=90, progressive=True, restarts=True
    ),
    "jpeg restarts baseline": lambda: jpeg_claiming(P, P, restarts=True),
    "jpeg arithmetic 40MP": lambda: jpeg_claiming(P, P, frame=0xC9),
    "jpeg arithmetic prog 4MP": lambda: jpeg_claiming(
        2000, 2000, frame=0xCA, scans=8, progressive=True
    ),
    "jpeg arithmetic 25MP": lambda: jpeg_claiming(5000, 5000, frame=0xC9),
    "jpeg lossless": lambda: jpeg_claiming(P, P, frame=0xC3),
    "jpeg huge junk": lambda: jpeg_with(b"\0" * (8 << 20)),
    "jpeg ff fill": lambda: jpeg_with(b"\xff" * (15 << 20)),
    "jpeg 250 dqt": lambda: jpeg_with(segment(0xDB, (b"\0" + bytes(range(1, 65))) * 1000) * 250),
    "jpeg 8bim": lambda: jpeg_with(
        segment(0xED, b"Photoshop 3.0\0" + (b"8BIM\0\0\0\0\0\0\0\0") * 5000) * 250
    ),
    "jpeg exif rational": lambda: jpeg_with(
        segment(0xE1, b"Exif\0\0" + exif_of(1, kind=5, values=8000))
    ),
    "jpeg exif 5000 tags": lambda: jpeg_with(
        segment(0xE1, b"Exif\0\0" + exif_of(5000, kind=7, values=100))
    ),
    "jpeg 900 exif": lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(1000)) * 900),
    "jpeg icc 255": lambda: jpeg_with(
        b"".join(
            segment(0xE2, b"ICC_PROFILE\0" + bytes([k, 255]) + bytes(65000)) for k in range(1, 256)
        )
    ),
    "jpeg app 250": lambda: jpeg_with(segment(0xE5, bytes(65000)) * 250),
    "mpo 4000 frames": lambda: jpeg_with(mpo_index(4000)),
    "jpeg segments between scans": lambda: (
        saved("JPEG")[:-2] + segment(0xFE, b"") * (3 << 20) + b"\xff\xd9"
    ),
    "jpeg dht between": lambda: (
        lambda d: (
            d[:-2]
            + d[
                d.index(b"\xff\xc4") : d.index(b"\xff\xc4")
                + 2
                + struct.unpack(">H", d[d.index(b"\xff\xc4") + 2 : d.index(b"\xff\xc4") + 4])[0]
            ]
            * 100000
            + b"\xff\xd9"
        )
    )(saved("JPEG", progressive=True)),
    "png rgba 40": lambda: png(P, P, colour=6),
    "png rgba16 40": lambda: png(P, P, colour=6, depth=16),
    "png rgba16 20": lambda: png(4400, 4400, colour=6, depth=16),
    "png rgba 30": lambda: png(5400, 5400, colour=6),
    "png interl rgb 40": lambda: png(P, P, colour=2, interlaced=1),
    "png interl rgba 25": lambda: png(5000, 5000, colour=6, interlaced=1),
    "png la 40": lambda: png(P, P, colour=4),
    "png p 40 trns": lambda: png(P, P, colour=3, before=chunk(b"tRNS", bytes(100))),
    "png 16 40": lambda: png(P, P, depth=16),
    "png 1bit interl": lambda: png(P, P, depth=1, interlaced=1),
    "png 1x40M": lambda: png(1, 40_000_000),
    "png 40Mx1": lambda: png(40_000_000, 1),
    "png tables": lambda: png(P, P, pixels=tables_of_codes(16 << 20)),
    "png tables small px": lambda: png(100, 100, pixels=tables_of_codes(16 << 20)),
    "png 9000 chunks of 1": lambda: png(3000, 3000, colour=0, idat=1),
    "png zTXt 64": lambda: png(
        8, 8, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 64
    ),
    "png iCCP 9000": lambda: png(
        8, 8, before=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 9000
    ),
    "png raw profile": lambda: png(
        8,
        8,
        before=chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n1\n" + exif_of(1, kind=5, values=60000).hex().encode()),
        ),
    ),
    "png eXIf rational": lambda: png(
        8, 8, before=chunk(b"eXIf", exif_of(1, kind=5, values=1_500_000))
    ),
    "png tEXt exif": lambda: png(
        8, 8, before=chunk(b"tEXt", b"exif\0" + exif_of(1, kind=5, values=1_500_000))
    ),
    "png huge chunk": lambda: png(8, 8, before=chunk(b"vpAg", bytes(15 << 20))),
    "gif 40": lambda: gif(P, P),
    "gif 9000 comments": lambda: gif(8, 8, before=b"!\xfe\x01A\0" * 4900),
    "gif frames after": lambda: gif(
        8,
        8,
        after=(b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x08" + b"\x02\x00\x01\x00")
        * 200000,
    ),
    "gif nulls": lambda: gif(8, 8, before=bytes(8 << 20)),
    "bmp rle 600k": lambda: bmp(800, 800, 1, 8, b"\1\1\0\0" * 2000),
    "bmp rle4": lambda: bmp(800, 700, 2, 4, b"\xff\x12" * 20000),
    "bmp 32 40": lambda: bmp(P, P, 0, 32, bytes(15 << 20)),
    "tiff raw 20000 strips overlap": lambda: striped(
        100, 20000, strips=20000, rows=1, strip=bytes(100)
    ),
    "tiff raw strips whole": lambda: striped(
        2000, 2000, strips=19000, rows=1999, strip=bytes(4_000_000)
    ),
    "tiff jpeg scans": lambda: striped(
        P, P, codec=7, strip=jpeg_claiming(P, P, scans=90, progressive=True)
    ),
    "tiff jpeg arith": lambda: striped(
        3000, 3000, codec=7, strip=jpeg_claiming(3000, 3000, frame=0xC9)
    ),
    "tiff deflate tables": lambda: striped(P, P, codec=8, strip=tables_of_codes(7 << 20)),
    "tiff g4": lambda: striped(P, P, codec=4, strip=bytes(1 << 20), more={258: (3, 1, 1)}),
    "tiff g3": lambda: striped(P, P, codec=3, strip=b"\x55\xaa" * (4 << 20), more={258: (3, 1, 1)}),
    "tiff packbits": lambda: striped(P, P, codec=32773, strip=b"\x81\0" * 400000),
    "tiff lzw": lambda: striped(
        P, P, codec=5, strip=b"\x80\x0b\x60\x50\x22\x0c\x0c\x85\x01" * 100000
    ),
    "tiff 1000 tags": lambda: striped(
        8, 8, strip=bytes(64), more=dict.fromkeys(range(40000, 40980), (7, 16000, 8))
    ),
    "tiff exif ifd": lambda: striped(8, 8, strip=bytes(64), more={34665: (4, 1, 8)}),
    "webp canvas 40": lambda: webp_chunks(
        (P, P), b"ANIM" + struct.pack("<I", 6) + bytes(6) + webp_frame(saved("WEBP"))
    ),
    "webp canvas 12": lambda: webp_chunks(
        (3500, 3500), b"ANIM" + struct.pack("<I", 6) + bytes(6) + webp_frame(saved("WEBP"))
    ),
    "webp frames": lambda: webp_chunks(
        (16, 16), b"ANIM" + struct.pack("<I", 6) + bytes(6) + webp_frame(saved("WEBP")) * 9000
    ),
    "webp chunks": lambda: webp_chunks((16, 16), saved("WEBP")[12:] + b"abcd\0\0\0\0" * 1_900_000),
    "webp lossless 12": lambda: saved("WEBP", mode="RGBA", size=(3500, 3500), lossless=True),
    **avif.ATTACKS,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_costly_picture_is_refused_or_cut_off_or_bounded(name: str) -> None:
    data = ATTACKS[name]()
    assert len(data) <= 1.1 * (1 << 24)
    began = time.thread_time()
    try:
        picture_cost(data, SERVER_LIMITS, width=32, height=32)
    except InvalidImage:
        pass
    assert time.thread_time() - began < MOST_SCAN_SECONDS
    began = time.thread_time()
    try:
        decode_image(data, channels=3, height=32, width=32)
    except InvalidImage:
        pass
    assert time.thread_time() - began < MOST_SECONDS


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run-length", bmp(6_300, 6_300, 1, 8, bytes(6))),
        ("segments", jpeg_with(segment(0xE0, b"") * 2_000)),
        ("chunks", png(8, 8, before=chunk(b"vpAg", b"") * 20_000)),
        ("blocks", gif(8, 8, before=b"!\xfe\x01A\0" * 10_000)),
        ("scans", jpeg_with(mpo_index())[:-2] + segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") * 101),
        ("texts", png(8, 8, before=chunk(b"zTXt", b"a\0\0") * 65)),
        ("lie on one another", striped(8, 8, codec=5, strips=8, rows=1, strip=bytes(900))),
        ("tags", jpeg_with(segment(0xE1, b"Exif\0\0" + exif_of(2_000, kind=7, values=9)))),
        ("quantization", jpeg_with(segment(0xDB, bytes(60_000)))),
    ],
)  # fmt: skip
def test_what_is_never_honest_is_refused_with_what_was_found(name: str, data: bytes) -> None:
    with pytest.raises(ImageTooCostly, match=name):
        decode_image(data, channels=3, height=8, width=8)


HONEST = {
    "JPEG": saved("JPEG", mode="RGB"),
    "progressive JPEG": saved("JPEG", mode="RGB", progressive=True),
    "MPO": jpeg_with(mpo_index()),
    "PNG": png(16, 16, colour=6),
    "interlaced PNG": png(16, 16, colour=2, interlaced=1),
    "WEBP": saved("WEBP", mode="RGB"),
    "lossless WEBP": saved("WEBP", mode="RGBA", lossless=True),
    "animated WEBP": webp_chunks((16, 16), b"ANIM\6\0\0\0" + bytes(6) + webp_frame(saved("WEBP"))),
    "AVIF": saved("AVIF", mode="RGB"),
    "AVIF with transparency": saved("AVIF", mode="RGBA"),
    "GIF": saved("GIF"),
    "BMP": saved("BMP", mode="RGB"),
    "run-length BMP": bmp(16, 16, 1, 8, b"\x10\x01\0\0" * 16 + b"\0\1"),
    "TIFF": striped(16, 16, strip=bytes(256)),
    "LZW TIFF": saved("TIFF", mode="RGB", compression="tiff_lzw"),
    "JPEG TIFF": saved("TIFF", mode="RGB", compression="jpeg"),
    "deflated TIFF": saved("TIFF", mode="RGB", compression="tiff_adobe_deflate"),
}  # fmt: skip
EXTREMES = [0, 1, 2, 3, 4, 7, 8, 16, 32, 127, 128, 255, 256, 6_324, 32_767, 65_535, 40_000_000,
            2**31 - 1, 2**31, 2**32 - 1]  # fmt: skip


@given(
    kind=st.sampled_from(sorted(HONEST)),
    fields=st.lists(
        st.tuples(
            st.integers(0, 160), st.sampled_from("BHI"), st.sampled_from("<>"),
            st.sampled_from(EXTREMES) | st.integers(0, 2**32 - 1),
        ),
        min_size=1, max_size=6,
    ),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_changed_header_fields_never_cost_more_than_the_bound(
    kind: str, fields: list[tuple[int, str, str, int]]
) -> None:
    data = bytearray(HONEST[kind])
    for at, size, order, value in fields:
        width = struct.calcsize(size)
        at %= len(data) - width
        data[at : at + width] = struct.pack(order + size, value % (1 << 8 * width))
    began = time.thread_time()
    try:
        pixels = decode_image(bytes(data), channels=3, height=8, width=8)
        assert pixels.shape == (3, 8, 8)
    except InvalidImage:
        pass
    assert time.thread_time() - began < MOST_SECONDS


@pytest.mark.parametrize("kind", HONEST)
def test_a_small_picture_of_every_kind_is_accepted(kind: str) -> None:
    assert decode_image(HONEST[kind], channels=3, height=8, width=8).shape == (3, 8, 8)


MEASURE = """
import json, resource, sys
from snapensemble.contracts.pictures.cost import picture_cost
from snapensemble.contracts.pixels import SERVER_LIMITS, decode_image
data = sys.stdin.buffer.read()
decode_image(open(sys.argv[1], "rb").read(), channels=3, height=32, width=32)  # imports
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cost = picture_cost(data, SERVER_LIMITS, width=32, height=32)
decode_image(data, channels=3, height=32, width=32)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([cost.memory, (after - before) * 1024]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rgba PNG", lambda: png(4_400, 4_400, colour=6)),
        ("grey and alpha PNG", lambda: png(5_000, 5_000, colour=4)),
        ("16-bit PNG", lambda: png(5_600, 5_600, depth=16)),
        ("palette PNG", lambda: png(5_600, 5_600, colour=3, before=chunk(b"tRNS", bytes(99)))),
        ("progressive JPEG", lambda: jpeg_claiming(P, P, mode="RGB", progressive=True)),
        ("rotated PNG", lambda: png(4_400, 4_400, colour=2, before=chunk(
            b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"))),
        ("WebP", lambda: saved("WEBP", mode="RGB", size=(3_400, 3_400))),
        ("AVIF", lambda: saved("AVIF", mode="RGB", size=(2_000, 1_500), speed=10)),
        ("transparent AVIF", lambda: saved("AVIF", mode="RGBA", size=(1_400, 1_400), speed=10)),
    ],
)  # fmt: skip
def test_decoding_takes_no_more_memory_than_the_scan_said(
    name: str, data: Callable[[], bytes], tmp_path: Path
) -> None:
    small = tmp_path / "small.png"
    small.write_bytes(png(16, 16, colour=6))
    done = subprocess.run(  # our own words
        [sys.executable, "-c", MEASURE, str(small)], input=data(), capture_output=True, check=True
    )
    promised, taken = json.loads(done.stdout)
    assert taken < promised + (8 << 20), name


@pytest.mark.parametrize(
    "data",
    [
        striped(16, 16, strip=bytes(768), more={258: (3, 1, 8), 262: (3, 1, 8), 277: (3, 1, 3)}),
        png(8, 8, colour=2, before=chunk(b"tEXt", b"transparency\0no colour")),
    ],
)  # fmt: skip
def test_pixels_that_cannot_be_shown_are_the_pictures_fault(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="cannot be"):
        decode_image(data, channels=1, height=8, width=8)


def test_no_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.Image.core.new", no_memory)
    with pytest.raises(MemoryError):
        decode_image(HONEST["PNG"], channels=3, height=8, width=8)


def test_a_defect_of_ours_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapensemble.contracts.pixels.in_frame", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decode_image(HONEST["PNG"], channels=3, height=8, width=8)


def test_too_many_pixels_are_refused_by_the_scan_of_every_format() -> None:
    for data in (
        jpeg_claiming(9_000, 9_000), png(9_000, 9_000, pixels=b""), gif(9_000, 9_000),
        bmp(9_000, 9_000, 0, 8, b""), striped(9_000, 9_000), webp_chunks((9_000, 9_000), bytes(30)),
    ):  # fmt: skip
        with pytest.raises(ImageTooLarge, match="9000 x 9000 = 81.0 megapixels"):
            picture_cost(data, SERVER_LIMITS, width=8, height=8)

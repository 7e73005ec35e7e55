"""Clients that mean harm: pictures that are cheap to send and dear to decode, and connections.

Each kind once brought a server down, or would have. `act` plays one of them and tells what came
back.
"""

import asyncio
import base64
import contextlib
import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

from PIL import Image

PATIENCE_S = 5.0
MOST_BYTES = 16 * 2**20  # that a server takes for a body
LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


def encoded(mode: str, size: tuple[int, int], form: str, **how: object) -> bytes:
    """A grey picture."""
    file = io.BytesIO()
    Image.new(mode, size, 128 if mode == "L" else (90, 120, 150, 200)[: len(mode)]).save(
        file, form, **how
    )
    return file.getvalue()


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose header claims `side` squared pixels, with empty scans."""
    data = bytearray(encoded("L", (16, 16), "JPEG", progressive=True))
    frame, first = data.index(b"\xff\xc2"), data.index(b"\xff\xda")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00"
    return bytes(data[:first]) + bytes(data[first:-2]) + scan * scans + b"\xff\xd9"


def jpeg_of_segments(count: int, segment: bytes) -> bytes:
    """A JPEG with as many segments before its frame."""
    data = encoded("L", (8, 8), "JPEG")
    return data[:2] + segment * count + data[2:]


def png_of_chunks(count: int) -> bytes:
    """A PNG with as many empty chunks."""
    data = encoded("L", (8, 8), "PNG")
    chunk = struct.pack(">I", 0) + b"vpAg" + struct.pack(">I", zlib.crc32(b"vpAg"))
    return data[:33] + chunk * count + data[33:]


def run_length_bitmap(side: int) -> bytes:
    """A BMP of nothing but ends of lines, which some decoders unpack step by step."""
    head = struct.pack("<2sIHHI", b"BM", 68, 0, 0, 62)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 6, 0, 0, 2, 0)
    return head + info + bytes(8) + b"\0\0\0\0\0\1"


def costliest() -> list[bytes]:
    """Pictures as costly in time, memory and bytes as settings allow: turned, some with alpha."""
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = []
    for mode, size in (("RGBA", (4600, 4300)), ("LA", (4600, 4300)), ("L", (6300, 6300))):
        data = encoded(mode, size, "PNG", compress_level=1, exif=turned)
        pictures += [data, data + bytes(MOST_BYTES - len(data))]
    return [*pictures, encoded("RGB", (6300, 6300), "PNG", compress_level=1, exif=turned)]


PICTURES: dict[str, Callable[[], bytes]] = {
    "run-length bitmap": lambda: run_length_bitmap(6000),
    "jpeg of 100 scans": lambda: jpeg_of_scans(2000, 99),
    "jpeg of 1500 scans": lambda: jpeg_of_scans(6000, 1500),
    "jpeg of 100,000 segments": lambda: jpeg_of_segments(100_000, b"\xff\xe0\x00\x02"),
    "jpeg of 20,000 exif": lambda: jpeg_of_segments(20_000, b"\xff\xe1\x00\x0aExif\0\0AB"),
    "png of 50,000 chunks": lambda: png_of_chunks(50_000),
    "png of 36 megapixels": lambda: encoded("RGBA", (6000, 6000), "PNG"),
    "progressive of 25 megapixels": lambda: encoded("RGB", (5000, 5000), "JPEG", progressive=True),
    "webp of 30 megapixels": lambda: encoded("RGB", (6000, 5000), "WEBP", method=0),
}


@cache
def picture(name: str) -> bytes:
    """A picture of `PICTURES` by its name, made once."""
    return PICTURES[name]()


def post(body: bytes, *headers: bytes) -> bytes:
    """The bytes of a request for a prediction."""
    lines = [b"POST /predict HTTP/1.1", b"host: x", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


@cache
def small() -> bytes:
    """A decent picture."""
    return encoded("L", (8, 8), "PNG")


JSON = b"content-type: application/json"
CONNECTIONS: dict[str, Callable[[], bytes]] = {
    "garbage behind": lambda: post(small()) + LIVE + b"\0\r\n\r\n",
    "pipelined flood": lambda: LIVE * 6000,
    "upgrade with a body": lambda: post(LIVE, b"upgrade: h2c", b"connection: upgrade"),
    "half a head": lambda: LIVE[:20],
    "half a body": lambda: post(bytes(2**20))[: 2**19],
    "json of objects": lambda: post(b'{"images":[' + b"{}," * 10**6 + b"{}]}", JSON),
    "json of one string": lambda: post(
        b'{"images":["' + base64.b64encode(bytes(3 * 2**20)) + b'"]}', JSON
    ),
    "much that is no picture": lambda: post(bytes(8 * 2**20)),
    "a long query": lambda: post(small()).replace(b"predict", b"predict?" + b"a&" * 25_000, 1),
    "a long head": lambda: LIVE[:-2] + b"a: " + b"b" * 100_000,
}


async def act(host: str, port: int, number: int) -> str:
    """One hostile client: its kind and the first line of what came back, if anything did."""
    rng = random.Random(number)  # noqa: S311 # not a secret
    kind = rng.choice([*PICTURES, *CONNECTIONS])
    data = post(picture(kind)) if kind in PICTURES else CONNECTIONS[kind]()
    reads, resets = rng.random() < 0.7, rng.random() < 0.3
    line = b""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(data)
                if reads:
                    line = await reader.readline()
                else:
                    await asyncio.sleep(rng.random())
            finally:
                if resets:
                    writer.transport.abort()
                writer.close()
    words = line.split()
    return f"{kind}: {words[1].decode() if len(words) > 1 else 'nothing'}"

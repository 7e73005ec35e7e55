"""What a request held is freed when it is over, and not when Python next looks for cycles."""

import base64
import gc
import gzip
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine
from tests.factories import encoded, picture
from tests.serving.conftest import LIMITS
from tests.serving.http.wire import Wire

PNG = encoded(picture(1))
LARGE, MUCH = b"a" * 80_000, 40_000  # bytes
JSON, FORM = b"application/json", b"multipart/form-data; boundary=x"
FILE = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
INFER = b"/v2/models/insects/infer"


def document(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


TENSOR = {"name": "pictures", "shape": [1], "datatype": "BYTES", "data": [LARGE.decode()]}
CASES = {
    "a picture": (PNG + LARGE, b"image/png"),
    "no picture": (LARGE, b"image/png"),
    "JSON": (document(images=[in_base64(PNG + LARGE[:50_000])]), JSON),
    "JSON of no picture": (document(images=[in_base64(LARGE[:60_000])]), JSON),
    "JSON of no base64": (document(images=["!" + LARGE.decode()]), JSON),
    "JSON of something else": (document(x=LARGE.decode()), JSON),
    "no JSON": (b'{"images": ["' + LARGE, JSON),
    "a form": (FILE + PNG + LARGE + b"\r\n--x--\r\n", FORM),
    "a form of no picture": (FILE + LARGE + b"\r\n--x--\r\n", FORM),
    "a form without an end": (FILE + LARGE, FORM),
    "too many files": (FILE + LARGE + (b"\r\n" + FILE) * 9, FORM),
    "no form": (FILE + LARGE + b"\r\n--x!", FORM),
    "a tensor": (document(inputs=[TENSOR]), JSON),
    "packed": (gzip.compress(PNG + LARGE), b"image/png"),
    "packed and cut off": (gzip.compress(LARGE)[:-9], b"image/png"),
}


@pytest_asyncio.fixture
async def wire(engine: Engine) -> AsyncIterator[Wire]:
    """Cycles are kept from the first request on, so that a test can look at what is in them."""
    wire = Wire(create_app(LIMITS, engine))
    yield wire
    gc.set_debug(0)
    gc.garbage.clear()


def large_ones_in_cycles() -> list[object]:
    """Bytes that only a collection of cycles would have freed."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    found = [each for each in gc.get_referents(*gc.garbage) if isinstance(each, bytes | bytearray)]
    return [each[:100] for each in found if len(each) > MUCH]


@pytest.mark.parametrize(("body", "media_type"), CASES.values(), ids=CASES)
async def test_no_bytes_of_a_request_stay_when_it_is_over(
    wire: Wire, body: bytes, media_type: bytes
) -> None:
    path = INFER if b"inputs" in body[:20] else b"/predict"
    packed = b"content-encoding: gzip\r\n" if body[:2] == b"\x1f\x8b" else b""
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
    gc.collect()
    gc.disable()
    try:
        end = wire.connect()
        end.send(head % (path, media_type, len(body), packed) + body)
        await wire.settle()
        assert len(end.statuses) == 1
        del end
        wire.lose_all()
        await wire.give_back()
        assert large_ones_in_cycles() == []
    finally:
        gc.enable()

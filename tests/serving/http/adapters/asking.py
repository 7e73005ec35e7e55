"""What the tests of all contracts share: one picture in every form, and its numbers."""

import base64
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.factories import encoded, picture

PNG = encoded(picture(1))
JPEG = encoded(picture(2), "JPEG", quality=95)
B64 = base64.b64encode(PNG).decode()
IMAGE = {"content-type": "image/png"}
MODEL, VERSION = "insects", "0badcafe"
TOLERANCE = 1e-6
Json = dict[str, Any]


async def probabilities(http: httpx.AsyncClient, *pictures: bytes) -> list[dict[str, float]]:
    """What `POST /predict` says of pictures, by class."""
    found = []
    for each in pictures or (PNG,):
        reply = await http.post("/predict", content=each, headers=IMAGE)
        assert reply.status_code == 200
        (prediction,) = reply.json()["predictions"]
        found.append({top["class"]: top["probability"] for top in prediction["top"]})
    return found


def of_predictions(predictions: Sequence[Json]) -> list[dict[str, float]]:
    """The probabilities by class in predictions of this server's own form."""
    return [{top["class"]: top["probability"] for top in each["top"]} for each in predictions]


def same(found: list[dict[str, float]], expected: list[dict[str, float]]) -> bool:
    """Whether all numbers are equal, and the classes in the same order."""
    return found == [pytest.approx(each, abs=TOLERANCE) for each in expected] and [
        list(each) for each in found
    ] == [list(each) for each in expected]

"""Requests of the Open Inference Protocol, as tests send them, and what their answers hold."""

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.pixels import decode_image
from tests.factories import CONTRACT, encoded, picture

PNGS = [encoded(picture(seed)) for seed in range(3)]
CHW = CONTRACT.shape
INFER = "/v2/models/insects/infer"
HEADER = "inference-header-content-length"
DTYPES = {"FP32": "<f4", "INT32": "<i4", "BOOL": "?", "UINT8": "u1"}
Json = dict[str, Any]


def pixels(count: int = 3) -> NDArray[np.uint8]:
    """images_NCHW that the pictures decode to."""
    C, H, W = CHW
    return np.stack([decode_image(png, channels=C, height=H, width=W) for png in PNGS[:count]])


def pictures_in_json(count: int = 3, **more: Any) -> Json:
    data = [base64.b64encode(png).decode() for png in PNGS[:count]]
    return {"name": "pictures", "datatype": "BYTES", "shape": [count], "data": data, **more}


def images_in_json(count: int = 3, **more: Any) -> Json:
    data = pixels(count).tolist()
    return {
        "name": "images", "datatype": "UINT8", "shape": [count, *CHW], "data": data, **more,
    }  # fmt: skip


def serialized(elements: Sequence[bytes]) -> bytes:
    """The bytes of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def binary_input(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Json:
    parameters = {"binary_data_size": len(raw)}
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": parameters}


def binary(document: Json, raw: bytes) -> dict[str, Any]:
    """What httpx is told to send a document with bytes behind it."""
    text = json.dumps(document).encode()
    headers = {"content-type": "application/octet-stream", HEADER: str(len(text))}
    return {"content": text + raw, "headers": headers}


def tensors_of(reply: httpx.Response) -> dict[str, Any]:
    """The outputs of an answer by their names, wherever their elements are."""
    assert reply.status_code == 200, reply.text
    size = int(reply.headers.get(HEADER, len(reply.content)))
    document, rest = json.loads(reply.content[:size]), reply.content[size:]
    found = {}
    for output in document["outputs"]:
        dtype, count = DTYPES.get(output["datatype"]), output.get("parameters")
        if count is None:
            values = output["data"]
        else:
            raw, rest = rest[: count["binary_data_size"]], rest[count["binary_data_size"] :]
            values = np.frombuffer(raw, dtype) if dtype else elements(raw)
        found[output["name"]] = np.array(values).reshape(output["shape"])
    assert not rest
    return found


def elements(raw: bytes) -> list[str]:
    found = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return found

"""Ask a server by tritonclient over HTTP, waiting or by asyncio: URL MODEL PICTURE..."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as sync
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

OUTPUTS = ("probabilities", "class", "member_probabilities", "entropy_nats")


def inputs(pictures: list[bytes]) -> list[Any]:
    tensor = sync.InferInput("pictures", [len(pictures)], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, dtype=object))
    return [tensor]


def outputs(*, is_binary: bool) -> list[Any]:
    return [sync.InferRequestedOutput(name, binary_data=is_binary) for name in OUTPUTS]


def arrays(result: Any) -> dict[str, Any]:
    found = {name: result.as_numpy(name) for name in OUTPUTS}
    found["class"] = [str(x, "utf-8") if isinstance(x, bytes) else x for x in found["class"]]
    return {name: np.asarray(each).tolist() for name, each in found.items()}


def waiting(host: str, model: str, pictures: list[bytes]) -> dict[str, Any]:
    client = sync.InferenceServerClient(host)
    try:
        client.infer("absent", inputs(pictures))
        refusal = None
    except InferenceServerException as error:
        refusal = [error.status(), error.message()]
    usual = client.infer(model, inputs(pictures), request_id="mine")
    asked = inputs(pictures)
    packed = client.infer(
        model, asked, outputs=outputs(is_binary=True), request_compression_algorithm="gzip"
    )
    classified = client.infer(
        model, asked, outputs=[sync.InferRequestedOutput("probabilities", class_count=2)]
    )
    return {
        "live": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)],
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(model),
        "usual": usual.as_numpy("probabilities").tolist(),
        "id": usual.get_response()["id"],
        "binary": arrays(packed),
        "json": arrays(client.infer(model, asked, outputs=outputs(is_binary=False))),
        "classified": [
            [str(each, "utf-8") for each in row] for row in classified.as_numpy("probabilities")
        ],
        "refusal": refusal,
    }


async def by_asyncio(host: str, model: str, pictures: list[bytes]) -> dict[str, Any]:
    async with aio.InferenceServerClient(host) as client:
        result = await client.infer(model, inputs(pictures), outputs=outputs(is_binary=True))
        return {"live": await client.is_server_ready(), "binary": arrays(result)}


if __name__ == "__main__":
    url, model, *files = sys.argv[1:]
    host, pictures = url.removeprefix("http://"), [Path(file).read_bytes() for file in files]
    found = waiting(host, model, pictures)
    found["aio"] = asyncio.run(by_asyncio(host, model, pictures))
    print(json.dumps(found))

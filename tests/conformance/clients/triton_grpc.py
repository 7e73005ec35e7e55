"""Ask a server by tritonclient over gRPC, waiting or by asyncio: HOST:PORT MODEL PICTURE..."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as sync
import tritonclient.grpc.aio as aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

OUTPUTS = ("probabilities", "class", "member_probabilities", "entropy_nats")


def inputs(pictures: list[bytes]) -> list[Any]:
    tensor = sync.InferInput("pictures", [len(pictures)], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, dtype=object))
    return [tensor]


def outputs() -> list[Any]:
    return [sync.InferRequestedOutput(name) for name in OUTPUTS]


def arrays(result: Any) -> dict[str, Any]:
    found = {name: result.as_numpy(name) for name in OUTPUTS}
    found["class"] = [str(each, "utf-8") for each in found["class"]]
    return {name: np.asarray(each).tolist() for name, each in found.items()}


def waiting(address: str, model: str, pictures: list[bytes]) -> dict[str, Any]:
    client = sync.InferenceServerClient(address)
    try:
        client.infer("absent", inputs(pictures))
        refusal = None
    except InferenceServerException as error:
        refusal = [error.status(), error.message()]
    usual = client.infer(model, inputs(pictures), request_id="mine", client_timeout=30)
    return {
        "live": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)],
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata(model, as_json=True),
        "usual": usual.as_numpy("probabilities").tolist(),
        "id": usual.get_response().id,
        "binary": arrays(
            client.infer(model, inputs(pictures), outputs=outputs(), compression_algorithm="gzip")
        ),
        "refusal": refusal,
    }


async def by_asyncio(address: str, model: str, pictures: list[bytes]) -> dict[str, Any]:
    async with aio.InferenceServerClient(address) as client:
        result = await client.infer(model, inputs(pictures), outputs=outputs())
        return {"live": await client.is_server_ready(), "binary": arrays(result)}


def messages() -> dict[str, Any]:
    """The fields of each message that the published protocol has, as the client declares them."""
    found: dict[str, Any] = {}

    def add(message: Any, name: str) -> None:
        found[name] = sorted([each.number, each.name, each.type] for each in message.fields)
        for inner in message.nested_types:
            add(inner, f"{name}.{inner.name}")

    for name, message in service_pb2.DESCRIPTOR.message_types_by_name.items():
        add(message, name)
    return found


if __name__ == "__main__":
    address, model, *files = sys.argv[1:]
    pictures = [Path(file).read_bytes() for file in files]
    found = waiting(address, model, pictures)
    found["aio"] = asyncio.run(by_asyncio(address, model, pictures))
    found["messages"] = messages()
    print(json.dumps(found))

"""Ask a server by KServe's clients, over HTTP and gRPC: URL HOST:PORT MODEL PICTURE..."""

import asyncio
import base64
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

# mypy would take a folder of docker/kubernetes, which has this name, for the package.
kserve: Any = importlib.import_module("kserve")


def request(model: str, pictures: list[bytes], *, is_binary: bool) -> Any:
    """KServe sends bytes in JSON as texts, so that pictures have to be base64 there."""
    elements = pictures if is_binary else [base64.b64encode(each) for each in pictures]
    tensor = kserve.InferInput("pictures", [len(pictures)], "BYTES")
    tensor.set_data_from_numpy(np.array(elements, dtype=object), binary_data=is_binary)
    return kserve.InferRequest(model_name=model, infer_inputs=[tensor], request_id="mine")


def typed(model: str, pictures: list[bytes]) -> Any:
    tensor = kserve.InferInput("pictures", [len(pictures)], "BYTES", data=pictures)
    return kserve.InferRequest(model_name=model, infer_inputs=[tensor])


def arrays(result: Any) -> dict[str, Any]:
    found = {each.name: each.as_numpy() for each in result.outputs}
    names = [x.decode() if isinstance(x, bytes) else str(x) for x in found["class"]]
    return {"probabilities": found["probabilities"].tolist(), "class": names}


async def ask(url: str, address: str, model: str, pictures: list[bytes]) -> dict[str, Any]:
    rest = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    rpc = kserve.InferenceGRPCClient(address)
    kinds = {
        name: request(model, pictures, is_binary=name == "binary") for name in ("binary", "json")
    }
    found: dict[str, Any] = {
        name: arrays(await rest.infer(url, each, model_name=model)) for name, each in kinds.items()
    }
    found["grpc"] = arrays(await rpc.infer(kinds["binary"]))
    found["grpc typed"] = arrays(await rpc.infer(typed(model, pictures)))
    found["live"] = [
        await rest.is_server_live(url), await rest.is_server_ready(url),
        await rest.is_model_ready(url, model), await rpc.is_server_live(),
        await rpc.is_server_ready(), await rpc.is_model_ready(model),
    ]  # fmt: skip
    await rest.close()
    await rpc.close()
    return found


if __name__ == "__main__":
    url, address, model, *files = sys.argv[1:]
    pictures = [Path(file).read_bytes() for file in files]
    print(json.dumps(asyncio.run(ask(url, address, model, pictures))))

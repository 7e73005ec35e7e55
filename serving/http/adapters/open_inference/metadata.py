"""What the protocol says of this server and of its models; both transports give it."""

import json
from functools import cache
from importlib.metadata import version
from typing import Any

from snapensemble.serving.http.adapters.open_inference.inputs import IMAGES, PICTURES
from snapensemble.serving.http.adapters.open_inference.outputs import OUTPUTS
from snapensemble.serving.http.service import Model, Service

SERVER = "snapensemble"
PLATFORM = "snapensemble_onnx"
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "parameters")


@cache
def server_metadata() -> dict[str, Any]:
    """The name, the version and the extensions of this server; nobody may change what comes."""
    return {"name": SERVER, "version": version(SERVER), "extensions": list(EXTENSIONS)}


def model_metadata(service: Service, model: Model) -> dict[str, Any]:
    """The inputs of a model, of which a request has one, and the outputs that it can ask for."""
    bundle = model.engine.bundle
    return {
        "name": model.name,
        "versions": list(service.models[model.name]),
        "platform": PLATFORM,
        "inputs": [
            {"name": PICTURES, "datatype": "BYTES", "shape": [-1]},
            {"name": IMAGES, "datatype": "UINT8", "shape": [-1, *bundle.image.shape]},
        ],
        "outputs": [
            {"name": name, "datatype": each.datatype, "shape": [-1, *each.shape(bundle)]}
            for name, each in OUTPUTS.items()
            if each.needs is None
        ],
        "properties": {
            "classes": json.dumps(bundle.classes, ensure_ascii=False),
            "members": json.dumps([each.name for each in bundle.members]),
            "inputs_per_request": f"one: {PICTURES} or {IMAGES}",
            "outputs_with_parameters": json.dumps(
                {name: each.needs for name, each in OUTPUTS.items() if each.needs is not None}
            ),
            "images_per_request": str(service.settings.max_images_per_request),
        },
    }

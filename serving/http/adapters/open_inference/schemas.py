"""What the OpenAPI document says of this protocol's requests and answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from snapensemble.serving.http.adapters.open_inference.document import HEADER

BYTES = {"type": "string", "format": "binary"}
JSON_BYTES = {
    "name": HEADER,
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "how many bytes of the body are JSON; the rest are the tensors' own. 0: the "
    "body is one encoded picture",
}
_PARAMETERS = {"type": "object", "additionalProperties": True}
_TENSOR = {
    "type": "object",
    "properties": {
        "name": {"enum": ["pictures", "images"]},
        "datatype": {"enum": ["BYTES", "UINT8"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "parameters": _PARAMETERS,
        "data": {"type": "array", "items": {}},
    },
    "required": ["name", "datatype", "shape"],
}
_OUTPUT = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
    "required": ["name"],
}
_REQUEST = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": _OUTPUT},
    },
    "required": ["inputs"],
}
INFER_BODY = {
    "required": True,
    "description": (
        "One input: `pictures` BYTES [N], encoded pictures, in JSON as base64; or `images` UINT8 "
        "[N,C,H,W], pixels of the model's size."
    ),
    "content": {
        "application/json": {"schema": _REQUEST},
        "application/octet-stream": {"schema": BYTES},
    },
}


class Live(BaseModel):
    """GET /v2/health/live."""

    live: Literal[True]


class Ready(BaseModel):
    """GET /v2/health/ready."""

    ready: Literal[True]


class ModelReady(BaseModel):
    """GET /v2/models/M/ready."""

    name: str
    ready: Literal[True]


class ServerMetadata(BaseModel):
    """GET /v2."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """The name and the kind of a tensor; -1 stands for any number of images."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """GET /v2/models/M."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str]


class OutputTensor(TensorMetadata):
    """A tensor of an answer: its data, or its parameters where they are behind the JSON."""

    model_config = ConfigDict(extra="forbid")

    parameters: Annotated[dict[str, Any] | None, Field(description="binary_data_size")] = None
    data: Annotated[list[Any] | None, Field(description="row by row")] = None


class InferResponse(BaseModel):
    """POST /v2/models/M/infer."""

    model_name: str
    model_version: str
    id: Annotated[str | None, Field(description="that of the request, if it has one")] = None
    parameters: Annotated[
        dict[str, Any] | None, Field(description="partial: true where a deadline cut members off")
    ] = None
    outputs: list[OutputTensor]

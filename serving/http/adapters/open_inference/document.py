"""The body of an infer request, with or without binary tensors behind its JSON. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snapensemble.serving.errors import InvalidTensor
from snapensemble.serving.http.adapters.open_inference.inputs import PICTURES, Tensor
from snapensemble.serving.http.adapters.open_inference.outputs import Requested
from snapensemble.serving.http.adapters.open_inference.parameters import BINARY
from snapensemble.serving.http.media.json_guard import parsed_json

HEADER = "Inference-Header-Content-Length"
EXPECTED = 'expected {"inputs": [{"name", "datatype", "shape", "data"}]}'
MAX_ID = 1000  # characters
MAX_DIGITS = 12  # of a length in a header


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request of this protocol says; raises InvalidTensor if its id is too long."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Requested] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    identity: str | None = None  # repeated by the answer
    is_binary: bool = False  # whether outputs that it does not name come as bytes

    def __post_init__(self) -> None:
        if self.identity is not None and len(self.identity) > MAX_ID:
            raise InvalidTensor(f"id: expected a text of at most {MAX_ID:,} characters")


def header_length(value: bytes | None) -> int | None:
    """How many bytes of a body are JSON, by the header that says so; None: all of them.

    Raises:
        InvalidTensor: it is no number.
    """
    if value is None:
        return None
    if not value.isdigit() or len(value) > MAX_DIGITS:
        raise InvalidTensor(
            f"{HEADER}: found {value[:40].decode('latin-1')!r}, expected how many bytes of the "
            "body are JSON"
        )
    return int(value)


def one_picture(body: bytes) -> Asked:
    """What a body asks that is one picture and nothing else, by a header of 0."""
    return Asked([Tensor(PICTURES, "BYTES", (1,), values=[body])], is_binary=True)


def split(body: bytes, json_bytes: int | None) -> tuple[bytes, memoryview | None]:
    """The JSON of a body, and the bytes behind it; None where no header says that there are any.

    Raises:
        InvalidTensor: the header says that there is more JSON than body.
    """
    if json_bytes is None:
        return body, None
    if json_bytes > len(body):
        raise InvalidTensor(
            f"{HEADER}: found {json_bytes:,}, expected at most the {len(body):,} bytes of the body"
        )
    return body[:json_bytes], memoryview(body)[json_bytes:]


def asked_of(text: bytes, binary: memoryview | None, *, most: int) -> Asked:
    """What a document asks.

    Args:
        text: the JSON.
        binary: the bytes behind it; None where no header says that there are any.
        most: how many values the JSON may have.

    Raises:
        MalformedBody: the JSON is none, or has more values.
        InvalidTensor: something has another type, or the sizes do not add up.
    """
    document = parsed_json(text, expected=f"{EXPECTED}; send large tensors as bytes", most=most)
    if not isinstance(document, dict):
        raise InvalidTensor(f"found {type(document).__name__}, {EXPECTED}")
    parameters = _parameters(document, "the request")
    inputs, rest = [], binary
    for item in _items(document, "inputs"):
        tensor, rest = _input(item, rest)
        inputs.append(tensor)
    if rest:
        raise InvalidTensor(
            f"binary_data_size: the sizes of all inputs leave {len(rest):,} bytes of the body, "
            "expected none"
        )
    is_binary = _flag(parameters, BINARY, otherwise=False)
    outputs = [_output(item, is_binary) for item in _items(document, "outputs")]
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InvalidTensor(f"id: expected a text, found {type(identity).__name__}")
    return Asked(inputs, outputs, parameters, identity, is_binary)


def _input(item: Any, rest: memoryview | None) -> tuple[Tensor, memoryview | None]:
    """One input, and the bytes of those that come after it."""
    name, parameters = _name(item, "inputs"), _parameters(item, "inputs")
    datatype, shape = item.get("datatype"), item.get("shape")
    if not isinstance(datatype, str):
        raise InvalidTensor(f"{name}: expected a datatype, a text")
    if not isinstance(shape, list) or any(type(each) is not int for each in shape):
        raise InvalidTensor(f"{name}: expected a shape, a list of integers")
    values, size = item.get("data"), parameters.get("binary_data_size")
    if (values is None) == (size is None):
        raise InvalidTensor(
            f"{name}: found {'neither' if size is None else 'both'}, expected data or the "
            "parameter binary_data_size"
        )
    if size is None:
        if not isinstance(values, list):
            raise InvalidTensor(f"{name}: expected data as a list")
        return Tensor(name, datatype, shape, values=values), rest
    if type(size) is not int or size < 0:
        raise InvalidTensor(f"{name}: expected binary_data_size as a number of bytes")
    if rest is None:
        raise InvalidTensor(f"{name}: binary_data_size needs the header {HEADER}")
    if size > len(rest):
        raise InvalidTensor(
            f"{name}: binary_data_size is {size:,}, the body has {len(rest):,} bytes for it"
        )
    return Tensor(name, datatype, shape, raw=rest[:size]), rest[size:]


def _output(item: Any, is_binary: bool) -> Requested:
    return requested(_name(item, "outputs"), _parameters(item, "outputs"), is_binary=is_binary)


def requested(name: str, parameters: Mapping[str, Any], *, is_binary: bool) -> Requested:
    """An output that a request names.

    Args:
        name: of the output.
        parameters: of the output.
        is_binary: how its elements come where the parameters do not say so.

    Raises:
        InvalidTensor: a parameter is not right, or cannot be granted.
    """
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidTensor(f"{name[:80]}: expected classification as a number of classes")
    if "shared_memory_region" in parameters:
        raise InvalidTensor(f"{name[:80]}: this server shares no memory with its clients")
    return Requested(name, classes, _flag(parameters, "binary_data", otherwise=is_binary))


def _items(document: dict[str, Any], key: str) -> list[Any]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise InvalidTensor(f"{key}: found {type(found).__name__}, expected a list")
    return found


def _name(item: Any, key: str) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str):
        raise InvalidTensor(f"{key}: expected objects with a name, a text")
    return name if len(name) <= 80 else f"{name[:80]}…"


def _parameters(item: dict[str, Any], where: str) -> dict[str, Any]:
    found = item.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidTensor(f"{where}: expected parameters as an object")
    return found


def _flag(parameters: Mapping[str, Any], name: str, *, otherwise: bool) -> bool:
    found = parameters.get(name, otherwise)
    if not isinstance(found, bool):
        raise InvalidTensor(f"{name}: expected true or false")
    return found

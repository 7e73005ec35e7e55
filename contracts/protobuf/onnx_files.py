"""What an ONNX file may hold: a graph of standard operators and its weights, no more.

ONNX Runtime follows what a file says: weights can lie in another file, by a path; a node can name
a file that a device's compiler wrote; functions can double at each of a hundred levels; and what
is no ONNX but its own format is read by another parser. No member needs any of it. So a file is
walked through before ONNX Runtime sees it, by the wire format of protocol buffers alone: serving
installs no package for ONNX, and this reader does nothing that a file tells it. It is pure.

Field numbers are those of `onnx.proto`: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from snapensemble.contracts.errors import SnapensembleError
from snapensemble.contracts.protobuf.fields import DamagedMessage, fields

MAX_DEPTH = 32  # of messages inside each other; a graph inside a node inside a graph takes three
MAX_FIELDS = 1_000_000  # a large network has tens of thousands
STANDARD_DOMAINS = (b"", b"ai.onnx")


class RefusedOnnx(SnapensembleError):
    """A file that is no ONNX file, or that asks for more than a member needs."""


# Which fields of a message are messages that hold weights or operators.
_MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "TensorProto": {},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
_REFUSED = {
    ("ModelProto", 20): "a training algorithm",
    ("ModelProto", 25): "functions of its own",
    ("TensorProto", 13): "weights in another file",  # external_data
}
_DATA_LOCATION = ("TensorProto", 14)
_DOMAIN = ("NodeProto", 7)


def check_onnx(data: bytes) -> None:
    """Refuse a file with anything but one graph of standard operators that holds its own weights.

    Args:
        data: the bytes of the file.

    Raises:
        RefusedOnnx: the file holds anything else, or is damaged; the message says what.
    """
    try:
        graphs = _checked_graphs(memoryview(data))
    except DamagedMessage as error:
        raise RefusedOnnx(f"no ONNX file, or not a whole one: {error}") from None
    if graphs != 1:
        raise RefusedOnnx(f"no ONNX file: expected one graph, found {graphs}")


def _checked_graphs(model: memoryview) -> int:
    """How many graphs there are, when every field has been looked at."""
    count = graphs = 0
    pending = [("ModelProto", model, 1)]
    while pending:
        message, part, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise RefusedOnnx(f"it has messages inside each other beyond {MAX_DEPTH} levels")
        for number, value in fields(part):
            count += 1
            if count > MAX_FIELDS:
                raise RefusedOnnx(f"it has more than {MAX_FIELDS:,} fields")
            _refuse(message, number, value)
            inner = _MESSAGES[message].get(number)
            # A message in a field that cannot hold one is passed over, by ONNX Runtime too.
            if inner is not None and isinstance(value, memoryview):
                pending.append((inner, value, depth + 1))
                graphs += message == "ModelProto"
    return graphs


def _refuse(message: str, number: int, value: int | memoryview) -> None:
    field = (message, number)
    if field in _REFUSED:
        raise RefusedOnnx(f"it has {_REFUSED[field]}; a member must be whole by itself")
    if field == _DATA_LOCATION and value != 0:
        raise RefusedOnnx("it has weights in another file; a member must be whole by itself")
    if field == _DOMAIN and isinstance(value, memoryview):
        domain = bytes(value[:40])
        if domain not in STANDARD_DOMAINS:
            raise RefusedOnnx(
                f"it has an operator of {domain!r}; expected those of the ONNX standard only"
            )

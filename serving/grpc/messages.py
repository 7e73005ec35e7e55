"""The protocol's messages, made from their fields here, so that no generated code is shipped.

Names, numbers and types are those of the published protocol (kserve/open-inference-protocol,
specification/protocol/open_inference_grpc.proto), and of gRPC's health checks
(grpc/grpc-proto, grpc/health/v1/health.proto). They are in a pool of their own: a process may
import another package's `inference` messages beside them.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from snapensemble.serving.errors import MalformedBody
from snapensemble.serving.grpc.message_guard import check_fields

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
IS_SERVING, IS_NOT_SERVING = 1, 2  # of health checks
Fields = Mapping[str, tuple[int, str]]  # name: number, type

PARAMETERS = "map InferParameter"
TENSOR_METADATA: Fields = {
    "name": (1, "string"),
    "datatype": (2, "string"),
    "shape": (3, "repeated int64"),
}
TENSOR: Fields = {
    **TENSOR_METADATA,
    "parameters": (4, PARAMETERS),
    "contents": (5, "InferTensorContents"),
}
# A message whose name has a dot is declared inside another, which comes before it.
MESSAGES: Mapping[str, Fields] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, "string"),
        "version": (2, "string"),
        "extensions": (3, "repeated string"),
    },
    "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "repeated string"),
        "platform": (3, "string"),
        "inputs": (4, "repeated ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "repeated ModelMetadataResponse.TensorMetadata"),
        "properties": (6, "map string"),
    },
    "ModelMetadataResponse.TensorMetadata": TENSOR_METADATA,
    "InferParameter": {
        "bool_param": (1, "bool"),
        "int64_param": (2, "int64"),
        "string_param": (3, "string"),
        "double_param": (4, "double"),
        "uint64_param": (5, "uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint32"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, PARAMETERS),
        "inputs": (5, "repeated ModelInferRequest.InferInputTensor"),
        "outputs": (6, "repeated ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferRequest.InferInputTensor": TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": {
        "name": (1, "string"),
        "parameters": (2, PARAMETERS),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, PARAMETERS),
        "outputs": (5, "repeated ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
    "ModelInferResponse.InferOutputTensor": TENSOR,
}
# Their package is not in their bytes, as little as that the status is an enum.
HEALTH_MESSAGES: Mapping[str, Fields] = {
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int32")},
}
CHOICE = "parameter_choice"  # the one that a parameter has of its fields
FIELD = descriptor_pb2.FieldDescriptorProto


def message_classes() -> dict[str, Any]:
    """The class of each message, by its name in `MESSAGES` or `HEALTH_MESSAGES`."""
    messages = {**MESSAGES, **HEALTH_MESSAGES}
    file = descriptor_pb2.FileDescriptorProto(
        name="snapensemble/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in messages.items():
        outer, _, short = name.rpartition(".")
        message = made[outer].nested_type.add() if outer else file.message_type.add()
        message.name, made[name] = short, message
        for field, (number, kind) in fields.items():
            _add_field(message, field, number, kind, scope=name)
    _make_a_choice(made["InferParameter"])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in messages
    }


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str, *, scope: str
) -> None:
    field = message.field.add(name=name, number=number, label=FIELD.LABEL_OPTIONAL)
    is_several, _, kind_of_one = kind.rpartition(" ")
    if is_several:
        field.label = FIELD.LABEL_REPEATED
    if is_several == "map":  # in bytes, a repeated message of a key and a value
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string", scope=scope)
        _add_field(entry, "value", 2, kind_of_one, scope=scope)
        kind_of_one = f"{scope}.{entry.name}"
    if kind_of_one[0].isupper():
        field.type, field.type_name = FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind_of_one}"
    else:
        field.type = FIELD.Type.Value(f"TYPE_{kind_of_one.upper()}")


def _make_a_choice(message: descriptor_pb2.DescriptorProto) -> None:
    message.oneof_decl.add(name=CHOICE)
    for field in message.field:
        field.oneof_index = 0


CLASSES = message_classes()


def parsed(kind: str, raw: bytes) -> Any:
    """The message of a kind that bytes hold.

    Raises:
        MalformedBody: they hold none, or one of too many fields.
    """
    check_fields(raw, CLASSES[kind].DESCRIPTOR)
    try:
        return CLASSES[kind].FromString(raw)
    except DecodeError as error:
        raise MalformedBody(f"the message is no {kind}: {error}") from None

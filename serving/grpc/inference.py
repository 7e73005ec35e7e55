"""ModelInfer: a message -> the call that all contracts make -> a message.

Shapes: N images.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from snapensemble.serving.errors import InvalidTensor
from snapensemble.serving.grpc.messages import CHOICE, CLASSES, SERVICE, parsed
from snapensemble.serving.http.adapters.adapter import (
    Head,
    InferenceRequest,
    InferenceResponse,
    Reply,
)
from snapensemble.serving.http.adapters.open_inference.document import Asked, requested
from snapensemble.serving.http.adapters.open_inference.inputs import Tensor, images_of
from snapensemble.serving.http.adapters.open_inference.outputs import (
    OutputTensor,
    is_partial,
    tensors,
    wanted_outputs,
)
from snapensemble.serving.http.adapters.open_inference.parameters import BINARY, options_with
from snapensemble.serving.http.body import beside
from snapensemble.serving.http.exchange import RequestState
from snapensemble.serving.http.prediction import Call, answer
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.http.service import Service
from snapensemble.serving.inference.admission import PendingRequest

# Bytes that are held for each byte of a message while it is parsed: the parser's own, and those of
# the tensors made of it. A number in a typed list takes a byte of the message and four of these.
RAW_GROWTH, TYPED_GROWTH = 2, 6
MEDIA_TYPE = "application/grpc"
INFER = f"/{SERVICE}/ModelInfer"
# The list of a message that has the elements of a datatype.
LISTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "UINT8": "uint_contents",
    "FP32": "fp32_contents",
    "BYTES": "bytes_contents",
}
# The longest deadline that the options take; one beyond it is none.
MOST_S = 3600.0
# What of the time that a client gives is left for the answer's way.
RESERVE, MOST_RESERVE_S = 0.1, 0.05


async def infer(
    service: Service,
    raw: bytes,
    headers: Mapping[bytes, bytes],
    within_s: float | None,
    state: RequestState,
) -> bytes:
    """Answer one call.

    Args:
        service: what the answer comes from.
        raw: the bytes of the message.
        headers: the call's metadata.
        within_s: seconds until the client's deadline; None without one.
        state: what is written of the call.

    Raises:
        ServingError: the call gets no prediction.
    """
    message = parsed("ModelInferRequest", raw)
    params = {"model": message.model_name or None, "version": message.model_version or None}
    left = [message]  # taken by whoever reads it, so that it does not wait for the answer
    del message

    async def read(request: PendingRequest, head: Head, _: float) -> InferenceRequest:
        return await read_message(left.pop(), len(raw), request, head)

    options = options_within(within_s)
    # The transport keeps the bytes to the end of the call.
    memory = service.model(params["model"], params["version"]).admission.memory
    memory.hold(len(raw))
    try:
        named = {name: each for name, each in params.items() if each}
        call = Call(INFER, named, headers, options, read)
        reply = await answer(service, call, state)
    finally:
        memory.let_go(len(raw))
    return reply.content


def options_within(within_s: float | None) -> PredictOptions:
    """The options of a call whose client waits so long: to answer a little earlier."""
    if within_s is None or within_s > MOST_S:
        return PredictOptions()
    reserve_s = min(MOST_RESERVE_S, RESERVE * max(0.0, within_s))
    return PredictOptions(deadline_ms=max(1, math.floor((within_s - reserve_s) * 1000)))


async def read_message(
    message: Any, size: int, request: PendingRequest, head: Head
) -> InferenceRequest:
    """The pictures of a message, its options, and how its outputs are put.

    Args:
        message: a ModelInferRequest.
        size: how many bytes it had.
        request: holds what is made of it.
        head: says what the model takes.
    """
    request.hold(size * (RAW_GROWTH if message.raw_input_contents else TYPED_GROWTH))
    asked = asked_of(message)
    options = options_with(head.options, asked.parameters)
    if head.options.deadline_ms is not None and options.deadline_ms is not None:
        nearest = min(options.deadline_ms, head.options.deadline_ms)
        options = options.model_copy(update={"deadline_ms": nearest})
    wanted = wanted_outputs(asked.outputs, options, is_binary=asked.is_binary)
    shape, limit = head.bundle.image.shape, head.settings.max_images_per_request
    images = await beside(size, partial(images_of, asked.inputs, shape, limit=limit))
    return InferenceRequest(
        images, options, partial(encoded, asked.identity or "", wanted, asked.is_binary)
    )


def asked_of(message: Any) -> Asked:
    """What a ModelInferRequest asks; its numbers are not checked yet.

    Raises:
        InvalidTensor: its tensors are neither all raw nor all typed.
    """
    raw, parameters = message.raw_input_contents, _parameters(message)
    if raw and (len(raw) != len(message.inputs) or _have_contents(message.inputs)):
        raise InvalidTensor(
            f"raw_input_contents: found {len(raw)} for {len(message.inputs)} inputs, expected one "
            "for each and no contents beside them, or contents alone"
        )
    inputs = [
        Tensor(each.name, each.datatype, each.shape, raw=memoryview(raw[place]))
        if raw
        else Tensor(each.name, each.datatype, each.shape, values=_contents(each))
        for place, each in enumerate(message.inputs)
    ]
    outputs = [requested(each.name, _parameters(each), is_binary=False) for each in message.outputs]
    is_binary = parameters.get(BINARY, bool(raw))
    if not isinstance(is_binary, bool):
        raise InvalidTensor(f"{BINARY}: expected true or false")
    return Asked(inputs, outputs, parameters, message.id, is_binary)


def _have_contents(inputs: Sequence[Any]) -> bool:
    return any(each.HasField("contents") for each in inputs)


def _contents(tensor: Any) -> Sequence[Any]:
    """The elements of a typed tensor: of its datatype's list, and no other may have any."""
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    expected = LISTS.get(tensor.datatype)
    if filled != [expected]:
        raise InvalidTensor(
            f"{tensor.name[:80]}: found {', '.join(filled) or 'no contents'}, expected "
            f"{expected or 'BYTES or UINT8'} for {tensor.datatype[:80]!r}, or raw_input_contents"
        )
    found: Sequence[Any] = getattr(tensor.contents, filled[0])
    return found


def _parameters(message: Any) -> dict[str, Any]:
    found = {}
    for name, each in message.parameters.items():
        choice = each.WhichOneof(CHOICE)
        if choice is None:
            raise InvalidTensor(f"parameters: {name[:80]!r} has no value")
        found[name] = getattr(each, choice)
    return found


def encoded(
    identity: str, wanted: Sequence[Any], is_raw: bool, answered: InferenceResponse
) -> Reply:
    """The bytes of a ModelInferResponse; its elements are raw where those of the request were."""
    message = CLASSES["ModelInferResponse"](
        model_name=answered.name, model_version=answered.version, id=identity
    )
    if is_partial(answered):
        message.parameters["partial"].bool_param = True
    for tensor in tensors(answered, wanted):
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if is_raw:
            message.raw_output_contents.append(tensor.raw())
        else:
            _fill(output.contents, tensor)
    return Reply(message.SerializeToString(), MEDIA_TYPE)


def _fill(contents: Any, tensor: OutputTensor) -> None:
    elements = tensor.flat()
    if tensor.datatype == "BYTES":
        elements = [text.encode() for text in elements]
    getattr(contents, LISTS[tensor.datatype]).extend(elements)

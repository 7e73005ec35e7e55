"""A server for gRPC inside the test's event loop, and a client of the same package."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("grpc", reason="gRPC is not tried: pip install 'snapensemble[grpc]'")

import grpc

from snapensemble.serving.grpc.messages import CLASSES, HEALTH, SERVICE
from snapensemble.serving.grpc.server import GrpcServer
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.service import Service
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.process.grpc_port import grpc_port_taken
from snapensemble.serving.settings import Settings
from tests.serving.http.open_inference.asking import CHW, DTYPES, PNGS, elements, pixels, serialized

Message = Any  # of a class that is made when the program runs


class Client:
    """Calls the methods of the service by their names."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)

    def call(
        self, method: str, message: Message | bytes, *, service: str = SERVICE, **how: Any
    ) -> Any:
        """Begin a call; what comes can be awaited and cancelled."""
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        parse = CLASSES[f"{'Health' if service == HEALTH else ''}{method}Response"].FromString
        stub = self.channel.unary_unary(f"/{service}/{method}", response_deserializer=parse)
        return stub(raw, **{"timeout": 30, **how})


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, engine: Engine
) -> AsyncIterator[tuple[Client, GrpcServer, Service]]:
    """A server on a free port, and a client of it."""
    with grpc_port_taken(settings.model_copy(update={"grpc_port": 0})) as settings:
        service: Service = create_app(settings, engine).state.service
        server = GrpcServer(service, memory=engine.admission.memory)
        await server.start()
        client = Client(str(settings.grpc_address))
        try:
            async with client.channel:
                yield client, server, service
        finally:
            await server.stop(0)


def request(*inputs: Message, **fields: Any) -> Message:
    return CLASSES["ModelInferRequest"](model_name="insects", inputs=inputs, **fields)


def tensor(name: str, datatype: str, shape: Sequence[int], **contents: Any) -> Message:
    made = CLASSES["ModelInferRequest.InferInputTensor"](name=name, datatype=datatype, shape=shape)
    if contents:
        made.contents.MergeFrom(CLASSES["InferTensorContents"](**contents))
    return made


def output(name: str) -> Message:
    return CLASSES["ModelInferRequest.InferRequestedOutputTensor"](name=name)


def raw_pictures(count: int = 3, **fields: Any) -> Message:
    raw = serialized(PNGS[:count])
    return request(tensor("pictures", "BYTES", [count]), raw_input_contents=[raw], **fields)


def forms() -> list[Message]:
    """The same three images in every form that the protocol has."""
    shape = [3, *CHW]
    return [
        raw_pictures(),
        request(tensor("images", "UINT8", shape), raw_input_contents=[pixels().tobytes()]),
        request(tensor("pictures", "BYTES", [3], bytes_contents=PNGS)),
        request(tensor("images", "UINT8", shape, uint_contents=pixels().ravel().tolist())),
    ]


def tensors_of(answer: Message) -> dict[str, Any]:
    """The outputs of an answer by their names, raw or typed."""
    found = {}
    for place, each in enumerate(answer.outputs):
        dtype = DTYPES.get(each.datatype)
        if answer.raw_output_contents:
            raw = answer.raw_output_contents[place]
            values: Any = np.frombuffer(raw, dtype) if dtype else elements(raw)
        else:
            ((_, values),) = each.contents.ListFields()
            values = list(values) if dtype else [text.decode() for text in values]
        found[each.name] = np.array(values).reshape(list(each.shape))
    return found

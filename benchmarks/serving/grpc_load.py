"""Asks a server for predictions over gRPC, by messages that are prepared before."""

from collections.abc import Sequence

from snapensemble.bench.load import Answer, Ask
from snapensemble.serving.grpc.messages import CLASSES

CHANNELS = 4  # connections of the client
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


def messages(
    model: str, pictures: Sequence[bytes], *, tensor: str = "pictures", shape: Sequence[int] = (1,)
) -> list[bytes]:
    """A ModelInferRequest for each encoded picture, which is the one element of a tensor."""
    head = CLASSES["ModelInferRequest.InferInputTensor"](name=tensor, datatype="BYTES", shape=shape)
    return [
        CLASSES["ModelInferRequest"](
            model_name=model,
            inputs=[head],
            raw_input_contents=[len(each).to_bytes(4, "little") + each],
        ).SerializeToString()
        for each in pictures
    ]


class GrpcClient:
    """Connections to `address`, which requests take in turns. Needs a running event loop."""

    def __init__(self, address: str) -> None:
        import grpc

        self._failure = grpc.aio.AioRpcError
        own_pool = [("grpc.use_local_subchannel_pool", 1)]  # or all share one connection
        self._channels = [
            grpc.aio.insecure_channel(address, options=own_pool) for _ in range(CHANNELS)
        ]
        self._stubs = [channel.unary_unary(MODEL_INFER) for channel in self._channels]

    async def infer(self, number: int, message: bytes) -> bytes:
        """The answer's message; raises what gRPC raises."""
        answer: bytes = await self._stubs[number % CHANNELS](message)
        return answer

    def asker(self, prepared: Sequence[bytes]) -> Ask:
        """What asks with the messages in turns, and tells the status of a failure."""

        async def ask(number: int) -> Answer:
            try:
                await self.infer(number, prepared[number % len(prepared)])
            except self._failure as error:
                return Answer(error.code().name)
            return Answer()

        return ask

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()

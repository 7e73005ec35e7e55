"""MLServer with adaptive batching, over the protocol that it speaks (V2, base64 in JSON).

The workers are those of `mlserver_plain`. `max_batch_time` is 1 ms: its page "Adaptive Batching"
leaves the value to experiments; a lone picture waits that long.
"""

import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.apps.members import MAX_BATCH_SIZE, Members
from benchmarks.peers.apps.mlserver_plain import serve


class Ensemble(MLModel):  # type: ignore[misc] # not installed here
    """Answers pictures together."""

    async def load(self) -> bool:
        """Load the members in a worker."""
        self.members = Members()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The answers, each as JSON in a string."""
        pictures = Base64Codec.decode_input(payload.inputs[0])
        images = [self.members.decode(picture) for picture in pictures]
        texts = [
            json.dumps(self.members.answer(probs_K)) for probs_K in self.members.ask_all(images)
        ]
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("answers", texts)]
        )


if __name__ == "__main__":
    serve(
        "benchmarks.peers.apps.mlserver_batch.Ensemble",
        max_batch_size=MAX_BATCH_SIZE,
        max_batch_time=0.001,
    )

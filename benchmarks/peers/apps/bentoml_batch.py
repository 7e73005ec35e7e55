"""BentoML with adaptive batching, otherwise as `bentoml_plain`.

A batchable interface takes a list, so a picture comes as a form with one file; its page "Adaptive
batching" shows this. The limit of latency is far above what any request takes here: near it BentoML
refuses requests.
"""

from typing import Any

import bentoml
from PIL.Image import Image as Picture

from benchmarks.peers.apps.bentoml_plain import bytes_of, serve
from benchmarks.peers.apps.members import CORES, MAX_BATCH_SIZE, Members


@bentoml.service(workers=CORES)
class Ensemble:
    """Answers pictures together, one batch at a time in each worker."""

    def __init__(self) -> None:
        self.members = Members()

    @bentoml.api(  # type: ignore[untyped-decorator] # not installed here
        route="/predict", batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=10_000
    )
    def predict(self, images: list[Picture]) -> list[dict[str, Any]]:  # noqa: D102
        decoded = [self.members.decode(bytes_of(image)) for image in images]
        return [self.members.answer(probs_K) for probs_K in self.members.ask_all(decoded)]


if __name__ == "__main__":
    serve("benchmarks.peers.apps.bentoml_batch")

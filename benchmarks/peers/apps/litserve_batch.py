"""LitServe with batching, otherwise as `litserve_plain`.

The page "Batching" leaves `batch_timeout` to the user; it is 1 ms here. With 0, the default, idle
workers never sleep and take a core each (LitServe 0.2.19, `collate_requests`); with more, each lone
picture waits that long.
"""

from benchmarks.peers.apps.litserve_plain import Api
from benchmarks.peers.apps.litserve_plain import serve as serve_api
from benchmarks.peers.apps.members import MAX_BATCH_SIZE, Image
from snapensemble.contracts.metrics import Floats


class BatchApi(Api):
    """Answers pictures together."""

    def batch(self, inputs: list[Image]) -> list[Image]:  # noqa: D102
        return inputs

    def predict(self, images: list[Image]) -> list[Floats]:  # type: ignore[override] # noqa: D102
        return self.members.ask_all(images)

    def unbatch(self, output: list[Floats]) -> list[Floats]:  # noqa: D102
        return output


if __name__ == "__main__":
    serve_api(BatchApi(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.001))

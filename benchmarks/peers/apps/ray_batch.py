"""Ray Serve with dynamic batching, otherwise as `ray_plain`.

The page "Dynamic Request Batching" has `batch_wait_timeout_s` small where latency counts: 1 ms
here, which every lone picture waits. Decoding and members are both done for a whole batch; the
event loop of a replica is busy meanwhile and the next batch gathers.
"""

from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from benchmarks.peers.apps.members import MAX_BATCH_SIZE, Members
from benchmarks.peers.apps.ray_plain import OPTIONS, serve_until_signal


@serve.deployment(**OPTIONS)
class Ensemble:
    """Answers pictures together."""

    def __init__(self) -> None:
        self.members = Members()

    @serve.batch(  # type: ignore[untyped-decorator] # not installed here
        max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=0.001
    )
    async def ask(self, pictures: list[bytes]) -> list[dict[str, Any]]:
        """The answers to some pictures."""
        images = [self.members.decode(picture) for picture in pictures]
        return [self.members.answer(probs_K) for probs_K in self.members.ask_all(images)]

    async def __call__(self, request: Request) -> JSONResponse:  # noqa: D102
        return JSONResponse(await self.ask(await request.body()))


if __name__ == "__main__":
    serve_until_signal(Ensemble)

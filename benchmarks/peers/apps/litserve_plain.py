"""LitServe without batching: a worker process per core.

`workers_per_device` is the number of cores, as the reference of `LitServer` says for a processor,
and there are as many API servers, its default. `fast_queue` sends between the processes over
ZeroMQ, which the same page has for more than a hundred requests/s. The body is the picture itself:
LitServe's examples send base64 in JSON, which is slower. Without batching its workers sleep until
there is work.
"""

from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.peers.apps.members import CORES, HOST, PORT, Image, Members
from snapensemble.contracts.metrics import Floats

Picture = Annotated[bytes, Body(media_type="application/octet-stream")]


class Api(litserve.LitAPI):  # type: ignore[misc] # not installed here
    """Answers one picture after the other."""

    members: Members

    def setup(self, device: str) -> None:  # noqa: ARG002 # LitServe's signature
        """Load the members in a worker."""
        self.members = Members()

    def decode_request(self, request: Picture) -> Image:
        """The picture that is the body, decoded: image_CHW."""
        return self.members.decode(request)

    def predict(self, image_CHW: Image) -> Floats:  # noqa: D102
        probs_K: Floats = self.members.ask(image_CHW[None])[0]
        return probs_K

    def encode_response(self, probs_K: Floats) -> dict[str, Any]:  # noqa: D102
        return self.members.answer(probs_K)


def serve(api: Api) -> None:
    """Serve until a signal comes."""
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=CORES, fast_queue=True
    )
    server.run(host=HOST, port=PORT, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    serve(Api())

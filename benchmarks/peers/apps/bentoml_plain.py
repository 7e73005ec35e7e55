"""BentoML without batching: a worker process per core.

`workers` is the number of cores, as its page "Parallelize requests handling" advises for work on
the processor, and each worker has one thread, the default. The body is the picture itself; BentoML
gives it as a Pillow image that is not decoded yet, so that ours can be decoded from its bytes.
"""

import os
import sys
from typing import Any

import bentoml
from PIL.Image import Image as Picture

from benchmarks.peers.apps.members import CORES, HOST, PORT, Members


def bytes_of(picture: Picture) -> bytes:
    """The encoded picture that Pillow has opened and not read yet."""
    file: Any = picture.fp  # type: ignore[attr-defined]
    file.seek(0)
    data: bytes = file.read()
    return data


def serve(module: str) -> None:
    """Become `bentoml serve` of this module's service."""
    # The access log and telemetry would cost it time that ours does not spend.
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.environ["BENTOML_CONFIG_OPTIONS"] = (
        "api_server.logging.access.enabled=false api_server.metrics.enabled=true"
    )
    command = ["bentoml", "serve", f"{module}:Ensemble", "--host", HOST, "--port", str(PORT)]
    os.execv(sys.executable, [sys.executable, "-m", *command])  # noqa: S606


@bentoml.service(workers=CORES)
class Ensemble:
    """Answers one picture after the other in each worker."""

    def __init__(self) -> None:
        self.members = Members()

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator] # not installed here
    def predict(self, image: Picture, /) -> dict[str, Any]:  # noqa: D102
        return self.members.classify(bytes_of(image))


if __name__ == "__main__":
    serve("benchmarks.peers.apps.bentoml_plain")

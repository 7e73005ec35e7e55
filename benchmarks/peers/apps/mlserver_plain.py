"""MLServer without batching: a handler of its own that takes the picture as the body.

`parallel_workers` is the number of cores, as its page "Parallel Inference" advises. The handler is
a custom one (its page "Custom Inference Runtimes"), because the protocol that MLServer speaks
otherwise has pictures as base64 in JSON.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body
from mlserver import MLModel
from mlserver.handlers import custom_handler

from benchmarks.peers.apps.members import CORES, HOST, PORT, Members

Picture = Annotated[bytes, Body(media_type="application/octet-stream")]
SETTINGS = {
    "host": HOST,
    "http_port": PORT,
    "grpc_port": PORT + 1,
    "metrics_port": PORT + 2,
    "parallel_workers": CORES,
    "debug": False,
    "access_log": False,
}


def serve(implementation: str, **model: Any) -> None:
    """Become `mlserver start` of a folder with one model in it."""
    folder = Path(tempfile.mkdtemp(prefix="peer-"))
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    described = {"name": "ensemble", "implementation": implementation, **model}
    (folder / "model-settings.json").write_text(json.dumps(described))
    code = "import sys; from mlserver.cli import main; sys.argv[0] = 'mlserver'; main()"
    os.execv(sys.executable, [sys.executable, "-c", code, "start", str(folder)])  # noqa: S606


class Ensemble(MLModel):  # type: ignore[misc] # not installed here
    """Answers one picture after the other in each worker."""

    async def load(self) -> bool:
        """Load the members in a worker."""
        self.members = Members()
        return True

    @custom_handler(rest_path="/predict")  # type: ignore[untyped-decorator] # not installed here
    async def classify(self, picture: Picture) -> dict[str, Any]:
        """The answer to the picture that is the body."""
        return self.members.classify(picture)


if __name__ == "__main__":
    serve("benchmarks.peers.apps.mlserver_plain.Ensemble")

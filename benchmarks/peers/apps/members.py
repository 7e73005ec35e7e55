"""What every peer does with a picture: the same decoding, members, average and answer.

Needs NumPy, Pillow, pydantic and ONNX Runtime, so it runs in every peer's environment.

Shapes: M members, B images, C channels, H height, W width, K classes.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.metrics import Floats, mean_probabilities, softmax
from snapensemble.contracts.sessions import open_session

Image = NDArray[np.uint8]
HOST = "127.0.0.1"
BUNDLE_DIR = Path(os.environ.get("PEER_BUNDLE", "."))
PORT = int(os.environ.get("PEER_PORT", "0"))
CORES = cpu_budget()  # processes, replicas or threads that fill the machine
MAX_BATCH_SIZE = 32  # as many as the load has under way at most, and ours has by default


class Members:
    """The members of a bundle.

    One thread per session, no spinning: ONNX Runtime's defaults would give every session of every
    process a spinning pool as large as the machine, which is several times slower (its page
    "Thread management": with several sessions or processes, size the pools so that they add up to
    the cores). Processes, replicas or an executor fill the cores instead.
    """

    def __init__(self, bundle_dir: Path = BUNDLE_DIR) -> None:
        self.bundle = read_bundle(bundle_dir)
        self.decode = self.bundle.image.decode
        sessions = [
            open_session((bundle_dir / part.file).read_bytes()) for part in self.bundle.parts
        ]
        self._trunk = None if self.bundle.trunk is None else sessions.pop(0)
        self._sessions = sessions
        for size in (MAX_BATCH_SIZE, 1):  # warmed up as ours is
            self.ask(np.zeros((size, *self.bundle.image.shape), np.uint8))

    def ask(self, images_BCHW: Image, executor: Executor | None = None) -> Floats:
        """probs_BK: the calibrated average; the members one after another, or on an executor."""
        run = map if executor is None else executor.map
        inputs: dict[str, Any] = {"images": images_BCHW}
        if self._trunk is not None:
            inputs = {"features": self._trunk.run(["features"], inputs)[0]}
        logits_MBK = list(run(lambda session: session.run(["logits"], inputs)[0], self._sessions))
        return mean_probabilities(
            softmax(np.stack(logits_MBK)), self.bundle.weights_M, self.bundle.temperature
        )

    def ask_all(self, images: Sequence[Image], executor: Executor | None = None) -> list[Floats]:
        """probs_K of each image, asked as one batch."""
        return list(self.ask(np.stack(images), executor))

    def classify(self, picture: bytes) -> dict[str, Any]:
        """The answer to one encoded picture."""
        return self.answer(self.ask(self.decode(picture)[None])[0])

    def answer(self, probs_K: Floats) -> dict[str, Any]:
        """The essentials of our own server's answer."""
        best = int(probs_K.argmax())
        return {
            "class": self.bundle.classes[best],
            "probability": float(probs_K[best]),
            "probabilities": probs_K.tolist(),
        }

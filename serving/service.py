"""What the handlers share."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.engine import Engine
from serving.intake import Intake
from serving.metrics import Metrics
from serving.settings import Settings


class Service:
    """The engine, the intake, the decoders and the counters of one server.

    Raises:
        InvalidParameter: the bundle cannot answer in the mode that the settings ask for.
    """

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics) -> None:
        engine.check_mode(settings.mode)
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.intake = Intake(settings)
        self.name = settings.name or engine.bundle.name
        self.started = time.monotonic()
        # As many as lanes: decoding shares their processors, and a flood of pictures waits here.
        self.decoders = ThreadPoolExecutor(engine.lanes.threads, thread_name_prefix="decoder")
        self._max_entropy = math.log(len(engine.bundle.classes))
        metrics.describe(self.name, engine.bundle)

    def answered(self, predictions: Sequence[dict[str, Any]]) -> None:
        """Count what was said to a request."""
        for one in predictions:
            nats = one["uncertainty"]["entropy_nats"]
            self.metrics.entropy.observe(nats / self._max_entropy)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage of a request, whether it ends well or not."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.metrics.stage_seconds.labels(name).observe(time.monotonic() - started)

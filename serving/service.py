"""What the handlers share."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from serving.engine import Engine
from serving.errors import Stopping
from serving.intake import Intake
from serving.life import Life
from serving.metrics import Metrics
from serving.settings import Settings


class Service:
    """The engine, the intake, the decoders and the counters of one server.

    Raises:
        InvalidParameter: the bundle cannot answer in the mode that the settings ask for.
    """

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics, life: Life) -> None:
        engine.check_mode(settings.mode)
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.life = life
        self.intake = Intake(settings)
        self.name = settings.name or engine.bundle.name
        self.started = time.monotonic()
        # As many as lanes: decoding shares their processors, and a flood of pictures waits here.
        self.decoders = ThreadPoolExecutor(engine.lanes.threads, thread_name_prefix="decoder")
        metrics.model_info.labels(
            self.name, engine.bundle.version, str(len(engine.bundle.members))
        ).set(1)

    def check_ready(self) -> None:
        """Raise what speaks against sending new work here."""
        if self.life.stopping:
            raise Stopping("the server is shutting down; send new requests elsewhere")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage of a request, whether it ends well or not."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.metrics.stage_seconds.labels(name).observe(time.monotonic() - started)

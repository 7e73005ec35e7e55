"""The service is what all handlers of one server share."""

import time

from snapensemble.serving.errors import MemberFailing, Stopping
from snapensemble.serving.http.bridge import Bridge
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.session import TOO_MANY
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.metrics import Drift, Metrics


class Service:
    """The engine, the bridge to its scheduler, and the counters of one server.

    Raises:
        InvalidParameter: the bundle cannot answer in the mode that the settings ask for.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> None:
        engine.check_mode(settings.mode)
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.shutdown = shutdown
        self.admission = engine.admission
        self.bridge = Bridge(engine.scheduler)
        self.name = settings.name or engine.bundle.name
        self.started = time.monotonic()
        reference = engine.bundle.reference
        self.drift = None if reference is None else Drift(reference)
        metrics.describe(self.name, engine.bundle)

    def show_load(self) -> None:
        """Bring the gauges up to date: what requests hold, and how far their answers drift."""
        self.metrics.queued.set(self.engine.scheduler.queued)
        self.metrics.requests_under_way.set(self.admission.requests)
        self.metrics.held_bytes.set(self.admission.memory.held)
        if self.drift is not None:
            self.metrics.drift_answers.set(len(self.drift))
            for quantity, index in self.drift.indices().items():
                self.metrics.drift.labels(quantity).set(index)

    def check_ready(self) -> None:
        """Raise the error that says why no new requests should be sent here, if there is one."""
        if self.shutdown.stopping:
            raise Stopping("the server is shutting down; send new requests elsewhere")
        if failing := self.engine.health.failing:
            self.engine.try_out()
            raise MemberFailing(
                f"failed in the last {TOO_MANY} micro-batches or more: {', '.join(failing)}; the "
                "server's log says how"
            )

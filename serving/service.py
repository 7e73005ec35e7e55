"""What the handlers share."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from serving.drift import Drift
from serving.engine import Engine
from serving.errors import MemberFailing, Stopping
from serving.health import TOO_MANY
from serving.intake import Intake
from serving.life import Life
from serving.metrics import Metrics
from serving.settings import Settings
from serving.stages import Mode
from serving.traces import Traces


class Service:
    """The engine, the intake and the counters of one server.

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
        self._max_entropy = math.log(len(engine.bundle.classes))
        reference = engine.bundle.reference
        self._drift = None if reference is None else Drift(reference)
        self.traces: Traces | None = None
        metrics.describe(self.name, engine.bundle)

    def answered(self, mode: Mode, predictions: Sequence[dict[str, Any]]) -> None:
        """Count how sure the answers to a request are, and how far from those on validation."""
        for one in predictions:
            nats = one["uncertainty"]["entropy_nats"]
            self.metrics.entropy.observe(nats / self._max_entropy)
        # The reference is of full answers; those of fewer members are spread in another way.
        if self._drift is not None and mode == "full":
            for one in predictions:
                if "partial" in one:
                    continue
                self._drift.add(
                    confidence=one["probability"],
                    disagreement=one["uncertainty"]["disagreement_nats"],
                )
            self.metrics.drift_answers.set(len(self._drift))
            for quantity, index in self._drift.indices().items():
                self.metrics.drift.labels(quantity).set(index)

    def check_ready(self) -> None:
        """Raise what speaks against sending new work here."""
        if self.life.stopping:
            raise Stopping("the server is shutting down; send new requests elsewhere")
        if failing := self.engine.health.failing:
            self.engine.try_out()
            raise MemberFailing(
                f"failed in the last {TOO_MANY} micro-batches or more: {', '.join(failing)}; the "
                "server's log says how"
            )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage of a request, whether it ends well or not."""
        started = time.monotonic()
        try:
            yield
        finally:
            ended = time.monotonic()
            self.metrics.stage_seconds.labels(name).observe(ended - started)
            if self.traces is not None:
                self.traces.stage(name, started, ended)

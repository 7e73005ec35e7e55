"""What the handlers share."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from snapensemble.contracts.prediction_sets import SetQuantile
from snapensemble.serving.errors import MemberFailing, Stopping
from snapensemble.serving.health import TOO_MANY
from snapensemble.serving.http.bridge import Bridge
from snapensemble.serving.http.responses import prediction, response
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.admission import Admission
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.request import Said
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Life
from snapensemble.serving.stages import Mode
from snapensemble.serving.telemetry.drift import Drift
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import Traces

DRIFT_EVERY_S = 0.2  # gauges of drift are at most so old


class Asked(NamedTuple):
    """What a client wants to know."""

    options: PredictOptions
    mode: Mode
    quantile: SetQuantile | None  # makes the prediction sets


class Service:
    """The engine, who is let in, and the counters of one server.

    Raises:
        InvalidParameter: the bundle cannot answer in the mode that the settings ask for.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        metrics: Metrics,
        life: Life,
        traces: Traces | None,
    ) -> None:
        engine.check_mode(settings.mode)
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.life = life
        self.admission = Admission(
            engine.lanes,
            max_images=settings.max_queue,
            memory=engine.memory,
        )
        self.bridge = Bridge(engine)
        self.name = settings.name or engine.bundle.name
        self.started = time.monotonic()
        self._max_entropy = math.log(len(engine.bundle.classes))
        reference = engine.bundle.reference
        self._drift = None if reference is None else Drift(reference)
        self.traces = traces
        self._drift_timer: asyncio.TimerHandle | None = None
        metrics.describe(self.name, engine.bundle)

    def _count(self, mode: Mode, predictions: Sequence[dict[str, Any]]) -> None:
        """Count how sure the answers to a request are, and how far from those on validation."""
        for one in predictions:
            nats = one["uncertainty"]["entropy_nats"]
            if "partial" in one:
                self.metrics.partial.inc()
            self.metrics.entropy.observe(nats / self._max_entropy)
        # The reference is of full answers; those of fewer members are spread in another way.
        if self._drift is None or mode != "full":
            return
        for one in predictions:
            if "partial" not in one:
                self._drift.add(
                    confidence=one["probability"],
                    disagreement=one["uncertainty"]["disagreement_nats"],
                )
        if self._drift_timer is None:  # not with each answer: it looks at all that count
            loop = asyncio.get_running_loop()
            self._drift_timer = loop.call_later(DRIFT_EVERY_S, self.show_drift)

    def show_drift(self) -> None:
        """Bring the gauges of drift up to date."""
        if self._drift_timer is None or self._drift is None:
            return
        self._drift_timer.cancel()
        self._drift_timer = None
        self.metrics.drift_answers.set(len(self._drift))
        for quantity, index in self._drift.indices().items():
            self.metrics.drift.labels(quantity).set(index)

    def show_load(self) -> None:
        """Bring the gauges of what requests hold up to date."""
        self.metrics.queued.set(self.engine.lanes.queued)
        self.metrics.requests_under_way.set(self.admission.requests)
        self.metrics.held_bytes.set(self.admission.memory.held)

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

    def asked(self, options: PredictOptions) -> Asked:
        """What a request's options mean here.

        Raises:
            InvalidParameter: the bundle cannot grant them.
        """
        mode = options.mode or self.settings.mode
        self.engine.check_mode(mode)
        return Asked(options, mode, self.engine.quantile(mode, options.coverage))

    def answer(self, asked: Asked, said_N: Sequence[Said]) -> bytes:
        """The body of the answer to a request, counted.

        Args:
            asked: by the client.
            said_N: what members said of each of its images.
        """
        bundle = self.engine.bundle
        predictions = [prediction(said, bundle, asked.options, asked.quantile) for said in said_N]
        self._count(asked.mode, predictions)
        return to_json(response(predictions, bundle, self.name), inf_nan_mode="null")

    def received(self, started: float) -> None:
        """Measure the stage of a request in which its body came; well or not, it is over."""
        ended = time.monotonic()
        self.metrics.receive_seconds.observe(ended - started)
        if self.traces is not None:
            self.traces.stage("receive", started, ended)

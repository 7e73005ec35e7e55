"""What the handlers share."""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from contracts.prediction_sets import SetQuantile
from serving.answers import prediction, response
from serving.desk import Desk
from serving.drift import Drift
from serving.engine import Engine
from serving.errors import MemberFailing, Overloaded, Stopping
from serving.health import TOO_MANY
from serving.intake import Intake
from serving.life import Life
from serving.metrics import Metrics
from serving.schemas import PredictOptions
from serving.settings import Settings
from serving.stages import Mode
from serving.traces import Traces
from serving.waiting import Said

DRIFT_EVERY_S = 0.2  # gauges of drift are at most so old


class Asked(NamedTuple):
    """What a client wants to know."""

    options: PredictOptions
    mode: Mode
    quantile: SetQuantile | None  # makes the prediction sets


class Service:
    """The engine, the intake and the counters of one server.

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
        self.intake = Intake(settings)
        self.desk = Desk(engine)
        self.name = settings.name or engine.bundle.name
        self.started = time.monotonic()
        self._max_entropy = math.log(len(engine.bundle.classes))
        reference = engine.bundle.reference
        self._drift = None if reference is None else Drift(reference)
        self.traces = traces
        self._under_way = 0
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

    def enter(self, count: int) -> int:
        """Keep the images of a request in mind until it is answered, and give their number.

        The lanes know only of those that they have not answered. Where the members are quick, it
        is this thread, which writes the answers, that has more work than it can do.

        Raises:
            Overloaded: there are too many already.
        """
        if self._under_way + count > self.settings.max_queue:
            raise Overloaded(
                f"{self._under_way} images are under way, at most {self.settings.max_queue} may be",
                retry_after_s=1.0,
            )
        self._under_way += count
        return count

    def leave(self, count: int) -> None:
        """So many images are answered, or their client has left."""
        self._under_way -= count

    @contextlib.contextmanager
    def room_for(self, count: int) -> Iterator[None]:
        """Enter with so many images, then leave."""
        entered = self.enter(count)
        try:
            yield
        finally:
            self.leave(entered)

    def answer(self, asked: Asked, said_N: Sequence[Said]) -> bytes:
        """The body of the answer to a request, counted.

        Args:
            asked: by the client.
            said_N: what members said of each of its images.
        """
        bundle = self.engine.bundle
        predictions = [prediction(said, bundle, asked.options, asked.quantile) for said in said_N]
        self._count(asked.mode, predictions)
        return to_json(response(predictions, bundle, self.name))

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

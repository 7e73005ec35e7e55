"""The service is what all handlers of one server share: the models, and what counts them."""

import contextlib
import time
from collections.abc import Iterator

from snapensemble.serving.errors import MemberFailing, Stopping, UnknownModel
from snapensemble.serving.http.bridge import Bridge
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.session import TOO_MANY
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.metrics import Drift, Metrics


class Model:
    """One version of one model that is served.

    Args:
        engine: runs its members.
        name: under which it is asked.
        version: among those of this name.
    """

    def __init__(self, engine: Engine, name: str, version: str) -> None:
        self.engine = engine
        self.name = name
        self.version = version
        self.admission = engine.admission
        self.bridge = Bridge(engine.scheduler)
        reference = engine.bundle.reference
        self.drift = None if reference is None else Drift(reference)
        self.users = 0  # requests under way that have been given this model

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Count a request that needs this model until it is over."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    def check_ready(self) -> None:
        """Raise MemberFailing if a member fails again and again."""
        if failing := self.engine.health.failing:
            self.engine.try_out()
            raise MemberFailing(
                f"failed in the last {TOO_MANY} micro-batches or more: {', '.join(failing)}; the "
                "server's log says how"
            )


class Service:
    """The models and the counters of one server.

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
        self.metrics = metrics
        self.shutdown = shutdown
        self.started = time.monotonic()
        name = settings.name or engine.bundle.name
        self.models = {name: Model(engine, name, engine.bundle.version)}
        metrics.describe(name, engine.bundle)

    def model(self, name: str | None = None, version: str | None = None) -> Model:
        """The model of a name, in a version; the only one, in its newest version, if not given.

        Raises:
            UnknownModel: there is none.
        """
        (only,) = self.models.values()
        if name not in (None, only.name) or version not in (None, only.version):
            asked = f"{name} {version}" if version else name
            raise UnknownModel(f"found {asked}, expected {only.name} {only.version}")
        return only

    def show_load(self) -> None:
        """Bring the gauges up to date: what requests hold, and how far their answers drift."""
        (model,) = self.models.values()
        self.metrics.queued.set(model.engine.scheduler.queued)
        self.metrics.requests_under_way.set(model.admission.requests)
        self.metrics.held_bytes.set(model.admission.memory.held)
        if model.drift is not None:
            self.metrics.drift_answers.set(len(model.drift))
            for quantity, index in model.drift.indices().items():
                self.metrics.drift.labels(quantity).set(index)

    def check_ready(self) -> None:
        """Raise the error that says why no new requests should be sent here, if there is one."""
        if self.shutdown.stopping:
            raise Stopping("the server is shutting down; send new requests elsewhere")
        for model in self.models.values():
            model.check_ready()


def served(service: Service) -> list[Model]:
    """All models that can be asked by their names, in the version that is asked by default."""
    return [service.model()]

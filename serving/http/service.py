"""The service is what all handlers of one server share: the models, and what counts them."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.errors import MemberFailing, Stopping, UnknownModel
from snapensemble.serving.http.bridge import Bridge
from snapensemble.serving.inference.admission import PendingRequest
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.repository import order
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
        memory_bytes: by how much the process grew while it was loaded; None if nobody measured.
    """

    def __init__(
        self, engine: Engine, name: str, version: str, memory_bytes: int | None = None
    ) -> None:
        self.engine = engine
        self.memory_bytes = memory_bytes
        self.name = name
        self.version = version
        self.admission = engine.admission
        self.bridge = Bridge(engine.scheduler)
        reference = engine.bundle.reference
        self.drift = None if reference is None else Drift(reference)
        self._users = 0  # requests under way that have been given this model
        self._is_free = asyncio.Event()
        self._is_free.set()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Count a request that needs this model until it is over."""
        self._users += 1
        self._is_free.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._is_free.set()

    async def free(self) -> None:
        """Wait until no request needs this model; new ones must not be given it."""
        await self._is_free.wait()

    def check_ready(self) -> None:
        """Raise MemberFailing if a member fails again and again."""
        if failing := self.engine.health.failing:
            self.engine.try_out()
            raise MemberFailing(
                f"failed in the last {TOO_MANY} micro-batches or more: {', '.join(failing)}; the "
                "server's log says how"
            )


class Control(Protocol):
    """What clients may do with the models, as far as the settings let them."""

    def missing(self) -> dict[str, str]:
        """Why models are not served as they are on disk, by name."""

    async def load(self, name: str) -> None:
        """Serve what is on disk of a model; nothing has changed if that raises."""

    async def unload(self, name: str) -> None:
        """Serve a model no more, until it is loaded again."""


class Compares(Protocol):
    """What `snapensemble.serving.http.shadow.Shadow` does with requests and their answers."""

    def copies(self, model: "Model", images: Any) -> Any:
        """The images of a request, if they are to be compared; None otherwise."""

    def held(self, request: PendingRequest, copies: Any) -> Any:
        """The same images, if the request, which is accepted, may hold them until it is over."""

    def ask(self, images: Any, answered: Any) -> None:
        """Compare an answer; this waits for nothing."""


class Service:
    """The models and the counters of one server. For one thread, that of the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics, shutdown: Shutdown) -> None:
        self.settings = settings
        self.metrics = metrics
        self.shutdown = shutdown
        self.started = time.monotonic()
        self.models: dict[str, dict[str, Model]] = {}  # by name; by version, the newest first
        self.control: Control | None = None  # where clients may load and unload models
        self.shadow: Compares | None = None

    @property
    def all_models(self) -> list[Model]:
        """Every version of every model, by name, of one name the newest first."""
        return [model for _, versions in sorted(self.models.items()) for model in versions.values()]

    def add(self, model: Model) -> Model | None:
        """Serve a version of a model from now on; gives the one that had its name and version.

        Raises:
            InvalidParameter: it cannot answer in the mode that the settings ask for.
        """
        model.engine.check_mode(self.settings.mode)
        versions = dict(self.models.get(model.name, {}))
        former = versions.get(model.version)
        versions[model.version] = model
        newest_first = sorted(versions, key=order, reverse=True)
        self.models[model.name] = {version: versions[version] for version in newest_first}
        if former is not None:  # with another number of members, perhaps
            self.metrics.served(model.name, model.version, former.engine.bundle, is_served=False)
        self.metrics.served(model.name, model.version, model.engine.bundle, is_served=True)
        if model.memory_bytes is not None:
            self.metrics.model_bytes.labels(model.name, model.version).set(model.memory_bytes)
        self.show_load()
        return former

    def remove(self, model: Model) -> None:
        """Give a version of a model to no request any more."""
        versions = {k: v for k, v in self.models[model.name].items() if v is not model}
        if versions:
            self.models[model.name] = versions
        else:
            del self.models[model.name]
        self.metrics.served(model.name, model.version, model.engine.bundle, is_served=False)
        self.metrics.model_bytes.labels(model.name, model.version).set(0)
        self.show_load()

    def model(self, name: str | None = None, version: str | None = None) -> Model:
        """The model of a name, in a version.

        Args:
            name: if None, the default model: the one of the settings, or the only one.
            version: if None, the newest.

        Raises:
            UnknownModel: there is none.
        """
        if name is None:
            name = self._default_name()
        versions = self.models.get(name, {})
        model = next(iter(versions.values()), None) if version is None else versions.get(version)
        if model is None:
            asked = name if version is None else f"{name}, version {version}"
            raise UnknownModel(f"found {asked!r}, expected one of {self._known()}")
        return model

    def is_default(self, model: Model) -> bool:
        """Whether requests that name no model are answered by this one."""
        try:
            return model is self.model()
        except UnknownModel:
            return False

    def check_settings(self) -> None:
        """Refuse settings that name a model which is not served, or a shadow of nothing.

        Raises:
            InvalidConfig: one does.
        """
        for setting in ("default_model", "shadow"):
            name = getattr(self.settings, setting)
            if name is not None and name not in self.models:
                raise InvalidConfig(
                    f"--{setting.replace('_', '-')} {name}: expected one of {self._known()}"
                )
        shadow, default = self.settings.shadow, self.settings.default_model
        if shadow is not None and default is None and len(self.models) > 1:
            raise InvalidConfig(
                f"--shadow {shadow}: {len(self.models)} models are served, and none is the default "
                f"whose requests it gets, too; add --default-model, with one of {self._known()}"
            )
        if shadow is not None and shadow == self.model().name:
            raise InvalidConfig(
                f"--shadow {shadow}: this is the model that answers; expected another"
            )

    def _default_name(self) -> str:
        if self.settings.default_model is not None:
            return self.settings.default_model
        if len(self.models) != 1:
            raise UnknownModel(
                f"the request names no model, and {len(self.models)} are served; expected one of "
                f"{self._known()}, as in POST /predict/NAME; --default-model sets which is meant"
            )
        return next(iter(self.models))

    def _known(self) -> str:
        known = [f"{model.name}, version {model.version}" for model in self.all_models[:5]]
        more = len(self.all_models) - len(known)
        return "; ".join(known) + (f"; and {more} more" if more > 0 else "") or "none at all"

    def show_load(self) -> None:
        """Bring the gauges up to date: what requests hold, and how far their answers drift."""
        models = self.all_models
        self.metrics.queued.set(sum(model.engine.scheduler.queued for model in models))
        self.metrics.requests_under_way.set(sum(model.admission.requests for model in models))
        for model in models[:1]:  # all of them share one budget
            self.metrics.held_bytes.set(model.admission.memory.held)
        # The newest version comes last, as it answers who names none.
        self.metrics.show_drift({model.name: model.drift for model in reversed(models)})

    def check_ready(self, model: Model | None = None) -> None:
        """Raise the error that says why no new requests should be sent here, if there is one.

        Args:
            model: the one that they would ask; if None, any but the shadow, which answers nobody.
        """
        if self.shutdown.stopping:
            raise Stopping("the server is shutting down; send new requests elsewhere")
        others = [each for each in self.all_models if each.name != self.settings.shadow]
        for each in others if model is None else [model]:
            each.check_ready()

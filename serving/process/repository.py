"""The models of one process: loaded beside those that answer, switched, and freed when unused."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from fastapi import FastAPI

from snapensemble.contracts.cpu import stand_back
from snapensemble.contracts.errors import InvalidManifest, SnapensembleError
from snapensemble.contracts.process import printable
from snapensemble.serving.errors import UnknownModel
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.service import Model, Service
from snapensemble.serving.inference.engine import Engine, Pool, load_engine
from snapensemble.serving.inference.repository import Plan, Planned
from snapensemble.serving.process.channel import Parent
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import Traces

log = logging.getLogger("snapensemble")
T = TypeVar("T")


class Repository:
    """Makes what is served what is planned. Use as a context manager: on leaving, all engines end.

    Args:
        settings: those of the server.
        service: gets the models.
        look: says what is to be served now; it may take the time that a disk takes.
        parent: has the disk looked at and logs what is wrong, if this is one of several workers.
    """

    def __init__(
        self,
        settings: Settings,
        service: Service,
        look: Callable[[], Plan],
        parent: Parent | None = None,
    ) -> None:
        self._settings = settings
        self._service = service
        self._look = look
        self._parent = parent
        self._pool = Pool(settings.limits())
        self.memory = self._pool.memory
        self.lanes = self._pool.lanes.threads
        self._served: dict[Model, Planned] = {}
        self._problems: dict[str, str] = {}
        self._unloaded: set[str] = set()  # by clients
        self._changing = asyncio.Lock()
        self._loader = ThreadPoolExecutor(1, "models", initializer=stand_back)
        self._leaving: set[Model] = set()  # that requests still need
        self._retiring: set[asyncio.Task[None]] = set()
        service.control = parent or self

    def __enter__(self) -> "Repository":
        return self

    def __exit__(self, *error: object) -> None:
        self._loader.shutdown(wait=False, cancel_futures=True)
        leaving, self._leaving = self._leaving, set()
        for model in [*self._served, *leaving]:
            model.engine.__exit__(*error)

    def begin(self, plan: Plan) -> None:
        """Load everything that is planned, before anybody can ask.

        Raises:
            SnapensembleError: something of it cannot be served.
        """
        for planned in plan.whole().models:
            self._serve(planned, *self._loaded(planned))

    async def refresh(self) -> None:
        """Look what is to be served, and serve it; what cannot be served is left as it was."""
        async with self._changing:
            plan = await self._looked()
            problems = await self._apply(plan.without(self._unloaded))
            if self._parent is not None:
                self._parent.followed(plan, problems)

    async def load(self, name: str) -> None:
        """Serve what is on disk of a model; nothing has changed if that raises.

        Raises:
            UnknownModel: there is nothing of this name.
            SnapensembleError: it cannot be served.
        """
        async with self._changing:
            plan = await self._looked()
            try:
                plan.models_of(name)
            except InvalidManifest as error:
                self._note({name: str(error)}, name)
                raise
            problems = await self._apply(plan.without(self._unloaded - {name}), only=name)
            if problems:
                raise InvalidManifest(problems[name])
            self._unloaded.discard(name)

    async def unload(self, name: str) -> None:
        """Serve a model no more, until it is loaded again.

        Raises:
            UnknownModel: it is not served.
        """
        async with self._changing:
            gone = [model for model in self._served if model.name == name]
            if not gone:
                raise UnknownModel(f"found {name!r}, expected a model that is served")
            self._unloaded.add(name)
            for model in gone:
                self._retire(model)

    def missing(self) -> dict[str, str]:
        """Why models are not served as they are on disk, by name."""
        unloaded = self._unloaded - {model.name for model in self._service.all_models}
        return self._problems | dict.fromkeys(unloaded, "unloaded")

    async def _looked(self) -> Plan:
        """What is on disk; if nothing can be served, the index says so of all that is served."""
        names = {model.name for model in self._served}
        try:
            return (await self._aside(self._look)).beside(names)
        except SnapensembleError as error:
            self._problems = self._problems | dict.fromkeys(names, str(error))
            raise

    async def _apply(self, plan: Plan, only: str | None = None) -> dict[str, str]:
        """Load what is new of each model, all of it or nothing; free what is planned no more.

        Args:
            plan: what is to be served.
            only: the name of the models that may change; all, if None.

        Returns:
            For each model that could not be loaded, why; its former versions are kept.
        """
        problems = {k: v for k, v in plan.problems.items() if only in (None, k)}
        known = set(self._served.values())
        wanted = {(planned.name, planned.version) for planned in plan.models}
        for name in dict.fromkeys(planned.name for planned in plan.models):
            if name in problems or only not in (None, name):
                continue
            new = [each for each in plan.models if each.name == name and each not in known]
            try:
                loaded = [(each, *await self._aside(partial(self._loaded, each))) for each in new]
            except (SnapensembleError, MemoryError) as error:
                problems[name] = str(error) or "there is no memory for it"
                continue
            for each in loaded:
                self._replace(*each)
            self._retire_all(name, wanted)
        for name in {model.name for model in self._served} - {name for name, _ in wanted}:
            if name not in problems and only in (None, name):
                self._retire_all(name, wanted)
        self._note(problems, only)
        return problems

    def _note(self, problems: dict[str, str], only: str | None) -> None:
        """Log what is new of what is wrong, and keep all of it for the index."""
        if self._parent is None:
            log_new(problems, self._problems)
        kept = {} if only is None else {k: v for k, v in self._problems.items() if k != only}
        self._problems = kept | problems

    def _serve(self, planned: Planned, engine: Engine, memory: int) -> Model | None:
        """Give a model to all requests from now on, and return the one that it replaces."""
        model = Model(engine, planned.name, planned.version, memory)
        engine.__enter__()
        try:
            former = self._service.add(model)
        except BaseException:
            engine.__exit__(None, None, None)
            raise
        self._served[model] = planned
        return former

    def _replace(self, planned: Planned, engine: Engine, memory: int) -> None:
        """Give a model to all requests from now on, and nobody the one that it replaces."""
        former = self._serve(planned, engine, memory)
        log.info("serving %s %s", planned.name, planned.version)
        if former is not None:
            self._retire(former)

    def _retire_all(self, name: str, wanted: set[tuple[str, str]]) -> None:
        """Retire the versions of a model that are not wanted."""
        for model in list(self._served):
            if model.name == name and (name, model.version) not in wanted:
                self._retire(model)

    def _retire(self, model: Model) -> None:
        """Give a model to nobody more, and free it when the last request has been answered."""
        del self._served[model]
        if model in self._service.all_models:
            self._service.remove(model)
        self._leaving.add(model)
        task = asyncio.get_running_loop().create_task(self._freed(model))
        self._retiring.add(task)  # the loop keeps no reference of its own
        task.add_done_callback(self._retiring.discard)

    async def _freed(self, model: Model) -> None:
        await model.free()
        if model not in self._leaving:  # the server has ended meanwhile
            return
        self._leaving.discard(model)
        await asyncio.to_thread(model.engine.__exit__, None, None, None)  # waits for its images
        is_replaced = model.version in self._service.models.get(model.name, {})
        former = "the former " if is_replaced else ""
        log.info("%s%s %s is no longer served", former, model.name, model.version)

    async def _aside(self, work: Callable[[], T]) -> T:
        """Do work on a thread of its own, behind those that answer."""
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)

    def _loaded(self, planned: Planned) -> tuple[Engine, int]:
        """An engine, and by how many bytes the process has grown meanwhile."""
        metrics = self._service.metrics
        before = resident_bytes()
        engine = load_engine(
            planned.directory,
            on_batch=partial(metrics.batch, planned.name),
            on_decode=metrics.decoded,
            max_accuracy_drop=self._settings.max_accuracy_drop,
            expected_sha256=planned.sha256,
            pool=self._pool,
        )
        engine.check_mode(self._settings.mode)
        return engine, max(0, resident_bytes() - before)


class Refreshing:
    """Runs one change after another on the event loop, when it is asked to or from time to time.

    Args:
        change: what to do.
        every_s: how often to do it unasked; never, if None.
    """

    def __init__(self, change: Callable[[], Awaitable[None]], every_s: float | None) -> None:
        self._change = change
        self._every_s = every_s
        self._is_wanted = False
        self._wake: Callable[[], object] = lambda: None

    def want(self) -> None:
        """Have it done soon; on any thread, and in a signal's handler."""
        self._is_wanted = True  # first: `run` looks at it after it can be woken
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._wake()

    async def run(self) -> None:
        """Do it until this is cancelled."""
        woken = asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, woken.set)
        logged = ""  # what is still wrong; a watched disk would say it again and again
        while True:
            if not self._is_wanted:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), self._every_s)
            woken.clear()
            is_asked, self._is_wanted = self._is_wanted, False
            try:
                await self._change()
                logged = ""
            except SnapensembleError as error:
                if is_asked or str(error) != logged:
                    log.error("nothing has changed: %s", printable(str(error)))
                logged = str(error)
            except Exception:  # the server goes on with what it serves
                log.exception("nothing has changed")


class Assembled(NamedTuple):
    """The application, and what keeps its models."""

    app: FastAPI
    service: Service
    repository: Repository
    refreshing: Refreshing


@contextlib.contextmanager
def assembled(
    plan: Plan,
    settings: Settings,
    look: Callable[[], Plan],
    *,
    metrics: Metrics | None = None,
    shutdown: Shutdown | None = None,
    traces: Traces | None = None,
    parent: Parent | None = None,
) -> Iterator[Assembled]:
    """An application whose models are loaded; on leaving, all engines end.

    Args:
        plan: what to serve first.
        settings: those of the server.
        look: as for `Repository`.
        metrics: as for `create_app`.
        shutdown: as for `create_app`.
        traces: as for `create_app`.
        parent: as for `Repository`.

    Raises:
        SnapensembleError: something of the plan cannot be served.
        InvalidConfig: a setting is not right for it.
    """
    app = create_app(settings, None, metrics, shutdown, traces)
    service: Service = app.state.service
    with Repository(settings, service, look, parent) as repository:
        repository.begin(plan)
        if plan.number == 0:  # in a server that runs, what they name may have gone from the disk
            service.check_settings()
        refreshing = Refreshing(repository.refresh, settings.watch)
        yield Assembled(app, service, repository, refreshing)


def log_new(problems: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Log what is wrong with models, once as long as it is wrong in the same way."""
    for name, why in problems.items():
        if known.get(name) != why:
            log.error("%s is left as it was: %s", printable(name), printable(why))


def on_hangup(tell: Callable[[], None]) -> None:
    """Call this with each SIGHUP from now on, where it means to look at the disk again."""
    if may_reload():
        signal.signal(signal.SIGHUP, lambda *_: tell())


def may_reload() -> bool:
    """Whether SIGHUP means to look at the disk again, and not that a terminal has gone.

    A server with a terminal ends with it. One that was started under `nohup` goes on with what it
    serves, since the signal does not reach it.
    """
    has_terminal = any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and not has_terminal


def resident_bytes() -> int:
    """The resident memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0

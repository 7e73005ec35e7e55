"""What several workers are to serve: planned by their parent, followed by each of them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import NamedTuple

from snapensemble.contracts.errors import InvalidManifest, SnapensembleError
from snapensemble.serving.errors import LoadFailed, UnknownModel, WorkersLate
from snapensemble.serving.inference.repository import Plan, Planned
from snapensemble.serving.process.channel import (
    ERRORS,
    Answered,
    Asked,
    Followed,
    FromWorker,
    Message,
    line_of,
)
from snapensemble.serving.process.repository import log_new

FOLLOW_S = 60.0  # for all workers to load what is new
log = logging.getLogger("snapensemble")


class Follower:
    """A worker that runs or starts.

    Args:
        write: puts a line into its input.
        number: of the plan that it begins with.
    """

    def __init__(self, write: Callable[[bytes], object], number: int) -> None:
        self._write = write
        self.latest = Followed(number=number, refused={})  # what it has followed last

    def tell(self, message: Plan | Message) -> None:
        """Send it a message."""
        self._write(line_of(message))


class Outcome(NamedTuple):
    """What became of a plan: which models were refused and why, and who is late."""

    refused: Mapping[str, str]
    late: str | None


class Plans:
    """What the workers are to serve now. A new plan stands when they have followed it.

    Workers that start meanwhile begin with the plan that stands and are told the new one, too.

    Args:
        look: looks at the disk for what is to be served.
        limit_s: how many seconds workers may take to follow.

    Raises:
        InvalidManifest: something cannot be served.
    """

    def __init__(self, look: Callable[[], Plan], limit_s: float = FOLLOW_S) -> None:
        self._look = look
        self._limit_s = limit_s
        self.now = look().whole()
        self._proposed: Plan | None = None
        self._problems: Mapping[str, str] = {}
        self._unloaded: frozenset[str] = frozenset()  # by clients
        self._followers: set[Follower] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._news = asyncio.Event()  # of a follower

    def join(self, write: Callable[[bytes], object]) -> Follower:
        """Count a worker that has just been started, and tell it what to serve."""
        follower = Follower(write, self.now.number)
        self._followers.add(follower)
        for plan in (self.now, self._proposed):
            if plan is not None:
                follower.tell(plan)
        return follower

    async def is_ready(self, follower: Follower, worker: FromWorker, pid: int) -> bool:
        """Whether a worker is ready, which is awaited; what it says then is heard."""
        ready = await worker.is_ready(pid)
        if ready:
            self._start(self._hear(follower, worker))
        else:
            self._leave(follower)
        return ready

    def _leave(self, follower: Follower) -> None:
        """Wait for a worker no more, which has ended."""
        self._followers.discard(follower)
        self._news.set()

    async def _hear(self, follower: Follower, worker: FromWorker) -> None:
        """Take up what a worker says until it ends."""
        try:
            async for message in worker.messages():
                if isinstance(message, Followed):
                    follower.latest = message
                    self._news.set()
                    self._take_late(message)
                else:
                    self._start(self._answer(follower, message))
        finally:
            self._leave(follower)

    def _take_late(self, followed: Followed) -> None:
        """Say what a worker refuses of the plan that stands: it was late, or cannot go back to it.

        Once for each reason, since whoever is told of it tries again; so does the next look.
        """
        is_late = self._proposed is None and followed.number == self.now.number
        if is_late:
            self._note(followed.refused)

    def _note(self, problems: Mapping[str, str]) -> None:
        """Log what is new of what is wrong, and put it into the index; nothing else changes."""
        if any(self._problems.get(name) != why for name, why in problems.items()):
            log_new(problems, self._problems)
            self._problems = {**self._problems, **problems}
            self.now = self._told(self.now.models, self._problems, self._unloaded)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop keeps no reference of its own
        task.add_done_callback(self._tasks.discard)

    async def refresh(self) -> None:
        """Look at the disk again; what cannot be served is left as it was."""
        async with self._changing:
            found = (await self._looked()).without(self._unloaded)
            good = [each for each in found.models if each.name not in found.problems]
            kept = [each for each in self.now.models if each.name in found.problems]
            if (set(good + kept), found.problems) == (set(self.now.models), self._problems):
                return
            outcome = await self._publish(good + kept, found.problems, self._unloaded)
        if outcome.late is not None:
            log.error("%s", outcome.late)

    async def load(self, name: str) -> None:
        """Have all workers serve what is on disk of a model.

        Raises:
            UnknownModel: there is nothing of this name.
            SnapensembleError: it cannot be served; nothing has changed.
            WorkersLate: not all of them serve it yet.
        """
        async with self._changing:
            found = await self._looked()
            try:
                new = found.models_of(name)
            except InvalidManifest as error:
                self._note({name: str(error)})
                raise
            others = [each for each in self.now.models if each.name != name]
            problems = {k: v for k, v in self._problems.items() if k != name}
            outcome = await self._publish((*others, *new), problems, self._unloaded - {name})
        if name in outcome.refused:
            raise LoadFailed(outcome.refused[name])
        if outcome.late is not None:
            raise WorkersLate(outcome.late)

    async def unload(self, name: str) -> None:
        """Have no worker serve a model any more, until it is loaded again.

        Raises:
            UnknownModel: it is not served.
            WorkersLate: some of them serve it still.
        """
        async with self._changing:
            others = [each for each in self.now.models if each.name != name]
            if len(others) == len(self.now.models):
                raise UnknownModel(f"found {name!r}, expected a model that is served")
            problems = {k: v for k, v in self._problems.items() if k != name}
            outcome = await self._publish(others, problems, self._unloaded | {name})
        if outcome.late is not None:
            raise WorkersLate(outcome.late)

    async def _looked(self) -> Plan:
        """What is on disk; if nothing can be served, the index says so of all that is served."""
        names = {each.name for each in self.now.models}
        try:
            return (await asyncio.to_thread(self._look)).beside(names)
        except SnapensembleError as error:
            self._problems = {**self._problems, **dict.fromkeys(names, str(error))}
            self.now = self._told(self.now.models, self._problems, self._unloaded)
            raise

    async def _publish(
        self, models: Sequence[Planned], problems: Mapping[str, str], unloaded: frozenset[str]
    ) -> Outcome:
        """Tell all workers what to serve, and wait until they do.

        Models that any of them refuses are planned as they were. So is everything if none follows
        in time. Otherwise the plan stands, and whoever is late follows when it can.
        """
        former = self.now
        self._proposed = self._told(models, problems, unloaded)
        await self._wait_for_all(self._proposed.number)
        latest = [each.latest for each in self._followers]
        followed = [each for each in latest if each.number >= self._proposed.number]
        refused = {name: why for each in followed for name, why in each.refused.items()}
        if not followed:
            models, problems, unloaded = former.models, self._problems, self._unloaded
        if refused:
            kept = [each for each in former.models if each.name in refused]
            models = [*(each for each in models if each.name not in refused), *kept]
            problems, unloaded = {**problems, **refused}, unloaded | (self._unloaded & set(refused))
        log_new(problems, self._problems)
        self._problems, self._unloaded = problems, unloaded
        self.now, self._proposed = self._proposed, None
        self.now = self._told(models, problems, unloaded)
        if len(followed) == len(latest) > 0:
            await self._wait_for_all(self.now.number)  # those that had loaded what others refused
            return Outcome(refused, None)
        becomes = "the others follow when they can" if followed else "nothing has changed"
        counts = f"{len(followed)} of {len(latest)} workers"
        return Outcome(refused, f"{counts} have followed within {self._limit_s:.0f} s; {becomes}")

    def _told(
        self, models: Sequence[Planned], problems: Mapping[str, str], unloaded: frozenset[str]
    ) -> Plan:
        """The plan of these models, which all workers are told unless it is the present one."""
        why = {**problems, **dict.fromkeys(unloaded, "unloaded")}
        if (set(models), why) == (set(self.now.models), self.now.problems):
            return self.now
        plan = Plan(models=tuple(models), problems=why, number=self.now.number + 1)
        for follower in self._followers:
            follower.tell(plan)
        return plan

    async def _wait_for_all(self, number: int) -> None:
        """Wait until all workers have followed the plan of a number, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limit_s):
                while any(each.latest.number < number for each in self._followers):
                    self._news.clear()
                    await self._news.wait()

    async def _answer(self, follower: Follower, asked: Asked) -> None:
        """Do what a worker's client asks for, and tell the worker what became of it."""
        error: str | None = None
        text = ""
        try:
            await (self.load if asked.change == "load" else self.unload)(asked.model)
        except SnapensembleError as failure:
            error, text = type(failure).__name__, str(failure)
        except Exception:
            log.exception("nothing has changed")
            error, text = LoadFailed.__name__, "the server has a defect; its log says more"
        if error is not None and error not in ERRORS:
            error = LoadFailed.__name__
        follower.tell(Answered(asked=asked.asked, error=error, text=text))

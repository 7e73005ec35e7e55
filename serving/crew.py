"""Keeps worker processes running: one that dies is replaced, a signal ends all in order."""

import asyncio
import logging
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable

from contracts.errors import SnapensembleError
from contracts.stopping import SIGNALS, Stopped

LONG_LIFE_S = 30.0
MAX_PAUSE_S = 30.0
log = logging.getLogger("snapensemble")


class WorkerFailed(SnapensembleError):
    """A worker ended before it was ready, and no other one is left."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker did not start: {how_it_ended(code)}; its message is above")
        self.code = code


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def pause_s(short_lives: int) -> float:
    """Seconds before the next try, after so many lives in a row that were short."""
    return min(MAX_PAUSE_S, 2.0 ** (short_lives - 2)) if short_lives > 1 else 0.0


class Crew:
    """Worker processes, and what becomes of them.

    Args:
        spawn: starts the process of a place; it prints a line when it is ready.
        count: how many places.
        on_end: told the id of each process that has ended.
        on_stop: called at the first signal.
    """

    def __init__(
        self,
        spawn: Callable[[int], Awaitable[Process]],
        count: int,
        *,
        on_end: Callable[[int], None] = lambda _: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._spawn = spawn
        self._count = count
        self._on_end = on_end
        self._on_stop = on_stop
        self._processes: set[Process] = set()
        self._signals: list[signal.Signals] = []
        self._stopping = asyncio.Event()

    async def run(self, announce: Callable[[], None]) -> int:
        """Start all, replace those that die, and end all after a signal.

        The first starts alone: what keeps every worker from starting is said once.

        Args:
            announce: called when all are ready.

        Returns:
            0 after an orderly end, 128 + signal if a second one has cut it short.

        Raises:
            WorkerFailed: one could not start, and no other is left.
            Stopped: a signal came before all were ready.
        """
        loop = asyncio.get_running_loop()
        for signum in SIGNALS:
            loop.add_signal_handler(signum, self.stop, signum)
        try:
            workers = await self._start_all()
            announce()
            await asyncio.gather(*(self._keep(*each) for each in enumerate(workers)))
        finally:
            await self._end_all()
        return 128 + self._signals[1] if len(self._signals) > 1 else 0

    def stop(self, signum: signal.Signals) -> None:
        """The first signal goes on to every worker; a second one kills them."""
        self._signals.append(signum)
        if len(self._signals) == 1:
            self._on_stop()
            self._stopping.set()
        for process in self._processes:
            self._tell(process)

    async def _start_all(self) -> list[Process]:
        try:
            first = await self._start(0)
            others = await asyncio.gather(
                *map(self._start, range(1, self._count)), return_exceptions=True
            )
            for other in others:
                if isinstance(other, BaseException):
                    raise other
        except WorkerFailed:
            if self._signals:
                raise Stopped(self._signals[0]) from None
            raise
        return [first, *(other for other in others if isinstance(other, Process))]

    async def _keep(self, place: int, process: Process | None) -> None:
        """Have a worker in this place until a signal comes."""
        short_lives = 0
        while process is not None:
            began = time.monotonic()
            code = await self._end_of(process)
            if self._stopping.is_set():
                return
            log.error("worker %d has ended: %s; starting another", process.pid, how_it_ended(code))
            short_lives = short_lives + 1 if time.monotonic() - began < LONG_LIFE_S else 1
            process = await self._replacement(place, short_lives)

    async def _replacement(self, place: int, short_lives: int) -> Process | None:
        """The next worker of a place, or None after a signal."""
        while not await self._stops_within(pause_s(short_lives)):
            try:
                return await self._start(place)
            except WorkerFailed as failure:
                if not self._processes:  # nobody answers any more
                    raise
                log.error("%s", failure)
                short_lives += 1
        return None

    async def _start(self, place: int) -> Process:
        """A worker that is ready; WorkerFailed if it ends instead."""
        process = await self._spawn(place)
        self._processes.add(process)
        if self._signals:
            self._tell(process)
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise WorkerFailed(await self._end_of(process))
        return process

    async def _end_of(self, process: Process) -> int:
        code = await process.wait()
        self._processes.discard(process)
        self._on_end(process.pid)
        return code

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _end_all(self) -> None:
        if self._processes and not self._signals:
            self.stop(signal.SIGTERM)
        await asyncio.gather(*(self._end_of(process) for process in list(self._processes)))

    def _tell(self, process: Process) -> None:
        if process.returncode is None:
            process.send_signal(self._signals[0] if len(self._signals) == 1 else signal.SIGKILL)

"""Keeps worker processes running: one that dies is replaced, a signal ends all in order."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from snapensemble.contracts.errors import SnapensembleError
from snapensemble.contracts.process import Stopped, raise_if_stopped, signals_to_obey
from snapensemble.serving.process.watchdog import CUT_OFF

LONG_LIFE_S = 30.0  # a worker that has run so long is replaced at once
MAX_PAUSE_S = 30.0
MAX_TRIES = 10  # in a row, to fill a place while no worker answers
REPEAT_S = 2.0  # after which a signal is sent again
LAST_S = 5.0  # to end by itself, for a worker that could not get ready
log = logging.getLogger("snapensemble")


class WorkerFailed(SnapensembleError):
    """A worker ended before it was ready, or the system could not start it.

    Args:
        code: with which it ended; None if it was not started.
        why: the system could not start it.
    """

    def __init__(self, code: int | None, why: str = "") -> None:
        how = why if code is None else f"{how_it_ended(code)}; its message is above"
        super().__init__(f"a worker did not start: {how}")
        self.code = code

    @property
    def is_its_own(self) -> bool:
        """Whether it has ended by itself, as every other one would."""
        return self.code is not None and self.code >= 0


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def pause_s(short_lives: int) -> float:
    """Seconds before the next try, after so many workers in a row that have ended soon."""
    return min(MAX_PAUSE_S, 2.0 ** (short_lives - 2)) if short_lives > 1 else 0.0


@contextlib.contextmanager
def woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Wake the event loop, which may wait for ever, for each signal that comes.

    Python's handlers run on the main thread alone. The system may give a signal to any other, such
    as one that comes to a process that is stopped: then nothing interrupts what the loop waits for.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for each in (ours, theirs):
            each.setblocking(False)
        loop.add_reader(ours, ours.recv, 4096)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(ours)


async def nothing_beside() -> None:
    """Do nothing while the workers are kept."""


@dataclass(frozen=True, eq=False)
class Worker:
    """A process, and how to learn that it is ready.

    Args:
        process: the worker.
        is_ready: waits until it is ready (True) or cannot be any more (False).
    """

    process: Process
    is_ready: Callable[[], Awaitable[bool]]


class Supervisor:
    """Keeps a worker process in each place, and ends all of them after a signal.

    Args:
        spawn: starts the process of a place.
        count: how many places there are.
        on_end: called with the place of each process that has ended.
        on_signal: called with each signal when it comes, whatever else is going on: must be quick.
        on_stop: called with the first signal, before the workers get it.
        on_hangup: called, on the event loop, with each SIGHUP, which then ends nothing.
        beside: runs on the event loop while the workers are kept, until it is cancelled.
        patience_s: for each signal, after how many seconds those that have not ended are killed.
    """

    def __init__(
        self,
        spawn: Callable[[int], Awaitable[Worker]],
        count: int,
        *,
        on_end: Callable[[int], None] = lambda _: None,
        on_signal: Callable[[int], None] = lambda _: None,
        on_stop: Callable[[signal.Signals], None] = lambda _: None,
        on_hangup: Callable[[], None] | None = None,
        beside: Callable[[], Awaitable[None]] = nothing_beside,
        patience_s: Callable[[signal.Signals], float] = lambda _: 60.0,
    ) -> None:
        self._spawn = spawn
        self._count = count
        self._on_end = on_end
        self._on_signal = on_signal
        self._on_stop = on_stop
        self._on_hangup = on_hangup
        self._beside = beside
        self._patience_s = patience_s
        self._processes: dict[Process, int] = {}  # the place of each
        self._signals: list[signal.Signals] = []
        self._stopping = asyncio.Event()
        self._cut_off = False

    async def run(self, announce: Callable[[], None]) -> int:
        """Start all workers, replace those that die, and end all after a signal.

        The first starts alone, so that what keeps every worker from starting is logged once.

        Args:
            announce: called when all are ready.

        Returns:
            0 after an orderly end, `CUT_OFF` if a worker has not ended in time, 128 + signal if a
            second signal has cut the end short.

        Raises:
            WorkerFailed: a worker could not start, and no other is left.
            Stopped: a signal came before all were ready.
        """
        with self._obeying_signals():
            try:
                workers = await self._start_all()
                announce()
                beside = asyncio.ensure_future(self._beside())
                try:
                    await asyncio.gather(*(self._keep(*each) for each in enumerate(workers)))
                finally:
                    beside.cancel()
            finally:
                await self._end_all()
        if len(self._signals) > 1:
            return 128 + self._signals[1]
        return CUT_OFF if self._cut_off else 0

    def stop(self, signum: signal.Signals) -> None:
        """Pass the first signal on to every worker; a second one kills them."""
        self._signals.append(signum)
        if len(self._signals) == 1:
            self._on_stop(signum)
            self._stopping.set()
            loop = asyncio.get_running_loop()
            loop.call_later(self._patience_s(signum), self._lose_patience)
            loop.call_later(REPEAT_S, self._repeat)
        for process in self._processes:
            self._pass_signal_on(process)

    def kill(self) -> None:
        """Kill all workers, also those that are stopped; may be called on any thread."""
        for process in list(self._processes):
            if process.returncode is None:
                process.kill()

    @contextlib.contextmanager
    def _obeying_signals(self) -> Iterator[None]:
        """Set Python's own handlers: they run even where the event loop does not get on."""
        loop = asyncio.get_running_loop()

        def obey(signum: int, _frame: object) -> None:
            if signum == signal.SIGHUP and self._on_hangup is not None:
                loop.call_soon_threadsafe(self._on_hangup)
                return
            self._on_signal(signum)
            loop.call_soon_threadsafe(self.stop, signal.Signals(signum))

        before = {signum: signal.signal(signum, obey) for signum in signals_to_obey()}
        try:
            raise_if_stopped()  # by a signal that came before
            with woken_by_signals(loop):
                yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

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
        """Keep a worker in this place until a signal comes."""
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
        """The next worker of a place, or None after a signal.

        While no worker answers, one that ends by itself shows that none can start. One that is
        killed or not even started, by lack of memory perhaps, shows nothing: `MAX_TRIES` are made.
        """
        tries = 0
        while not await self._stops_within(pause_s(short_lives)):
            try:
                return await self._start(place)
            except WorkerFailed as failure:
                tries += 1
                if self._stopping.is_set():
                    return None
                if not self._processes and (failure.is_its_own or tries == MAX_TRIES):
                    raise
                log.error("%s", failure)
                short_lives += 1
        return None

    async def _start(self, place: int) -> Process:
        """Start a worker and wait until it is ready; raises WorkerFailed if that fails."""
        try:
            worker = await self._spawn(place)
        except OSError as error:
            why = f"{error.strerror or error}: memory, processes or open files may be used up"
            raise WorkerFailed(None, why) from error
        process = worker.process
        self._processes[process] = place
        if self._signals:
            self._pass_signal_on(process)
        if not await worker.is_ready():
            try:
                code = await asyncio.wait_for(self._end_of(process), LAST_S)
            except TimeoutError:
                process.kill()
                code = await self._end_of(process)
            raise WorkerFailed(code)
        return process

    async def _end_of(self, process: Process) -> int:
        code = await process.wait()
        place = self._processes.pop(process, None)
        if place is not None:
            self._on_end(place)
        if self._signals and code == CUT_OFF:
            self._cut_off = True
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

    def _repeat(self) -> None:
        """Pass the signal on again: Python loses one that comes while it cannot raise.

        To a worker that is ending already it says nothing new.
        """
        if len(self._signals) == 1 and self._processes:
            for process in self._processes:
                self._pass_signal_on(process)
            asyncio.get_running_loop().call_later(REPEAT_S, self._repeat)

    def _lose_patience(self) -> None:
        if self._processes:
            self._cut_off = True
            pids = ", ".join(str(process.pid) for process in self._processes)
            log.error("not ended in time after the signal, so killed: worker %s", pids)
            self.kill()

    def _pass_signal_on(self, process: Process) -> None:
        if process.returncode is not None:
            return
        first = self._signals[0] if len(self._signals) == 1 else signal.SIGKILL
        # Not by `send_signal`, which polls the process and so may take its exit code away from
        # whoever waits for it. SIGCONT lets a process that is stopped end in order, too.
        for signum in (first, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signum)

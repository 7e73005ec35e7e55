"""Lanes: threads that do the work of all schedulers of a process, in fair shares.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996, section 2): every scheduler has a
virtual time, which its tasks move on by the lane time that they took, and the one that is furthest
behind goes next. One that had nothing to do begins where the others are, so it saves up nothing.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from snapensemble.contracts.cpu import stand_back
from snapensemble.serving.inference.batch import Clock

Task = Callable[[Clock], None]


class TaskSource(Protocol):
    """What lanes know of a `Scheduler`. All of it is asked under the lanes' lock."""

    @property
    def backlog_s(self) -> float:
        """Seconds that its unanswered images would take if it had all lanes for itself."""

    @property
    def is_over(self) -> bool:
        """Whether it takes nothing more and has answered all."""

    def next_task(self) -> Task | None:
        """Something to do; None if there is nothing now."""


@dataclass(slots=True)
class _Share:
    left: threading.Condition  # notified when the scheduler may be over
    finished: float = 0.0  # virtual time, seconds of a lane
    served: int = 0  # the number of its last task among all
    running: int = 0


class Lanes:
    """The threads, which run while at least one scheduler has joined.

    Args:
        threads: how many.
        now: the clock by which shares are measured, seconds.
    """

    def __init__(self, threads: int, now: Callable[[], float] = time.monotonic) -> None:
        self.threads = threads
        self._now = now
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._shares: dict[TaskSource, _Share] = {}
        self._virtual_s = 0.0  # where the task began that was begun last
        self._served = 0
        self._running: list[threading.Thread] = []

    def join(self, source: TaskSource) -> None:
        """Do the work of a scheduler, too, from now on."""
        with self.lock:
            self._shares[source] = _Share(threading.Condition(self.lock))
            if self._running:
                return
            self._running = [
                threading.Thread(target=self._lane, name=f"lane-{i}", daemon=True)
                for i in range(self.threads)
            ]
            for thread in self._running:
                thread.start()

    def leave(self, source: TaskSource) -> None:
        """Wait until a scheduler, which is closed, is over, and do its work no more.

        The threads end with the last one.
        """
        with self.lock:
            share = self._shares[source]
            self._changed.notify_all()
            while share.running or not source.is_over:
                share.left.wait()
            del self._shares[source]
            ended = [] if self._shares else self._running
            if ended:
                self._running = []
                self._changed.notify_all()
        for thread in ended:
            thread.join()

    def notify(self, count: int) -> None:
        """Wake so many idle lanes; the lock is held."""
        self._changed.notify(count)

    def look_whether_over(self, source: TaskSource) -> None:
        """Tell whoever waits for a scheduler if it is over; the lock is held."""
        share = self._shares[source]
        if not share.running and source.is_over:
            share.left.notify_all()

    def wait_s(self, source: TaskSource) -> float:
        """Seconds until what a scheduler has now would be answered, from measured rates.

        Others take as much of the lanes as it does, as long as they have work.
        """
        own_s = source.backlog_s
        if len(self._shares) < 2:
            return own_s
        others = [each for each in list(self._shares) if each is not source]
        return own_s + sum(min(own_s, each.backlog_s) for each in others)

    def _lane(self) -> None:
        stand_back()  # behind the thread that answers clients, also those that are refused
        clock, this = Clock(), threading.current_thread()
        while (found := self._next(clock, this)) is not None:
            source, share, task = found
            began = self._now()
            task(clock)
            del task  # it holds a micro-batch
            self._done(source, share, self._now() - began)

    def _next(self, clock: Clock, this: threading.Thread) -> tuple[TaskSource, _Share, Task] | None:
        """Wait for something to do; None if this lane is no longer needed."""
        with self.lock:
            while this in self._running:
                for source, share in self._in_turn():
                    if (task := source.next_task()) is not None:
                        self._served += 1
                        self._virtual_s = max(self._virtual_s, share.finished)
                        share.finished = self._virtual_s
                        share.served = self._served
                        share.running += 1
                        return source, share, task
                    self.look_whether_over(source)  # all that waited may have left
                self._changed.wait()
                clock.lap()  # idle time is charged to no image
            return None

    def _in_turn(self) -> list[tuple[TaskSource, _Share]]:
        """The schedulers, the one that is furthest behind first."""
        found = list(self._shares.items())
        if len(found) > 1:
            now = self._virtual_s
            found.sort(key=lambda each: (max(each[1].finished, now), each[1].served))
        return found

    def _done(self, source: TaskSource, share: _Share, seconds: float) -> None:
        with self.lock:
            share.running -= 1
            share.finished += seconds
            self.look_whether_over(source)

"""The targets of a benchmark: the engine in this process, or a server."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from snapensemble.bench.figures import Usage
from snapensemble.bench.load import Answer, Ask, Sample
from snapensemble.bench.processes import cpu_seconds, peak_resident_bytes
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.errors import ServingError
from snapensemble.serving.http.problems import PROBLEMS
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.request import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An engine or a server that answers."""

    way: str
    ask: Ask
    pid: int | None  # the process whose processor time counts; None if it is not known
    is_client: bool  # that process is this one, which also sends the requests


class InProcess:
    """Asks the engine about images that are decoded already."""

    def __init__(self, engine: Engine, groups: Sequence[Sequence[Image]], mode: Mode) -> None:
        self._engine = engine
        self._groups = groups
        self._mode = mode

    async def __call__(self, number: int) -> Answer:
        """Submit the images of this number; what goes wrong is a code in the answer."""
        try:
            futures = self._engine.submit(self._groups[number % len(self._groups)], self._mode)
            answers = await asyncio.gather(*map(asyncio.wrap_future, futures))
        except ServingError as error:
            return Answer(PROBLEMS[type(error)][1])
        return Answer(members_used=sum(map(len, answers)))


def metered(target: Target, load: Callable[[], list[Sample]]) -> tuple[list[Sample], Usage]:
    """Run a load, and return its samples and what was used meanwhile."""
    started_s, client_started_s, started = _used_s(target), time.process_time(), time.monotonic()
    samples = load()
    ended_s, client_ended_s, ended = _used_s(target), time.process_time(), time.monotonic()
    usage = Usage(
        cpu_seconds=None if started_s is None or ended_s is None else ended_s - started_s,
        peak_memory_bytes=(
            None
            if target.pid is None
            else peak_resident_bytes(target.pid, children=not target.is_client)
        ),
        client_core_share=(
            None if target.is_client else (client_ended_s - client_started_s) / (ended - started)
        ),
    )
    return samples, usage


def _used_s(target: Target) -> float | None:
    if target.is_client:
        return time.process_time()  # without children, since the server is one of them
    return None if target.pid is None else cpu_seconds(target.pid)


async def check(ask: Ask, url: str) -> None:
    """Send a server one request.

    Raises:
        InvalidConfig: nobody answers, or not with predictions.
    """
    answer = await ask(0)
    if answer.code == "connection_failed":
        raise InvalidConfig(f"no answer from {url}; is a server running there?")
    if answer.code is not None:
        raise InvalidConfig(
            f"{url} answers the first request with {answer.code!r}, expected predictions; "
            "`snapensemble predict` shows the whole message"
        )
    if answer.members_used == 0:
        raise InvalidConfig(f"{url} does not answer as a snapensemble server does")

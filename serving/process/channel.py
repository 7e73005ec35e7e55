"""What the parent of several workers and each of them say to each other, one line each.

A worker hears on its input: the first line has the settings with their tokens, the second what to
serve, and each later one what to serve from then on, or the answer to what it has asked. It speaks
on a pipe of its own, so that whatever else writes to standard output is not taken for a message.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from snapensemble.serving.errors import LoadFailed, ServingError, UnknownModel, WorkersLate
from snapensemble.serving.inference.repository import Plan

MAX_LINE_BYTES = 2**20  # of a worker; the reasons of refused models are in it
ERRORS: dict[str, type[ServingError]] = {
    error.__name__: error for error in (UnknownModel, LoadFailed, WorkersLate)
}
log = logging.getLogger("snapensemble")


class Message(BaseModel):
    """A line of the channel."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Ready(Message):
    """A worker's first message, that it accepts connections."""

    message: Literal["ready"] = "ready"
    protocol: Literal[2] = 2  # another version of this software may have another number
    pid: int


class Followed(Message):
    """A worker serves the plan of this number, except what it could not load, with the reasons."""

    number: int
    refused: dict[str, str]


class Asked(Message):
    """A client of a worker wants a model loaded or unloaded."""

    asked: int  # counted by the worker
    change: Literal["load", "unload"]
    model: str


class Answered(Message):
    """What became of a request: all workers follow, or an error of `ERRORS` with its message."""

    asked: int
    error: str | None = None
    text: str = ""


_OF_WORKER: TypeAdapter[Followed | Asked] = TypeAdapter(Followed | Asked)
_OF_PARENT: TypeAdapter[Plan | Answered] = TypeAdapter(Plan | Answered)


def line_of(message: BaseModel, **secrets: str | None) -> bytes:
    """A message as it is written, with the values of these fields, which it does not show."""
    # Names of files may be no Unicode, which json can write and read, and pydantic cannot.
    return json.dumps({**message.model_dump(), **secrets}, default=str).encode() + b"\n"


def plan_of(line: bytes) -> Plan:
    """The plan of a line; raises ValueError if it has none."""
    return Plan.model_validate(json.loads(line))


class FromWorker:
    """Where a parent hears one worker.

    Args:
        reader: gets what comes.
        transport: of the pipe.
    """

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self._reader = reader
        self._transport = transport

    @classmethod
    async def on(cls, descriptor: int) -> "FromWorker":
        """Listen to a pipe from now on; the descriptor is closed when the worker is not heard."""
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
        )
        return cls(reader, transport)

    async def is_ready(self, pid: int) -> bool:
        """Wait until the worker has said that it is ready (True), or cannot do so any more."""
        try:
            line = await self._reader.readline()
        except BaseException:
            self._transport.close()
            raise
        ready = bool(line) and is_message_of(pid, line)
        if not ready:
            self._transport.close()
        return ready

    async def messages(self) -> AsyncIterator[Followed | Asked]:
        """What a worker that is ready says, until it has ended."""
        with contextlib.closing(self._transport):
            while line := await self._reader.readline():
                try:
                    yield _OF_WORKER.validate_python(json.loads(line))
                except ValueError:  # cut off, since it was killed
                    log.error("a worker said %.80r, which is no message", line)


def is_message_of(pid: int, line: bytes) -> bool:
    """Whether a line is the message of this process that it is ready; the log says if it is not."""
    try:
        message = Ready.model_validate(json.loads(line))
    except ValueError:
        log.error(
            "worker %d said %.80r, expected that it is ready; was the software exchanged while the "
            "server ran? Start it again",
            pid,
            line,
        )
        return False
    if message.pid != pid:
        log.error("worker %d said that %d is ready", pid, message.pid)
    return message.pid == pid


class Parent:
    """The parent, as a worker knows it: what it plans, and what it does for a client.

    Args:
        first: what it has said first is to be served.
        descriptor: of the pipe on which it hears this worker.
    """

    def __init__(self, first: Plan, descriptor: int) -> None:
        self._latest = first
        self._descriptor = descriptor
        self._tell: Callable[[], None] = lambda: None
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Answered]] = {}

    def say(self, message: Message) -> None:
        """Tell the parent something, which may have died."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._descriptor, line_of(message))

    def say_ready(self) -> None:
        """Tell the parent that this worker accepts connections."""
        self.say(Ready(pid=os.getpid()))

    def look(self) -> Plan:
        """The models that are to be served now."""
        return self._latest.model_copy(update={"problems": {}})

    def told_to(self, tell: Callable[[], None]) -> None:
        """Call this from now on for each plan that comes, and for what has come before."""
        self._tell = tell
        tell()

    def hear(self, line: bytes) -> None:
        """Take up a line of the parent; on any thread."""
        try:
            message = _OF_PARENT.validate_python(json.loads(line))
        except ValueError:  # of a parent that died in the middle of it
            return
        if isinstance(message, Plan):
            self._latest = message
            self._tell()
        elif waiting := self._waiting.get(message.asked):
            with contextlib.suppress(RuntimeError):  # the loop has ended
                waiting.get_loop().call_soon_threadsafe(_answer, waiting, message)

    def followed(self, plan: Plan, refused: Mapping[str, str]) -> None:
        """Say that a plan is served, except what could not be loaded."""
        self.say(Followed(number=plan.number, refused=dict(refused)))

    def missing(self) -> dict[str, str]:
        """Why models are not served as they are on disk, by name."""
        return dict(self._latest.problems)

    async def load(self, name: str) -> None:
        """Have all workers serve what is on disk of a model.

        Raises:
            UnknownModel: there is nothing of this name.
            LoadFailed: it cannot be served; nothing has changed.
            WorkersLate: not all of them serve it yet.
        """
        await self._ask("load", name)

    async def unload(self, name: str) -> None:
        """Have no worker serve a model any more.

        Raises:
            UnknownModel: it is not served.
            WorkersLate: some of them serve it still.
        """
        await self._ask("unload", name)

    async def _ask(self, change: Literal["load", "unload"], name: str) -> None:
        asked = Asked(asked=next(self._numbers), change=change, model=name)
        waiting = self._waiting[asked.asked] = asyncio.get_running_loop().create_future()
        try:
            self.say(asked)
            answered = await waiting
        finally:
            del self._waiting[asked.asked]
        if answered.error is not None:
            raise ERRORS[answered.error](answered.text)


def _answer(waiting: "asyncio.Future[Answered]", answered: Answered) -> None:
    if not waiting.done():  # the client may have left meanwhile
        waiting.set_result(answered)

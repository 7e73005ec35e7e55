"""Log lines on stderr, as text or JSON, each with the id of the request that it is about.

Bodies, tokens, paths and names that clients chose are never in them.
"""

import json
import logging
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

STANDARD_ERROR = 2
MOST_LINES = 10_000  # that may wait for their reader
LAST_S = 0.5  # for the lines that wait when the process ends

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_encoder = json.JSONEncoder(default=str)  # kept, since to make one takes as long as to use it
access_log = logging.getLogger("snapensemble.access")


def log_access(**fields: object) -> None:
    """Write one line about a request that is over."""
    access_log.info("request", extra={"fields": fields})


def configure_logging(log_format: LogFormat) -> None:
    """Send the log of the whole process to stderr, from `info` on."""
    handler = LinesAside()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    handler.addFilter(OneTracebackAtATime())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class LinesAside(logging.Handler):
    """Writes lines on a thread of its own, so that nobody waits for whoever reads them.

    A terminal that is held, or a collector that is slow, would stop the event loop otherwise, and
    with it every answer. Lines beyond those that may wait are lost, and a later one says how many.

    Args:
        descriptor: of the open file that takes the lines.
        most: how many may wait.
    """

    def __init__(self, descriptor: int = STANDARD_ERROR, most: int = MOST_LINES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._most = most
        self._lines: deque[str] = deque()  # that are not written yet
        self._lost = 0
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Let the line of a record be written soon."""
        line = self.format(record)
        with self._changed:
            if self._writer.ident is None:
                self._writer.start()
            if len(self._lines) < self._most:
                self._lines.append(line)
                self._changed.notify_all()
            else:
                self._lost += 1

    def flush(self) -> None:
        """Wait until all lines are written, but not for long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, LAST_S)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                written = len(self._lines)
                text = "".join(f"{line}\n" for line in self._lines)
            _write_all(self._descriptor, text.encode(errors="backslashreplace"))
            with self._changed:
                for _ in range(written):
                    self._lines.popleft()
                if self._lost:
                    self._lines.append(self.format(_loss(self._lost)))
                    self._lost = 0
                self._changed.notify_all()


def _write_all(descriptor: int, data: bytes) -> None:
    """Write to an open file, however long that takes; nothing if nobody can read it any more."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another program that has it does not want to wait
            select.select([], [descriptor], [])
        except OSError:
            return


def _loss(lines: int) -> logging.LogRecord:
    """The record that lines were lost."""
    text = "%d lines of the log are lost: their reader was too slow"
    return access_log.makeRecord("snapensemble", logging.WARNING, __file__, 0, text, (lines,), None)


class OneTracebackAtATime(logging.Filter):
    """Writes the traceback of one place in the code once in a while, and a line each time.

    Otherwise whoever finds a request that fails could fill a disk, with a few bytes for each.

    Args:
        every_s: seconds after which the traceback of a place is written again.
        clock: tells them; it must not jump, as the time of records does.
    """

    MOST_PLACES = 100

    def __init__(self, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s = every_s
        self._clock = clock
        self._written: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, without a traceback that was written just before."""
        if not record.exc_info or record.exc_info[0] is None:
            return True
        traceback = record.exc_info[2]
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        where = None if traceback is None else (traceback.tb_frame.f_code, traceback.tb_lineno)
        place = (record.pathname, record.lineno, record.exc_info[0], where)
        now = self._clock()
        if now - self._written.get(place, -math.inf) < self._every_s:
            record.msg = f"{record.getMessage()}: {record.exc_info[0].__name__}, as before"
            record.args = record.exc_info = record.exc_text = None
            return True
        if len(self._written) >= self.MOST_PLACES:
            self._written.clear()
        self._written[place] = now
        return True


class JsonLines(logging.Formatter):
    """One JSON object per line; a traceback is one of its strings."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_details(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoder.encode(line)


class TextLines(logging.Formatter):
    """Lines for people: time, level, message, then `name=value` words."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # logging's name
        """The first line; a traceback follows it."""
        words = (f"{name}={value}" for name, value in _details(record).items())
        return " ".join([super().formatMessage(record), *words])


def _details(record: logging.LogRecord) -> dict[str, Any]:
    details: dict[str, Any] = dict(getattr(record, "fields", {}))
    identity = request_id.get()
    return details if identity is None else {**details, "request_id": identity}

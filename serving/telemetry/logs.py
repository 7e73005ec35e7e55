"""Log lines on stderr, as text or JSON, each with the id of the request that it is about.

Bodies, tokens, paths and names that clients chose are never in them.
"""

import json
import logging
import math
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_encoder = json.JSONEncoder(default=str)  # kept, since to make one takes as long as to use it
access_log = logging.getLogger("snapensemble.access")


def log_access(**fields: object) -> None:
    """Write one line about a request that is over."""
    access_log.info("request", extra={"fields": fields})


def configure_logging(log_format: LogFormat) -> None:
    """Send the log of the whole process to stderr, from `info` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    handler.addFilter(OneTracebackAtATime())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class OneTracebackAtATime(logging.Filter):
    """Writes the traceback of one place in the code once in a while, and a line each time.

    Otherwise whoever finds a request that fails could fill a disk, with a few bytes for each.

    Args:
        every_s: seconds after which the traceback of a place is written again.
    """

    MOST_PLACES = 100

    def __init__(self, every_s: float = 60.0) -> None:
        super().__init__()
        self._every_s = every_s
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
        if record.created - self._written.get(place, -math.inf) < self._every_s:
            record.msg = f"{record.getMessage()}: {record.exc_info[0].__name__}, as before"
            record.args = record.exc_info = record.exc_text = None
            return True
        if len(self._written) >= self.MOST_PLACES:
            self._written.clear()
        self._written[place] = record.created
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

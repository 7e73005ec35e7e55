"""Log lines on stderr, as text or JSON, each with the id of the request that it is about.

Bodies, tokens, paths and names that clients chose are never in them.
"""

import json
import logging
import random
import re
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_ACCEPTED = re.compile(
    rb"[\x21-\x7e]{1,128}"
)  # printable and without a space, so it stays one word
_ids = random.Random()  # noqa: S311 # unique, not secret; asking the system takes ten times as long
access_log = logging.getLogger("snapensemble.access")


def id_of_request(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The X-Request-ID that came with a request, or a new one if there is none that can be used.

    Args:
        headers: names in lower case, as ASGI gives them.
    """
    for name, value in headers:
        if name == b"x-request-id" and _ACCEPTED.fullmatch(value):
            return value.decode()
    return f"{_ids.getrandbits(128):032x}"


def log_access(**fields: object) -> None:
    """One line about an answered request."""
    access_log.info("request", extra={"fields": fields})


def configure_logging(log_format: LogFormat) -> None:
    """Send the log of the whole process to stderr, from `info` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JsonLines(logging.Formatter):
    """One JSON object per line; a traceback is one of its strings."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_details(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """For people: time, level, message, then `name=value` words."""

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

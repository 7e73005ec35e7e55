import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.logs import (
    JsonLines,
    LinesAside,
    OneTracebackAtATime,
    TextLines,
    request_id,
)
from tests.factories import encoded, picture
from tests.fakes import client, fail_members

PNG = encoded(picture(1))


class Log(logging.StreamHandler[io.StringIO]):
    """What the server writes, as JSON lines."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.setFormatter(JsonLines())

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    log, logger = Log(), logging.getLogger("snapensemble")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    yield log
    logger.removeHandler(log)
    logger.setLevel(level)


async def test_nothing_is_logged_of_requests_by_default(http: httpx.AsyncClient, log: Log) -> None:
    await http.post("/predict", content=PNG)
    assert log.lines() == []


async def test_the_access_log_has_a_line_per_request(engine: Engine, log: Log) -> None:
    async with client(create_app(Settings(access_log=True), engine)) as http:
        files = [("f", ("secret-name.png", PNG))] * 2
        await http.post("/predict?top=1", files=files, headers={"x-request-id": "abc"})
        await http.get("/private/path")
    answered, unknown = log.lines()
    milliseconds = answered.pop("milliseconds")
    assert milliseconds >= 0 and answered.pop("time").endswith("+00:00")
    assert answered == {
        "level": "info", "logger": "snapensemble.access", "message": "request",
        "method": "POST", "route": "/predict", "status": 200, "images": 2, "members_used": 6,
        "request_id": "abc",
    }  # fmt: skip
    assert unknown["route"] == "other" and unknown["status"] == 404
    text = log.stream.getvalue()
    assert "secret-name" not in text and "private" not in text and "top=1" not in text


async def test_a_request_that_fails_is_logged_with_its_images(engine: Engine, log: Log) -> None:
    async with client(create_app(Settings(access_log=True), engine)) as http:
        await http.post("/predict", content=b"text")
    (line,) = log.lines()
    assert line["status"] == 422 and line["images"] == 1 and "members_used" not in line


async def test_a_failure_is_logged_with_the_id_of_its_request(
    http: httpx.AsyncClient, engine: Engine, log: Log
) -> None:
    fail_members(engine, RuntimeError("no memory"))
    await http.post("/predict", content=PNG, headers={"x-request-id": "abc"})
    (line,) = log.lines()
    assert line["level"] == "error" and line["request_id"] == "abc"
    assert "RuntimeError: no memory" in line["exception"]


def record(message: str, **extra: Any) -> logging.LogRecord:
    record = logging.LogRecord("snapensemble", logging.INFO, "x.py", 1, message, (), None)
    record.__dict__.update(extra)
    return record


def test_a_json_line_is_one_line_whatever_is_in_it() -> None:
    line = JsonLines().format(record("one\ntwo\u2028\ud800", fields={"status": 200}))
    assert len(line.splitlines()) == 1 and json.loads(line)["message"] == "one\ntwo\u2028\ud800"


def test_a_text_line_ends_with_its_fields() -> None:
    token = request_id.set("abc")
    line = TextLines().format(record("request", fields={"status": 200}))
    request_id.reset(token)
    assert line.endswith(" INFO request status=200 request_id=abc")


def failed(error: type[Exception] = ValueError) -> logging.LogRecord:
    try:
        raise error("of a client's making")
    except error:
        return logging.LogRecord("x", 40, __file__, 1, "failed %s", ("here",), sys.exc_info())


def test_the_traceback_of_one_place_is_written_once_in_a_while_and_a_short_line_each_time() -> None:
    seconds, lines = (0, 1, 2, 59, 61), list[str]()
    one_at_a_time = OneTracebackAtATime(every_s=60, clock=lambda: seconds[len(lines)])
    for error in (ValueError, ValueError, KeyError, ValueError, ValueError):
        record = failed(error)
        assert one_at_a_time.filter(record)
        lines.append(TextLines().format(record))
    assert ["Traceback" in line for line in lines] == [True, False, True, False, True]
    assert lines[1].endswith("failed here: ValueError, as before")


def test_a_system_clock_that_is_put_back_hides_no_traceback() -> None:
    now = 0
    one_at_a_time = OneTracebackAtATime(every_s=60, clock=lambda: now)
    before, after = failed(), failed()
    after.created = before.created - 86_400
    one_at_a_time.filter(before)
    now = 61
    assert one_at_a_time.filter(after) and "Traceback" in TextLines().format(after)


def test_places_that_are_remembered_are_bounded() -> None:
    one_at_a_time = OneTracebackAtATime()
    for number in range(1000):
        record = failed()
        record.lineno = number
        one_at_a_time.filter(record)
    assert len(one_at_a_time._written) <= one_at_a_time.MOST_PLACES


def test_lines_that_nobody_reads_keep_nobody_waiting_and_their_loss_is_said() -> None:
    ours, theirs = os.pipe()
    log = LinesAside(theirs, most=10)
    log.setFormatter(TextLines())
    long = "x" * 100_000  # more than a pipe holds
    for number in range(100):
        log.emit(record(f"{number} {long}"))
    with open(ours) as reader:
        read = [reader.readline() for _ in range(10)]
        assert [line.split()[3] for line in read] == [str(number) for number in range(10)]
        assert "90 lines of the log are lost" in reader.readline()
    log.flush()
    os.close(theirs)


def test_the_end_of_a_process_waits_for_its_last_lines() -> None:
    program = (
        "import logging\n"
        "from snapensemble.serving.telemetry.logs import configure_logging\n"
        "configure_logging('text')\n"
        "for number in range(1000): logging.info(number)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert len(done.stderr.splitlines()) == 1000

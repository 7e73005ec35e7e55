import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serving.app import create_app
from serving.engine import Engine
from serving.logs import JsonLines, TextLines, request_id
from serving.settings import Settings
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

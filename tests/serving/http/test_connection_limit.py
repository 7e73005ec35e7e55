"""More connections than a server takes."""

from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

import pytest

from snapensemble.server_process import server_process
from tests.factories import encoded, make_bundle, picture


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that takes two connections."""
    bundle_dir = make_bundle(tmp_path_factory.mktemp("server") / "bundle")
    with server_process(bundle_dir, "--port", "0", "--max-connections", "2") as (_, url):
        yield url


def connect(stack: ExitStack, url: str) -> HTTPConnection:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    stack.callback(connection.close)
    connection.connect()
    return connection


def ask(connection: HTTPConnection, method: str, path: str, body: bytes = b"") -> HTTPResponse:
    connection.request(method, path, body or None)
    return connection.getresponse()


def test_a_prediction_over_one_too_many_is_refused_and_the_connection_closed(url: str) -> None:
    with ExitStack() as stack:
        first, second, third = (connect(stack, url) for _ in range(3))
        for one in (first, second):  # answered: the server knows all three by then
            assert ask(one, "GET", "/health/live").read()
        reply = ask(third, "POST", "/predict", encoded(picture(1)))
        assert reply.status == 503 and b"too many connections" in reply.read()
        assert reply.headers["retry-after"] and reply.headers["connection"] == "close"
        reply = ask(first, "POST", "/predict", encoded(picture(1)))  # now there are two
        assert reply.status == 200 and reply.read()


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/model"])
def test_whoever_watches_the_server_is_answered_all_the_same(url: str, path: str) -> None:
    with ExitStack() as stack:
        others = [connect(stack, url) for _ in range(2)]
        for one in others:
            assert ask(one, "GET", "/health/live").read()
        reply = ask(connect(stack, url), "GET", path)
        assert reply.status == 200 and reply.read()
        assert reply.headers["connection"] == "close"


def test_who_comes_when_others_have_gone_is_answered(url: str) -> None:
    with ExitStack() as stack:
        others = [connect(stack, url) for _ in range(2)]
        for one in others:
            assert ask(one, "GET", "/health/live").read()
        assert ask(connect(stack, url), "POST", "/predict", encoded(picture(1))).status == 503
    for _ in range(1000):  # the server has to notice first
        with ExitStack() as stack:
            reply = ask(connect(stack, url), "POST", "/predict", encoded(picture(1)))
            if reply.status == 200:
                return
            assert reply.status == 503 and reply.read()
    raise AssertionError("still refused")

"""Both clients against real servers, and against one that refuses first."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import snapensemble
from snapensemble.client.errors import (
    RefusedPicture,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from snapensemble.contracts.errors import InvalidConfig, SnapensembleError
from snapensemble.predictions import Prediction
from snapensemble.server_process import server_process
from tests.factories import encoded, make_cascade_bundle, picture

Predict = Callable[..., Any]
TOKEN = "a-token-of-the-tests-of-clients"
KEYS = st.sampled_from(
    ["predictions", "model", "class", "index", "top", "uncertainty", "code", "detail", "title"]
)
PICTURES = [encoded(picture(seed)) for seed in range(23)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cascade_bundle(tmp_path_factory.mktemp("client") / "bundle")


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    (bundle.parent / "tokens").write_text(f"{TOKEN}\n")
    flags = ["--port", "0", "--max-images-per-request", "4"]
    with server_process(bundle, *flags, "--tokens-file", str(bundle.parent / "tokens")) as (_, url):
        yield url


def sync_predict(url: str, pictures: Any, *, asked: Any = None, **options: Any) -> Any:
    with snapensemble.Client(url, **options) as client:
        return client.predict(pictures, **(asked or {}))


def async_predict(url: str, pictures: Any, *, asked: Any = None, **options: Any) -> Any:
    async def ask() -> Any:
        async with snapensemble.AsyncClient(url, **options) as client:
            return await client.predict(pictures, **(asked or {}))

    return asyncio.run(ask())


both = pytest.mark.parametrize("predict", [sync_predict, async_predict])


def same(found: list[Prediction], expected: list[Prediction]) -> None:
    for one, two in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-6)
        assert (one.class_name, one.prediction_set) == (two.class_name, two.prediction_set)


@both
def test_many_pictures_of_all_kinds_have_the_answers_of_the_bundle(
    predict: Predict, url: str, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    image = picture(5)
    pictures: list[Any] = [
        *PICTURES,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        image,
        np.asarray(image),
    ]
    with snapensemble.load(bundle) as ensemble:
        expected = ensemble.predict(pictures, coverage=0.9)
    found = predict(url, pictures, token=TOKEN, asked={"coverage": 0.9})
    same(found, expected)
    same([predict(url, PICTURES[0], token=TOKEN, asked={"coverage": 0.9})], expected[:1])
    assert predict(url, [], token=TOKEN) == []


@both
def test_a_server_that_wants_a_token_says_so_once(predict: Predict, url: str) -> None:
    with pytest.raises(Unauthorized) as raised:
        predict(url, PICTURES[0])
    problem = raised.value.problem
    assert (problem.status, problem.code) == (401, "unauthorized") and problem.request_id


@both
def test_the_bad_one_of_many_pictures_is_named(predict: Predict, url: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    pictures = [*PICTURES[:9], tmp_path / "text.png", *PICTURES, tmp_path / "none.png"]
    with pytest.raises(RefusedPicture, match=r"text\.png: .* answered 422: not an image") as raised:
        predict(url, pictures, token=TOKEN)
    assert raised.value.index == 9 and raised.value.problem.code == "invalid_image"
    with pytest.raises(snapensemble.BadPicture, match=r"none\.png: No such file") as unread:
        predict(url, [*PICTURES, tmp_path / "none.png"], token=TOKEN)
    assert unread.value.index == len(PICTURES)


@both
def test_the_answer_of_the_server_to_what_it_cannot_grant_is_an_error(
    predict: Predict, url: str
) -> None:
    with pytest.raises(snapensemble.ServerProblem, match="coverage: got 0.5"):
        predict(url, PICTURES[0], token=TOKEN, asked={"coverage": 0.5})


def test_both_clients_tell_what_is_served(url: str) -> None:
    async def ask() -> dict[str, Any]:
        async with snapensemble.AsyncClient(url, token=TOKEN) as client:
            return await client.model()

    with snapensemble.Client(f"{url}/", token=TOKEN) as client:
        assert client.model()["classes"] == asyncio.run(ask())["classes"] == ["ant", "bee", "cow"]


class Refusing(BaseHTTPRequestHandler):
    """Is busy, breaks the connection, or answers: as its script says."""

    script: ClassVar[list[str]]
    seen: ClassVar[list[bytes]]

    def do_POST(self) -> None:
        self.seen.append(self.rfile.read(int(self.headers["content-length"])))
        said = self.script.pop(0) if self.script else "answer"
        if said == "break":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = b'{"code": "overloaded", "detail": "busy"}'
        if said == "answer":
            body = (
                b'{"predictions": [{"class": "a", "index": 0, "probability": 1, "top": [], '
                b'"uncertainty": {"entropy_nats": 0, "disagreement_nats": 0}, "members_used": 1}], '
                b'"model": {}}'
            )
        self.send_response(200 if said == "answer" else 503)
        self.send_header("content-length", str(len(body)))
        if said == "busy":
            self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[tuple[str, type[Refusing]]]:
    Refusing.script, Refusing.seen = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Refusing
    server.shutdown()
    thread.join()
    server.server_close()


@both
def test_503_and_broken_connections_are_tried_again(
    predict: Predict, refusing: tuple[str, type[Refusing]]
) -> None:
    url, handler = refusing
    handler.script[:] = ["busy", "break", "busy"]
    assert predict(url, b"x").class_name == "a"
    assert handler.seen == [b"x"] * 4


@both
def test_a_bound_on_attempts_is_kept(
    predict: Predict, refusing: tuple[str, type[Refusing]]
) -> None:
    url, handler = refusing
    handler.script[:] = ["busy"] * 9
    with pytest.raises(Unavailable) as raised:
        predict(url, b"x", attempts=2)
    assert len(handler.seen) == 2 and raised.value.problem.detail == "busy"


@both
def test_nobody_there_is_said_with_the_url(predict: Predict) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match=f"no answer from http://127.0.0.1:{port}: .+; is"):
        predict(f"http://127.0.0.1:{port}", b"x", attempts=1)


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency: expected a whole number, from 1 to 1000, got 0"),
        ({"within_s": 0}, "within_s: expected a number, above 0, got 0"),
        ({"attempts": "many"}, "attempts: expected a whole number"),
    ],
)
def test_a_wrong_option_is_named(predict: Predict, options: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        predict("http://127.0.0.1:1", b"x", **options)
    with pytest.raises(InvalidConfig, match="^url: expected a text, got 5"):
        snapensemble.Client(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="^url 'nowhere': expected something like"):
        predict("nowhere", b"x")


class Counting:
    """A transport that counts how many requests are under way, and lets them go together."""

    def __init__(self, wait_for: int) -> None:
        self.most = self.now = 0
        self._lock = threading.Lock()
        self._together = threading.Barrier(wait_for)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self._together.wait(30)
        with self._lock:
            self.now -= 1
        names = request.read().decode("latin-1")
        one = {
            "class": names, "index": 0, "probability": 1.0, "top": [], "members_used": 1,
            "uncertainty": {"entropy_nats": 0.0, "disagreement_nats": 0.0},
        }  # fmt: skip
        return httpx2.Response(200, json={"predictions": [one], "model": {}})


def test_so_many_requests_as_asked_are_under_way_and_answers_stay_in_order() -> None:
    counting = Counting(3)
    pictures = [b"%d" % number for number in range(12)]
    with snapensemble.Client(
        "http://server", concurrency=3, images_per_request=1,
        transport=httpx2.MockTransport(counting),
    ) as client:  # fmt: skip
        found = client.predict(pictures)
    assert [each.class_name.encode() for each in found] == pictures
    assert counting.most == 3


async def test_the_other_client_asks_so_many_at_a_time_too() -> None:
    now = most = 0
    begun: list[bytes] = []

    async def handle(request: httpx2.Request) -> httpx2.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        body = await request.aread()
        begun.append(body)
        while len(begun) % 3:  # until as many are under way as may be
            await asyncio.sleep(0)
        now -= 1
        one = {
            "class": body.decode(), "index": 0, "probability": 1.0, "top": [], "members_used": 1,
            "uncertainty": {"entropy_nats": 0.0, "disagreement_nats": 0.0},
        }  # fmt: skip
        return httpx2.Response(200, json={"predictions": [one], "model": {}})

    pictures = [b"%d" % number for number in range(12)]
    async with snapensemble.AsyncClient(
        "http://server", concurrency=3, images_per_request=1,
        transport=httpx2.MockTransport(handle),
    ) as client:  # fmt: skip
        found = await client.predict(pictures)
    assert [each.class_name.encode() for each in found] == pictures
    assert most == 3


async def test_a_request_without_an_end_is_given_up() -> None:
    async def handle(request: httpx2.Request) -> httpx2.Response:
        await asyncio.Event().wait()
        raise AssertionError

    transport = httpx2.MockTransport(handle)
    async with snapensemble.AsyncClient("http://s", within_s=0.01, transport=transport) as client:
        with pytest.raises(Unreachable, match="nothing came within"):
            await client.predict(b"x")


def test_the_client_that_blocks_gives_it_up_too_whatever_it_waits_for() -> None:
    is_over = threading.Event()

    def handle(_: httpx2.Request) -> httpx2.Response:
        is_over.wait()
        return httpx2.Response(200)

    transport = httpx2.MockTransport(handle)
    with snapensemble.Client("http://s", within_s=0.01, transport=transport) as client:
        try:
            for ask in (client.model, lambda: client.predict([b"x", b"y"])):
                with pytest.raises(Unreachable, match="nothing came within"):
                    ask()
        finally:
            is_over.set()


class Endless(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """An answer without an end, of pieces that each come soon."""

    def __init__(self, piece: bytes, every_s: float) -> None:
        self._piece = piece
        self._every_s = every_s

    def __iter__(self) -> Iterator[bytes]:
        while True:
            time.sleep(self._every_s)
            yield self._piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


@both
@pytest.mark.parametrize(
    ("piece", "every_s", "error"),
    [(b" ", 0.01, Unreachable), (bytes(2**16), 0.0, UnexpectedAnswer)],
)
def test_an_answer_without_an_end_is_given_up(
    predict: Predict,
    piece: bytes,
    every_s: float,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("snapensemble.client.wire.MOST_BYTES", 2**20)
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=Endless(piece, every_s)))
    within_s = 0.2 if every_s else 30
    with pytest.raises(error):
        predict("http://s", b"x", within_s=within_s, transport=transport)


@both
def test_progress_is_told(predict: Predict, url: str) -> None:
    told: list[tuple[int, int]] = []
    asked = {"progress": lambda done, total: told.append((done, total))}
    predict(url, iter(PICTURES), token=TOKEN, images_per_request=4, asked=asked)
    assert told == [(done, 23) for done in (4, 8, 12, 16, 20, 23)]


def test_a_bar_is_drawn_on_a_terminal(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("snapensemble.many.progress.BAR_S", 0.0)
    sync_predict(url, PICTURES, token=TOKEN, images_per_request=4, asked={"progress": True})
    assert "pictures" in capsys.readouterr().err


def test_a_client_is_shared_by_threads(url: str) -> None:
    with snapensemble.Client(url, token=TOKEN) as client:
        expected = client.predict(PICTURES)
        found: list[list[Prediction]] = []
        threads = [
            threading.Thread(target=lambda: found.append(client.predict(PICTURES)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    for each in found:
        same(each, expected)


def test_an_error_ends_the_waits_of_other_requests() -> None:
    """A picture is refused while another request waits for an hour."""
    waits = threading.Event()

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.read() == b"wait":
            waits.set()
            headers = {"retry-after": "3000"}
            return httpx2.Response(503, headers=headers, json={"code": "overloaded"})
        assert waits.wait(30)
        return httpx2.Response(422, json={"code": "invalid_image", "detail": "no"})

    begun = time.monotonic()
    with (
        snapensemble.Client(
            "http://s", images_per_request=1, within_s=3600, transport=httpx2.MockTransport(handle)
        ) as client,
        pytest.raises(RefusedPicture),
    ):
        client.predict([b"bad", b"wait"])
    assert time.monotonic() - begun < 60


def test_an_error_leaves_an_answer_that_has_not_come() -> None:
    """A picture is refused while another request waits for its answer."""
    asked, is_over = threading.Event(), threading.Event()

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.read() == b"slow":
            asked.set()
            is_over.wait()
            return httpx2.Response(200)
        assert asked.wait(30)
        return httpx2.Response(422, json={"code": "invalid_image", "detail": "no"})

    begun = time.monotonic()
    with snapensemble.Client(
        "http://s", images_per_request=1, within_s=30, transport=httpx2.MockTransport(handle)
    ) as client:
        try:
            with pytest.raises(RefusedPicture):
                client.predict([b"bad", b"slow"])
            assert time.monotonic() - begun < 20
        finally:
            is_over.set()


@both
def test_no_part_of_a_request_has_less_time_than_all_of_it(predict: Predict) -> None:
    given: list[float | None] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        given.extend(request.extensions["timeout"].values())
        one = {
            "class": "a", "index": 0, "probability": 1.0, "top": [], "members_used": 1,
            "uncertainty": {"entropy_nats": 0.0, "disagreement_nats": 0.0},
        }  # fmt: skip
        return httpx2.Response(200, json={"predictions": [one], "model": {}})

    predict("http://s", b"x", within_s=40, transport=httpx2.MockTransport(handle))
    assert len(given) == 4 and all(each is None or each > 30 for each in given)


def test_a_proxy_of_the_environment_is_not_asked_about_this_machine(
    refusing: tuple[str, type[Refusing]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert sync_predict(refusing[0], b"x").class_name == "a"


@given(
    url=st.one_of(
        st.text(max_size=20).map(lambda text: f"http://{text}"),
        st.from_regex(
            r"https?://[a-z\[\]:@.%\u00e4\u2603 0-9]{0,12}(/[ -~]{0,8})?", fullmatch=True
        ),
    )
)
def test_whatever_the_url_nobody_sees_a_traceback(url: str) -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(503))
    with (
        contextlib.suppress(SnapensembleError),
        snapensemble.Client(url, attempts=1, transport=transport) as client,
    ):
        client.predict(b"x")


class Body(httpx2.SyncByteStream):
    """The bytes of an answer, which httpx2 decodes as its headers say."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=12,
)


@given(
    status=st.sampled_from([200, 204, 301, 400, 413, 422, 503, 599, 999]),
    body=JSON | st.binary(max_size=20),
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "location", "content-encoding", "x-request-id"]),
        st.sampled_from(["", "0", "9" * 400, "gzip", "\u00e4", "Fri, 31 Dec 9999 23:59:59 GMT"]),
    ),
)
def test_whatever_a_server_answers_is_an_answer_or_an_error_of_ours(
    status: int, body: Any, headers: dict[str, str]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(status, headers=raw, stream=Body(content))
    )
    with (
        contextlib.suppress(SnapensembleError),
        snapensemble.Client("http://s", attempts=1, transport=transport) as client,
    ):
        for found in client.predict([b"x", b"y"]):
            assert isinstance(found, Prediction)


def test_a_redirection_says_where_to() -> None:
    headers = {"location": "https://elsewhere/predict"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(308, headers=headers))
    with (
        snapensemble.Client("http://s", transport=transport) as client,
        pytest.raises(snapensemble.ServerProblem, match="leads to https://elsewhere/predict"),
    ):
        client.predict(b"x")


@pytest.mark.parametrize("token", ["a b", "line\nfeed", "\u00e4"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(InvalidConfig, match="^token: expected printable ASCII") as raised:
        snapensemble.Client("http://s", token=token)
    assert token not in str(raised.value)


@pytest.mark.parametrize("client", [snapensemble.Client, snapensemble.AsyncClient])
def test_a_setting_that_is_none_is_refused_as_python_does(client: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'attempt'"):
        client("http://s", attempt=1)
    with pytest.raises(InvalidConfig, match="^attempts: expected a whole number"):
        client("http://s", attempts=0)

"""Predictions that arrive whole: what comes back is what the application would have said."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from serving.app import Application, create_app
from serving.engine import Engine, load_engine
from serving.protocol import GuardedProtocol
from tests.factories import encoded, make_bundle, picture
from tests.fakes import GatedMember, fail_members
from tests.serving import strange
from tests.serving.conftest import LIMITS
from tests.serving.port import GO_ON, Port, first_answer, open_port, wait_for

PNG = encoded(picture(1))
CLOSE = b"connection: close"
OF_EACH = {"date", "x-request-id"}  # headers


def request(body: bytes = PNG, *headers: bytes, query: bytes = b"") -> bytes:
    lines = [
        b"POST /predict%b HTTP/1.1" % query, b"host: x", b"content-length: %d" % len(body),
        *headers, b"", body,
    ]  # fmt: skip
    return b"\r\n".join(lines)


def answers(said: bytes) -> list[bytes]:
    """The answers to several requests."""
    return [b"HTTP/1.1" + one for one in said.split(b"HTTP/1.1")[1:]]


@contextlib.contextmanager
def connected(port: Port) -> Iterator[socket.socket]:
    with socket.create_connection(port.address, timeout=30) as connection:
        yield connection


def counted(port: Port, name: str, **labels: str) -> float:
    value = port.app.state.metrics.registry.get_sample_value(name, labels or None)
    return value or 0.0


def forbid_the_application(app: Application) -> None:
    async def never(*_: Any) -> None:
        raise AssertionError("the application was asked")

    app.layers = never


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    bundle_dir = make_bundle(tmp_path_factory.mktemp("at-once") / "bundle")
    with load_engine(bundle_dir, LIMITS.limits()) as engine:
        yield engine


@pytest.fixture(scope="module")
def ways(running: Engine) -> Iterator[tuple[Port, Port]]:
    """A port that may go past the application, and one that may not."""
    with (
        open_port(create_app(LIMITS, running)) as short,
        open_port(create_app(LIMITS, running), at_once=False) as long,
    ):
        yield short, long


@pytest.fixture
def port(engine: Engine) -> Iterator[Port]:
    """One for which the application must not be asked."""
    app = create_app(LIMITS, engine)
    forbid_the_application(app)
    with open_port(app) as port:
        yield port


queries = st.sampled_from(
    [
        b"", b"?", b"?top=1", b"?top=0&members=true", b"?probabilities=false", b"?mode=full",
        b"?mode=cascade", b"?coverage=0.9", b"?coverage=0.5", b"?deadline_ms=30000", b"?tpo=3",
        b"?top=-1", b"?top=1&top=2", b"?top=%31", b"?members", b"?\xff=1",
    ]
)  # fmt: skip
headers = st.lists(
    st.one_of(
        strange.media_types.map(lambda value: b"content-type: " + value),
        st.sampled_from(
            [
                b"Content-Type: image/png", b"X-Request-ID: mine", b"Expect: 100-continue",
                b"Origin: http://x", b"Authorization: Bearer no", b"Connection: keep-alive",
            ]
        ),
    ),
    max_size=3,
)  # fmt: skip


@settings(max_examples=150)
@given(body=strange.bodies, extra=headers, query=queries)
def test_a_client_cannot_tell_which_way_its_request_went(
    ways: tuple[Port, Port], body: bytes, extra: list[bytes], query: bytes
) -> None:
    found = []
    for port in ways:
        said = port.exchange(request(body, *extra, CLOSE, query=query))
        port.wait_until_nothing_is_left()
        reply = first_answer(said.removeprefix(GO_ON), "POST")
        answer = reply.json()
        identity = reply.headers.get("x-request-id")
        assert answer.pop("request_id", identity) == identity
        if b"X-Request-ID: mine" in extra:
            assert identity in ("mine", None)  # None: the head was not HTTP
        shown = sorted((k, v) for k, v in reply.headers.items() if k not in OF_EACH)
        found.append((reply.status_code, shown, answer))
    assert found[0] == found[1]


@pytest.mark.parametrize("query", [b"", b"?top=1&members=true"])
@pytest.mark.parametrize("media_type", [None, b"image/png", b"APPLICATION/octet-stream; x=y"])
def test_a_picture_that_arrives_whole_does_not_need_the_application(
    port: Port, query: bytes, media_type: bytes | None
) -> None:
    extra = [] if media_type is None else [b"content-type: " + media_type]
    reply = first_answer(port.exchange(request(PNG, *extra, CLOSE, query=query)), "POST")
    assert reply.status_code == 200 and len(reply.json()["predictions"]) == 1
    assert reply.headers["connection"] == "close"
    port.wait_until_nothing_is_left()


def test_one_connection_carries_request_after_request(port: Port) -> None:
    with connected(port) as connection:
        for _ in range(20):
            connection.sendall(request())
            assert b" 200 OK" in connection.recv(65536)
    port.wait_until_nothing_is_left()
    assert counted(port, "snapensemble_requests_total", route="/predict", code="200") == 20


def test_what_arrives_in_pieces_is_answered_as_well(
    ways: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    received = 0

    def count(protocol: GuardedProtocol, data: bytes) -> None:
        nonlocal received
        data_received(protocol, data)
        received += len(data)

    data_received = GuardedProtocol.data_received
    monkeypatch.setattr(GuardedProtocol, "data_received", count)
    data = request()
    for cut in (10, len(data) - len(PNG), len(data) - len(PNG) + 1, len(data) - 1):
        with connected(ways[0]) as connection:
            before = received
            connection.sendall(data[:cut])
            wait_for(lambda already=before + cut: received == already)  # type: ignore[misc]
            connection.sendall(data[cut:])
            assert first_answer(connection.recv(65536), "POST").status_code == 200
    ways[0].wait_until_nothing_is_left()


def test_requests_that_come_together_are_answered_in_their_order(ways: tuple[Port, Port]) -> None:
    names = [b"x-request-id: %d" % number for number in range(4)]
    together = b"".join(
        [
            request(PNG, names[0]),
            request(b"no picture", names[1]),
            request(b"{}", names[2], b"content-type: application/json"),
            request(PNG, names[3], CLOSE),
        ]
    )
    said = answers(ways[0].exchange(together))
    replies = [first_answer(one, "POST") for one in said]
    assert [reply.status_code for reply in replies] == [200, 422, 400, 200]
    assert [reply.headers["x-request-id"] for reply in replies] == ["0", "1", "2", "3"]
    ways[0].wait_until_nothing_is_left()


def test_nothing_is_answered_after_the_last_request_of_a_connection(port: Port) -> None:
    service = port.app.state.service
    service.enter(LIMITS.max_queue)  # so that both could be refused at once
    said = port.exchange(request(PNG, CLOSE) + request(PNG, CLOSE))
    service.leave(LIMITS.max_queue)
    assert len(answers(said)) == 1
    port.wait_until_nothing_is_left()


def test_a_body_that_stops_being_http_is_refused_once(port: Port) -> None:
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    said = port.exchange(head + b"5\r\nhello\r\nno number\r\n")
    assert [first_answer(one, "POST").status_code for one in answers(said)] == [400]
    port.wait_until_nothing_is_left()
    said = port.exchange(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG))
    assert first_answer(said, "POST").status_code == 200
    port.wait_until_nothing_is_left()


def test_a_client_that_leaves_takes_its_picture_out_of_the_queue(
    port: Port, engine: Engine
) -> None:
    gate = GatedMember(is_open=False)
    engine.lanes._members = [gate, GatedMember(), GatedMember()]
    try:
        blockers = [connected(port) for _ in range(engine.lanes.threads)]
        with contextlib.ExitStack() as stack:
            for one in blockers:
                stack.enter_context(one).sendall(request())
                assert gate.entered.acquire(timeout=30)
            with connected(port) as leaving:
                leaving.sendall(request())
                wait_for(lambda: engine.lanes.queued == 1)
            wait_for(lambda: counted(port, "snapensemble_departed_clients_total") == 1)
            gate.gate.set()
    finally:
        gate.gate.set()
    wait_for(lambda: engine.lanes.queued == 0)
    port.wait_until_nothing_is_left()
    assert sum(gate.batches) == engine.lanes.threads  # what left was not asked about
    assert counted(port, "snapensemble_requests_total", route="/predict", code="499") >= 1


def test_overload_is_refused_and_leaves_nothing_behind(port: Port) -> None:
    service = port.app.state.service
    service.enter(LIMITS.max_queue)
    reply = first_answer(port.exchange(request(PNG, CLOSE)), "POST")
    assert (reply.status_code, reply.json()["code"]) == (503, "overloaded")
    assert reply.headers["retry-after"] == "1"
    service.leave(LIMITS.max_queue)
    service.intake.hold(LIMITS.max_bytes_in_flight)
    reply = first_answer(port.exchange(request(PNG, CLOSE)), "POST")
    assert (reply.status_code, reply.json()["code"]) == (503, "overloaded")
    service.intake.let_go(LIMITS.max_bytes_in_flight)
    reply = first_answer(port.exchange(request(PNG, CLOSE)), "POST")
    assert reply.status_code == 200
    port.wait_until_nothing_is_left()
    assert counted(port, "snapensemble_problems_total", code="overloaded") == 2


def test_a_failing_member_and_a_defect_are_500_without_a_stack_trace(
    port: Port, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("oops")

    with monkeypatch.context() as patch:
        patch.setattr(engine.lanes, "_members", engine.lanes._members)
        fail_members(engine, ValueError("secret"))
        reply = first_answer(port.exchange(request(PNG, CLOSE)), "POST")
    assert (reply.status_code, reply.json()["code"]) == (500, "inference_failed")
    for owner, name in ((engine, "submit"), (port.app.state.service, "answer")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            reply = first_answer(port.exchange(request(PNG, CLOSE)), "POST")
        assert (reply.status_code, reply.json()["code"]) == (500, "internal_error"), name
    assert "oops" not in reply.text and "ZeroDivisionError" in caplog.text
    port.wait_until_nothing_is_left()


def test_tokens_are_asked_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "a-token-of-many-letters"  # of this test
    app = create_app(LIMITS.model_copy(update={"tokens": SecretStr(token)}), engine)
    with open_port(app) as port:
        right = b"authorization: Bearer " + token.encode()
        for extra, status in ((right, 200), (right + b"x", 401), (b"x: y", 401)):
            reply = first_answer(port.exchange(request(PNG, extra, CLOSE)), "POST")
            assert reply.status_code == status


@pytest.mark.parametrize("changed", [{"access_log": True}, {"cors_origins": "http://x"}])
def test_what_only_the_application_does_is_done_by_it(
    engine: Engine, changed: dict[str, Any]
) -> None:
    app = create_app(LIMITS.model_copy(update=changed), engine)
    forbid_the_application(app)
    with open_port(app) as port:
        reply = first_answer(port.exchange(request(PNG, b"origin: http://x", CLOSE)), "POST")
    assert reply.status_code == 500  # uvicorn's own answer to an application that raises


def test_a_client_that_reads_no_answers_is_sent_no_more(port: Port) -> None:
    """What waits to be written is bounded: the transport stops the application, too."""
    with connected(port) as connection:
        connection.sendall(request())
        assert b" 200 OK" in connection.recv(65536)
        (protocol,) = port.server.server_state.connections
        protocol.flow.pause_writing()  # type: ignore[union-attr]
        assert not protocol._may_be_answered_at_once()  # type: ignore[union-attr]

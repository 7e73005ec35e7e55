"""What one connection can do, piece by piece."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.serving.http import protocol as limits
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.problems import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES
from snapensemble.serving.inference.engine import Engine, load_engine
from tests.factories import encoded, make_bundle, picture
from tests.fakes import GatedMember
from tests.serving.conftest import LIMITS
from tests.serving.http.wire import End, Wire

PNG = encoded(picture(1))
LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


def post(body: bytes = PNG, *headers: bytes, path: bytes = b"/predict") -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"host: x", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def chunked(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /predict HTTP/1.1", b"host: x", b"transfer-encoding: chunked", *headers]
    return b"\r\n".join([*lines, b"", b"%x" % len(body), body, b"0", b"", b""])


def named(number: int) -> bytes:
    return b"x-request-id: %d" % number


def code_of(answer: tuple[int, dict[bytes, bytes], bytes]) -> Any:
    return json.loads(answer[2]).get("code")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    bundle_dir = make_bundle(tmp_path_factory.mktemp("protocol") / "bundle")
    with load_engine(bundle_dir, LIMITS.limits()) as engine:
        yield engine


@pytest_asyncio.fixture
async def wire(running: Engine) -> AsyncIterator[Wire]:
    """Afterwards nothing is held, and a good request is answered."""
    wire = Wire(create_app(LIMITS, running))
    yield wire
    wire.lose_all()
    await wire.give_back()
    good = wire.connect()
    good.send(post())
    await wire.settle()
    assert good.statuses == [200]
    good.leave()


@pytest.fixture
def gate(running: Engine) -> Iterator[GatedMember]:
    """Nothing is answered before it opens."""
    members, gate = running.scheduler._members, GatedMember(is_open=False)
    running.scheduler._members = [gate, GatedMember(), GatedMember()]
    yield gate
    gate.gate.set()
    running.scheduler._members = members


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % len(data) for cut in cuts} - {0})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


async def test_a_request_is_answered_wherever_it_is_cut_in_two(wire: Wire) -> None:
    for request in (post(), chunked(PNG), LIVE):
        for cut in range(1, len(request)):
            end = wire.connect()
            end.send(request[:cut], request[cut:], LIVE)
            await wire.settle()
            assert end.statuses == [200, 200], cut
            end.leave()


def upgrading() -> st.SearchStrategy[tuple[bytes, ...]]:
    """Headers that ask for another protocol, in any case and order."""
    names = st.sampled_from([b"Upgrade", b"upgrade", b"UPGRADE", b"uPgRaDe"])
    values = st.sampled_from([b"h2c", b"websocket", b"TLS/1.0, h2c", b"x", b""])
    asks = st.sampled_from([b"Upgrade", b"upgrade, HTTP2-Settings", b"keep-alive, Upgrade", b"x"])
    pairs = st.tuples(names, values).map(b": ".join)
    return st.tuples(pairs, asks.map(b"Connection: ".__add__)).flatmap(
        lambda two: st.permutations([*two, b"HTTP2-Settings: AAMAAABk", b"X: y"]).map(tuple)
    )


@settings(max_examples=100)
@given(st.data())
def test_an_upgrade_request_is_an_ordinary_one_in_any_pieces(data: st.DataObject) -> None:
    """The body belongs to its request, and the answers come in the order of requests."""
    inner = b"GET /model HTTP/1.1\r\nhost: evil\r\nx-request-id: smuggled\r\n\r\n"
    body = data.draw(st.sampled_from([inner, PNG, b"", b"\r\n\r\n"]))
    make = data.draw(st.sampled_from([post, chunked]))
    headers = (*data.draw(upgrading()), named(1))
    stream = b"".join(
        [
            make(body, *headers),
            LIVE[:-2] + b"\r\n".join([*data.draw(upgrading()), named(2), b"", b""]),
            post(PNG, *data.draw(upgrading()), named(3)),
        ]
    )
    if make is chunked:  # what follows chunks in one piece is not read
        stream = make(body, *headers)
    pieces = in_pieces(stream, data.draw(st.lists(st.integers(0, 10_000), max_size=6)))

    async def exchange() -> End:
        end = WIRES[0].connect()
        end.send(*pieces)
        await WIRES[0].settle()
        end.leave()
        await WIRES[0].give_back()
        return end

    end = asyncio.run(exchange())
    first = {PNG: 200, b"": 400}.get(body, 422)
    expected = [(first, b"1"), (200, b"2"), (200, b"3")][: 1 if make is chunked else 3]
    assert list(zip(end.statuses, end.identities, strict=True)) == expected


WIRES: list[Wire] = []  # hypothesis takes no fixtures of one test


@pytest.fixture(scope="module", autouse=True)
def wires(running: Engine) -> Iterator[None]:
    WIRES.append(Wire(create_app(LIMITS, running)))
    yield
    WIRES.clear()


async def test_requests_that_come_together_are_answered_in_their_order(wire: Wire) -> None:
    end = wire.connect()
    json_type = b"content-type: application/json"
    end.send(
        post(PNG, named(0)) + post(b"no picture", named(1)) + post(b"{}", named(2), json_type)
        + LIVE + post(PNG, named(3), b"connection: close") + post(PNG, named(4))
    )  # fmt: skip
    await wire.settle()
    assert end.statuses == [200, 422, 400, 200, 200]
    assert [i for i in end.identities if i is not None and len(i) == 1] == [b"0", b"1", b"2", b"3"]
    assert end.transport.is_closing()


async def test_what_comes_in_one_piece_with_chunks_is_not_read_and_its_client_is_told(
    wire: Wire,
) -> None:
    """Where chunks end is known to the parser only, which then is in the next request already."""
    end = wire.connect()
    end.send(chunked(PNG) + LIVE)
    await wire.settle()
    assert end.statuses == [200] and end.answers[0][1][b"connection"] == b"close"


async def test_what_comes_behind_an_unanswered_request_is_bounded(
    wire: Wire, gate: GatedMember
) -> None:
    end = wire.connect()
    end.send(post())
    end.send(LIVE * (limits.MAX_WAITING_BYTES // len(LIVE)))
    assert limits.MAX_WAITING_BYTES - len(LIVE) <= wire.holds[0] <= 2 * limits.MAX_WAITING_BYTES
    end.send(LIVE * 5)
    assert wire.holds[0] < limits.MAX_WAITING_BYTES
    end.send(*[LIVE * 100] * 100)
    gate.gate.set()
    await wire.settle()
    assert end.statuses == [200] and end.answers[0][1][b"connection"] == b"close"
    assert end.transport.is_closing()


async def test_nobody_waits_behind_a_request_when_memory_is_full(
    wire: Wire, gate: GatedMember
) -> None:
    memory = wire.app.state.service.model().admission.memory
    end = wire.connect()
    end.send(post())
    await asyncio.sleep(0)
    rest = memory.limit - memory.held
    memory.hold(rest)
    end.send(LIVE)
    memory.let_go(rest)
    gate.gate.set()
    await wire.settle()
    assert end.statuses == [200] and end.transport.is_closing()


async def test_heads_that_are_not_complete_count(wire: Wire) -> None:
    memory = wire.app.state.service.model().admission.memory
    begun = LIVE[:-2] + b"x: " + b"y" * 1000
    ends = [wire.connect() for _ in range(10)]
    for end in ends:
        end.send(begun[:20], begun[20:])
    assert memory.held == 10 * len(begun)
    rest = memory.limit - memory.held
    memory.hold(rest)
    ends[0].send(b"z")
    assert ends[0].statuses == [503] and code_of(ends[0].answers[0]) == "overloaded"
    assert ends[0].answers[0][1][b"retry-after"] == b"1"
    ends[1].leave()
    memory.let_go(rest)
    assert memory.held == 8 * len(begun)
    for number, end in enumerate(ends[2:], start=1):
        end.send(b"\r\n\r\n")
        assert memory.held == (8 - number) * len(begun)
    await wire.settle()
    assert [end.statuses for end in ends[2:]] == [[200]] * 8


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nhost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: b\x01c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: b\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\na\x7f: b\r\n\r\n", 400),
        (b"GET /\x01 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nhost: x\n\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", 400),
        (post(b"", b"transfer-encoding: chunked"), 400),
        (b"\0\r\n\r\n", 400),
        (b"GET http:// HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET http://[::1 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"POST http://x:99999/ HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * MAX_HEADERS + b"\r\n", 431),
        (b"\r\n" * MAX_HEAD_BYTES, 431),
        (b"GET /" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (LIVE[:-2] + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000, 431),
    ],
)
async def test_what_is_no_request_is_refused_once_and_counted(
    wire: Wire, data: bytes, status: int
) -> None:
    registry = wire.app.state.metrics.registry

    def counted() -> float:
        names = ("malformed_request", "head_too_large")
        found = [
            registry.get_sample_value("snapensemble_problems_total", {"code": c}) for c in names
        ]
        return sum(value or 0 for value in found)

    before = counted()
    end = wire.connect()
    end.send(data, LIVE)
    await wire.settle()
    if end.statuses[:1] == [200]:  # the application was asked before the trailers came
        assert end.statuses == [200]
    else:
        assert end.statuses == [status]
        assert end.answers[0][1][b"connection"] == b"close"
        assert counted() == before + 1
    assert end.transport.is_closing()


async def test_a_request_for_no_path_is_refused_behind_an_answered_one_too(wire: Wire) -> None:
    end = wire.connect()
    end.send(LIVE)
    await wire.settle()
    end.send(b"GET http://x:y/ HTTP/1.1\r\nhost: x\r\n\r\n")
    await wire.settle()
    assert end.statuses == [200, 400]
    assert code_of(end.answers[1]) == "malformed_request"
    assert end.transport.is_closing()


async def test_the_largest_head_is_answered(wire: Wire) -> None:
    end = wire.connect()
    end.send(LIVE[:-2] + b"a: b\r\n" * (MAX_HEADERS - 2) + b"c: " + b"d" * 60_000 + b"\r\n\r\n")
    await wire.settle()
    assert end.statuses == [200]


async def test_a_body_that_stops_being_http_is_refused_once_and_its_bytes_are_free(
    wire: Wire,
) -> None:
    end = wire.connect()
    end.send(chunked(PNG)[:-30])
    await asyncio.sleep(0)
    end.send(b"\r\nno number\r\n", LIVE)
    await wire.settle()
    assert end.statuses == [400] and code_of(end.answers[0]) == "malformed_request"
    labels = {"route": "/predict", "code": "400"}
    registry = wire.app.state.metrics.registry
    assert registry.get_sample_value("snapensemble_requests_total", labels) == 1


async def test_a_client_that_leaves_gives_back_what_it_held(wire: Wire, gate: GatedMember) -> None:
    leaving = [wire.connect() for _ in range(5)]
    for end in leaving:
        end.send(post())
    blocked = wire.connect()
    while wire.holds[1] < 5:
        await asyncio.sleep(0)
    for end in leaving:
        end.leave()
    async with asyncio.timeout(30):
        while wire.holds[2]:
            await asyncio.sleep(0.001)
    assert wire.holds[1] == 0
    blocked.send(post())
    gate.gate.set()
    await wire.settle()
    assert blocked.statuses == [200]


# What may last how long.


def pass_time(end: End, seconds: float) -> None:
    end.protocol.look_at_the_clock(asyncio.get_running_loop().time() + seconds)


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ((), limits.HEAD_TIMEOUT_S),
        ((b"\r\n",), limits.HEAD_TIMEOUT_S),
        ((LIVE[:20],), limits.HEAD_TIMEOUT_S),
        ((b"GET / HTTP/1.1\r\nUpgrade: x\r\n",), limits.HEAD_TIMEOUT_S),
        ((LIVE,), 75),
        ((LIVE, b"\r\n"), 75),
        ((LIVE, LIVE[:10]), limits.HEAD_TIMEOUT_S),
        ((post(b"x" * 10, path=b"/health/live")[:-10],), limits.REST_TIMEOUT_S),
        ((post(b"x" * 10, path=b"/health/live")[:-10], b"a"), limits.REST_TIMEOUT_S),
        ((post(b"x" * 10, path=b"/predict?top=x")[:-9],), limits.REST_TIMEOUT_S),
        ((post(b"x" * 10, b"Upgrade: x", b"Connection: upgrade", path=b"/x")[:-9],), 10),
    ],
)
async def test_no_state_of_a_connection_lasts(
    wire: Wire, sent: tuple[bytes, ...], seconds: float
) -> None:
    end = wire.connect()
    for piece in sent:
        end.send(piece)
        await wire.settle()
    pass_time(end, seconds - 1)
    assert not end.transport.is_closing()
    pass_time(end, seconds + 1)
    assert end.transport.is_closing()


async def test_a_body_that_was_announced_and_not_wanted_is_not_waited_for(wire: Wire) -> None:
    """Who asks first and is refused may send its next request and not the body."""
    end = wire.connect()
    end.send(post(PNG, b"expect: 100-continue", path=b"/health/live")[: -len(PNG)])
    await wire.settle()
    assert end.statuses == [405] and end.transport.is_closing()


async def test_line_ends_between_requests_do_not_prolong_a_connection(wire: Wire) -> None:
    end = wire.connect()
    end.send(LIVE)
    await wire.settle()
    by = end.protocol._read_by
    end.send(b"\r\n")
    assert end.protocol._read_by == by


async def test_a_client_that_takes_nothing_is_cut_off(wire: Wire) -> None:
    end = wire.connect()
    end.transport.takes_no_more = True
    end.send(LIVE)
    await wire.settle()
    end.protocol.pause_writing()
    pass_time(end, limits.WRITE_TIMEOUT_S - 1)
    assert not end.transport.was_aborted
    end.protocol.resume_writing()
    pass_time(end, limits.WRITE_TIMEOUT_S + 1)
    assert not end.transport.was_aborted
    end.protocol.pause_writing()
    pass_time(end, limits.WRITE_TIMEOUT_S + 1)
    assert end.transport.was_aborted


async def test_what_a_client_does_not_take_counts_as_long_as_there_is_room(wire: Wire) -> None:
    slow, lost, late = (wire.connect() for _ in range(3))
    memory = wire.app.state.service.model().admission.memory
    for end, size in ((slow, 300), (lost, 200)):
        end.transport.untaken = size
        end.protocol.pause_writing()
    assert memory.held == 500
    slow.protocol.resume_writing()
    lost.leave()
    assert memory.held == 0
    memory.count(memory.limit - 99)
    late.transport.untaken = 100
    late.protocol.pause_writing()
    assert late.transport.was_aborted and not slow.transport.was_aborted
    memory.let_go(memory.limit - 99)


async def test_a_connection_that_does_not_close_is_cut_off(wire: Wire) -> None:
    end = wire.connect()
    end.transport.takes_no_more = True
    end.send(LIVE[:-2] + b"connection: close\r\n\r\n")
    await wire.settle()
    assert end.transport.is_closing()
    pass_time(end, 0)
    pass_time(end, limits.CLOSE_TIMEOUT_S - 1)
    assert not end.transport.was_aborted
    pass_time(end, limits.CLOSE_TIMEOUT_S + 1)
    assert end.transport.was_aborted


async def test_a_connection_for_which_there_is_no_room_is_hung_up_on(running: Engine) -> None:
    wire = Wire(create_app(LIMITS, running), room=1)
    first, second = wire.connect(), wire.connect()
    assert second.transport.was_aborted and not first.transport.was_aborted
    await asyncio.sleep(0)
    third = wire.connect()  # still one too many
    assert third.transport.was_aborted
    first.leave()
    await asyncio.sleep(0)
    assert not wire.connect().transport.was_aborted
    wire.lose_all()


async def test_a_request_on_its_way_is_answered_when_the_server_stops(
    wire: Wire, gate: GatedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LAST_REQUEST_S", 0.01)
    begun, answering, idle, new = (wire.connect() for _ in range(4))
    idle.send(LIVE)
    await wire.settle()
    begun.send(LIVE[:10])
    answering.send(post())
    for protocol in list(wire.state.connections):
        protocol.shutdown()
    new.send(LIVE)
    async with asyncio.timeout(30):
        while not idle.transport.is_closing():
            await asyncio.sleep(0.001)
    begun.send(LIVE[10:])
    gate.gate.set()
    await wire.settle()
    for end in (begun, answering, new):
        assert end.statuses == [200] and end.answers[0][1][b"connection"] == b"close"
        assert end.transport.is_closing()

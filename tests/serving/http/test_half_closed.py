"""Clients that close their half of a connection when they have sent all."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.protocol import LAST_ANSWER_S
from snapensemble.serving.inference.engine import Engine
from tests.factories import encoded, picture
from tests.fakes import GatedMember
from tests.serving.conftest import LIMITS
from tests.serving.http.wire import End, Wire
from tests.serving.port import HANGS_AFTER_S, open_port

PNG = encoded(picture(1))
LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(PNG), PNG)


@pytest_asyncio.fixture
async def wire(engine: Engine) -> AsyncIterator[Wire]:
    """Afterwards no connection is left, and nothing is held."""
    wire = Wire(create_app(LIMITS, engine))
    yield wire
    await wire.give_back()
    assert not wire.state.connections


@pytest.fixture
def gate(engine: Engine) -> Iterator[GatedMember]:
    """Nothing is answered before it opens."""
    members, gate = engine.scheduler._members, GatedMember(is_open=False)
    engine.scheduler._members = [gate, GatedMember(), GatedMember()]
    yield gate
    gate.gate.set()
    engine.scheduler._members = members


async def ended(wire: Wire, *pieces: bytes) -> End:
    """A connection whose client has sent so much and will send no more."""
    end = wire.connect()
    end.send(*pieces)
    end.end()
    await asyncio.sleep(0)
    return end


def look_at_the_clock(end: End, seconds: float) -> None:
    end.protocol.look_at_the_clock(asyncio.get_running_loop().time() + seconds)


@pytest.mark.parametrize("requests", [[POST], [LIVE], [POST, LIVE, POST], [POST, LIVE[:20]]])
async def test_what_has_come_whole_is_answered_and_then_the_connection_ends(
    wire: Wire, gate: GatedMember, requests: list[bytes]
) -> None:
    end = await ended(wire, b"".join(requests))
    gate.gate.set()
    await wire.settle()
    assert end.statuses == [200] * sum(each in (POST, LIVE) for each in requests)
    assert end.transport.is_closing()


@pytest.mark.parametrize("sent", [(), (LIVE[:20],), (POST[:-1],), (LIVE[:-2], b"Upgrade: x\r\n")])
async def test_a_connection_ends_at_once_without_a_request_that_has_come_whole(
    wire: Wire, sent: tuple[bytes, ...]
) -> None:
    end = await ended(wire, *sent)
    assert end.transport.is_closing() and not end.statuses


async def test_a_client_that_sends_no_more_counts_as_gone_when_its_answer_takes_long(
    wire: Wire, gate: GatedMember
) -> None:
    end = await ended(wire, POST + LIVE)
    look_at_the_clock(end, LAST_ANSWER_S / 2)
    assert not end.transport.is_closing()
    look_at_the_clock(end, LAST_ANSWER_S * 2)
    assert end.transport.is_closing() and not end.statuses
    await wire.settle()
    assert wire.holds[2] == 0  # though nothing has come from the lanes


def test_over_a_real_connection_too(engine: Engine) -> None:
    with open_port(create_app(LIMITS, engine)) as port:
        for data in (LIVE, POST, POST + LIVE):
            with socket.create_connection(port.address, timeout=HANGS_AFTER_S) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                said = b"".join(iter(lambda: client.recv(65536), b""))
            assert said.count(b"HTTP/1.1 200 OK") == data.count(b"host: x")

import asyncio
from typing import Any

from snapensemble.serving.http.protocol import GatheringTransport


class Sent(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[Any] = []

    def is_closing(self) -> bool:
        return bool(self.said) and self.said[-1] in ("closed", "aborted")

    def write(self, data: Any) -> None:
        assert not self.is_closing()
        self.said.append(bytes(data))

    def write_eof(self) -> None:
        self.said.append("said all")

    def resume_reading(self) -> None:
        self.said.append("reads")

    def close(self) -> None:
        self.said.append("closed")

    def abort(self) -> None:
        self.said.append("aborted")


async def test_what_is_written_in_one_turn_is_sent_together_and_in_order() -> None:
    sent = Sent()
    transport = GatheringTransport(sent, asyncio.get_running_loop())
    transport.write(b"head ")
    transport.write(b"body")
    assert sent.said == []
    await asyncio.sleep(0)
    transport.write(b"next")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sent.said == [b"head body", b"next"]


async def test_what_is_written_is_sent_before_it_closes_and_once() -> None:
    sent = Sent()
    transport = GatheringTransport(sent, asyncio.get_running_loop())
    transport.write(b"last")
    transport.close()
    await asyncio.sleep(0)
    assert sent.said == [b"last", "closed"]


async def test_it_closes_when_a_client_that_sends_has_ended_or_the_time_is_over() -> None:
    sent = Sent()
    transport = GatheringTransport(sent, asyncio.get_running_loop(), lambda: True)
    transport.write(b"last")
    transport.close()
    assert transport.is_closing() and not sent.is_closing()
    transport.write(b"more")
    await asyncio.sleep(0)
    assert sent.said == [b"last", "said all", "reads"]
    transport.close()
    assert sent.is_closing()


async def test_nothing_is_sent_to_a_client_that_has_left_meanwhile() -> None:
    sent = Sent()
    transport = GatheringTransport(sent, asyncio.get_running_loop())
    transport.write(b"lost")
    sent.close()
    await asyncio.sleep(0)
    assert sent.said == ["closed"]


async def test_nothing_is_sent_after_an_abort() -> None:
    sent = Sent()
    transport = GatheringTransport(sent, asyncio.get_running_loop())
    transport.write(b"lost")
    transport.abort()
    await asyncio.sleep(0)
    assert sent.said == ["aborted"]

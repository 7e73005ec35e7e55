import asyncio

from snapensemble.serving.http.timekeeper import Timekeeper


class Connection:
    def __init__(self, times: int) -> None:
        self.looks: list[float] = []
        self.is_done = asyncio.Event()
        self._times = times

    def look_at_the_clock(self, now: float) -> None:
        self.looks.append(now)
        if len(self.looks) == self._times:
            self.is_done.set()


async def test_it_looks_at_every_connection_again_and_again_while_there_are_any() -> None:
    keeper, connections = Timekeeper(every_s=0.001), [Connection(3) for _ in range(4)]
    for connection in connections:
        keeper.add(connection)
    async with asyncio.timeout(30):
        for connection in connections:
            await connection.is_done.wait()
    for connection in connections:
        keeper.discard(connection)
    async with asyncio.timeout(30):
        while keeper._timer is not None:
            await asyncio.sleep(0.001)
    looks = [len(connection.looks) for connection in connections]
    again = Connection(1)
    keeper.add(again)
    async with asyncio.timeout(30):
        await again.is_done.wait()
    keeper.discard(again)
    assert [len(connection.looks) for connection in connections] == looks


async def test_one_that_is_lost_while_it_looks_is_no_trouble() -> None:
    keeper = Timekeeper(every_s=0.001)

    class Leaving(Connection):
        def look_at_the_clock(self, now: float) -> None:
            keeper.discard(self)
            super().look_at_the_clock(now)

    leaving = [Leaving(1) for _ in range(3)]
    for connection in leaving:
        keeper.add(connection)
    async with asyncio.timeout(30):
        for connection in leaving:
            await connection.is_done.wait()
    assert [len(connection.looks) for connection in leaving] == [1, 1, 1]

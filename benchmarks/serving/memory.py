"""Watching a server's memory while something else goes on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from snapensemble.bench.processes import resident_bytes


@contextlib.asynccontextmanager
async def memory_watched(pid: int, every_s: float) -> AsyncIterator[list[tuple[float, int]]]:
    """Pairs of seconds and resident bytes, children included, more of them while the block runs."""
    found: list[tuple[float, int]] = []
    started = time.monotonic()

    async def watch() -> None:
        while True:
            found.append((time.monotonic() - started, resident_bytes(pid) or 0))
            await asyncio.sleep(every_s)

    watching = asyncio.create_task(watch())
    try:
        yield found
    finally:
        watching.cancel()

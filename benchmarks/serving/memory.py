"""The memory of a server while something goes on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from snapensemble.bench.processes import resident_bytes


@contextlib.asynccontextmanager
async def memory_watched(pid: int, every_s: float) -> AsyncIterator[list[tuple[float, int]]]:
    """Seconds since the start and resident bytes, children included; grows while the block runs."""
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

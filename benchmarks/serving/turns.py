"""One turn of a load in a closed loop, and what it costs the server."""

from collections.abc import Callable

from snapensemble.bench.load import Ask, closed_loop


async def turn_of(
    name: str, ask: Ask, cpu_s: Callable[[], float | None], concurrency: int, seconds: float
) -> dict[str, float]:
    """Requests/s, and the server's processor milliseconds of a request.

    Args:
        name: of what is measured, for the message.
        ask: sends a request.
        cpu_s: the seconds of processor that the server has taken; it runs as long as the turn.
        concurrency: how many requests are open at the same time.
        seconds: how long new requests are begun.

    Raises:
        SystemExit: a request was not answered as it should.
    """
    before = cpu_s()
    samples = await closed_loop(ask, concurrency=concurrency, seconds=seconds)
    after = cpu_s()
    if wrong := {sample.answer.code for sample in samples} - {None}:
        raise SystemExit(f"{name}: answers with {wrong}")
    assert before is not None and after is not None
    elapsed = max(s.ended for s in samples) - min(s.started for s in samples)
    return {
        "per_second": len(samples) / elapsed,
        "cpu_ms": 1000 * (after - before) / len(samples),
    }

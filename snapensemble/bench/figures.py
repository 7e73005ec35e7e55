"""Samples of a load -> the figures of a row, and rows -> lines of a table. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from snapensemble.bench.load import Sample

PERCENTILES = (50, 95, 99)
MIB = 2**20
BUSY_CLIENT = 0.8  # of a core: above it, the client may be what was measured
HEAD = (
    f"{'way':<7}{'load':>12}{'requests/s':>12}{'images/s':>10}{'p50':>9}{'p95':>9}{'p99':>9}"
    f"{'max ms':>9}{'members':>9}{'CPU ms/image':>14}{'peak MiB':>10}  errors"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the process that answers has used, and what share of a core the client has."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    client_core_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way under one load. Rates and latencies are those of the requests that were answered."""

    way: str
    concurrency: int | None  # of a closed loop
    rate: float | None  # of an open loop: arrivals per second
    seconds: float  # from the first request to the last answer
    requests: int
    answered: int
    errors: dict[str, int]  # by code; with `answered` they are the requests
    requests_per_second: float
    images_per_second: float
    latency_ms: dict[str, float] | None  # p50, p95, p99, max
    members_used: float | None  # per image
    cpu_seconds_per_image: float | None
    peak_memory_bytes: int | None  # since that process started
    client_core_share: float | None  # None where client and engine are one process

    def as_json(self) -> dict[str, Any]:
        """The fields as they are written."""
        return asdict(self)


def row(
    way: str,
    samples: Sequence[Sample],
    usage: Usage,
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    images_per_request: int = 1,
) -> Row:
    """The figures of one way under one load."""
    answered = [sample for sample in samples if sample.answer.code is None]
    errors = Counter(sample.answer.code for sample in samples if sample.answer.code is not None)
    seconds = max(s.ended for s in samples) - min(s.started for s in samples) if samples else 0.0
    images = len(answered) * images_per_request
    return Row(
        way=way,
        concurrency=concurrency,
        rate=rate,
        seconds=seconds,
        requests=len(samples),
        answered=len(answered),
        errors=dict(sorted(errors.items())),
        requests_per_second=len(answered) / seconds if seconds else 0.0,
        images_per_second=images / seconds if seconds else 0.0,
        latency_ms=latencies_ms(answered),
        members_used=sum(s.answer.members_used for s in answered) / images if images else None,
        cpu_seconds_per_image=(
            usage.cpu_seconds / images if images and usage.cpu_seconds is not None else None
        ),
        peak_memory_bytes=usage.peak_memory_bytes,
        client_core_share=usage.client_core_share,
    )


def latencies_ms(answered: Sequence[Sample]) -> dict[str, float] | None:
    """Percentiles and the maximum of latencies, milliseconds; None without answers."""
    if not answered:
        return None
    all_ms = [(sample.ended - sample.started) * 1000 for sample in answered]
    found = np.percentile(all_ms, PERCENTILES)
    named = {f"p{p}": float(ms) for p, ms in zip(PERCENTILES, found, strict=True)}
    return {**named, "max": max(all_ms)}


def line(row: Row) -> str:
    """A row under `HEAD`."""
    load = f"{row.concurrency} clients" if row.rate is None else f"{row.rate:g}/s"
    latency_ms = row.latency_ms or {}
    columns = [
        f"{row.way:<7}{load:>12}{row.requests_per_second:>12.1f}{row.images_per_second:>10.1f}",
        *(f"{number(latency_ms.get(name), '.1f'):>9}" for name in ("p50", "p95", "p99", "max")),
        f"{number(row.members_used, '.2f'):>9}",
        f"{number(row.cpu_seconds_per_image, '.2f', 1000):>14}",
        f"{number(row.peak_memory_bytes, '.0f', 1 / MIB):>10}",
        "  " + (", ".join(f"{code} {count:,}" for code, count in row.errors.items()) or "none"),
    ]
    return "".join(columns)


def number(value: float | None, form: str, factor: float = 1) -> str:
    """A figure, or a dash if there is none."""
    return "-" if value is None else format(value * factor, form)


def warnings(rows: Sequence[Row]) -> list[str]:
    """Sentences about rows that may show the client's limits and not the server's."""
    return [
        f"the client used {row.client_core_share:.0%} of a core at "
        f"{row.requests_per_second:.0f} requests/s: the server may be faster than this row says"
        for row in rows
        if row.client_core_share is not None and row.client_core_share > BUSY_CLIENT
    ]

"""Clients that ask without a pause and count what becomes of each request."""

import http.client
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Outcome:
    """What has become of requests: by status, or by the name of the exception."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, float]] = field(default_factory=list)  # when it ended, and seconds

    @property
    def answered(self) -> int:
        """Requests with the status 200."""
        return self.counts["200"]

    @property
    def seconds(self) -> list[float]:
        """How long each request took."""
        return [seconds for _, seconds in self.samples]

    def p99_by_second(self, since: float, until: float) -> list[float]:
        """For each second between two times of the monotonic clock, the 99th percentile.

        It is the least time, in seconds, within which 99 of 100 requests were over that ended in
        that second; seconds in which none did are left out.
        """
        windows: defaultdict[int, list[float]] = defaultdict(list)
        for ended, seconds in self.samples:
            if since <= ended < until:
                windows[int(ended - since)].append(seconds)
        return [
            sorted(window)[math.ceil(0.99 * len(window)) - 1]
            for _, window in sorted(windows.items())
        ]

    @property
    def lost(self) -> dict[str, int]:
        """The requests without an answer of status 200, by what became of them."""
        return {what: count for what, count in self.counts.items() if what != "200"}


@contextmanager
def clients(
    url: str,
    bodies: Sequence[bytes],
    *,
    number: int,
    stop: threading.Event | None = None,
    patience_s: float = 60,
) -> Iterator[Outcome]:
    """Let clients ask while the block runs, or until `stop`; the outcome is whole on leaving.

    A client that gets no answer for `patience_s` counts as lost.
    """
    stop = stop or threading.Event()
    outcome = Outcome()
    threads = [
        threading.Thread(target=ask_on, args=(url, bodies, place, stop, outcome, patience_s))
        for place in range(number)
    ]
    for thread in threads:
        thread.start()
    try:
        yield outcome
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def ask_on(
    url: str,
    bodies: Sequence[bytes],
    place: int,
    stop: threading.Event,
    outcome: Outcome,
    patience_s: float,
) -> None:
    """Ask as one client, on one connection as long as the server keeps it."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=patience_s)
    while not stop.is_set():
        place += 1
        started = time.monotonic()
        try:
            connection.request(
                "POST", "/predict", bodies[place % len(bodies)], {"Content-Type": "image/png"}
            )
            reply = connection.getresponse()
            reply.read()
            what = str(reply.status)
        except (OSError, http.client.HTTPException) as error:
            what = type(error).__name__
            connection.close()
        outcome.counts[what] += 1
        ended = time.monotonic()
        outcome.samples.append((ended, ended - started))
    connection.close()

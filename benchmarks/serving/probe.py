"""Polls /health/live until its standard input ends; prints what it saw as JSON.

    python -m benchmarks.serving.probe http://127.0.0.1:8000

It is a process of its own, so that no load generator slows it down.
"""

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.children import ended
from snapensemble.bench.http_load import split_url

PERIOD_S = 0.02


def main() -> None:
    """Poll until standard input ends, then print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of the server")
    host, port, _ = split_url(parser.parse_args().url)
    done = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        done.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    statuses: dict[str, int] = {}
    slowest_s = 0.0
    connection = http.client.HTTPConnection(host, port, timeout=30)
    while not done.wait(PERIOD_S):
        started = time.monotonic()
        try:
            connection.request("GET", "/health/live")
            reply = connection.getresponse()
            reply.read()
            seen = str(reply.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            seen = type(error).__name__
        slowest_s = max(slowest_s, time.monotonic() - started)
        statuses[seen] = statuses.get(seen, 0) + 1
    print(json.dumps({"statuses": statuses, "slowest_ms": slowest_s * 1000}))


@contextmanager
def probed(url: str) -> Iterator[dict[str, Any]]:
    """Poll a server while the block runs; on leaving, the dictionary holds what was seen."""
    found: dict[str, Any] = {}
    command = [sys.executable, "-m", "benchmarks.serving.probe", url]
    with ended(
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ) as process:
        yield found
        found.update(json.loads(process.communicate()[0]))


if __name__ == "__main__":
    main()

"""What becomes of the last connections when a server is told to end.

    python -m benchmarks.serving.last_connections BUNDLE_DIR --rounds 50

Clients ask without pause, over a new connection each time or over kept ones, until they are
refused. In each round a server gets SIGTERM while they do. A connection that was made must be
answered; one that cannot be made is refused and nothing is lost.
"""

import argparse
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.machine import machine
from snapensemble.server_process import server_process

ANSWERS = 300  # before the signal, in each round


def main() -> None:
    """Print what became of all connections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle_dir", type=Path)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--keep", action="store_true", help="ask on over the same connection")
    args, flags = parser.parse_known_args()
    body = args.image.read_bytes()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    request = (head + ("" if args.keep else "Connection: close\r\n") + "\r\n").encode() + body
    fates: Counter[str] = Counter()
    seconds = []
    for _ in range(args.rounds):
        with server_process(args.bundle_dir, "--port", "0", *flags) as (process, url):
            clients = Clients(url, request, args.clients)
            clients.wait_for(ANSWERS)
            process.send_signal(signal.SIGTERM)
            signalled = time.monotonic()
            assert process.wait(60) == 0
            seconds.append(time.monotonic() - signalled)
            fates += clients.fates_at_the_end()
    lost = {fate: count for fate, count in fates.items() if fate not in ("answered", "refused")}
    print(machine())
    print(
        f"{args.rounds} rounds, {args.clients} clients, {'kept' if args.keep else 'new'} "
        f"connections, flags {' '.join(flags) or 'none'}: {fates['answered']} answered, "
        f"{fates['refused']} refused, {sum(lost.values())} lost {lost or ''}; the server ended "
        f"after {min(seconds):.2f} to {max(seconds):.2f} s"
    )


class Clients:
    """Threads that ask until they are refused, or have lost a request."""

    def __init__(self, url: str, request: bytes, count: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._request = request
        self._fates: Counter[str] = Counter()
        self._answered = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, answers: int) -> None:
        """Return when so many answers have come."""
        for _ in range(answers):
            assert self._answered.acquire(timeout=60)

    def fates_at_the_end(self) -> Counter[str]:
        """What became of every request."""
        for thread in self._threads:
            thread.join()
        return self._fates

    def _ask(self) -> None:
        while True:
            with socket.socket() as connection:
                connection.settimeout(60)
                try:
                    connection.connect(self._address)
                except ConnectionRefusedError:
                    self._fates["refused"] += 1
                    return
                try:
                    while self._exchange(connection):
                        pass
                except OSError as error:
                    self._fates[type(error).__name__] += 1
                    return

    def _exchange(self, connection: socket.socket) -> bool:
        """Send one request and read its answer; tell whether the connection may be used again."""
        connection.sendall(self._request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = connection.recv(65536)
            if not piece:
                raise BrokenPipeError("closed without an answer")
            answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = int(next(line for line in lines if line.startswith(b"content-length:"))[15:])
        while len(body) < length:
            body += connection.recv(65536)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(head[:40].decode())
        self._fates["answered"] += 1
        self._answered.release()
        return b"connection: close" not in lines


if __name__ == "__main__":
    main()

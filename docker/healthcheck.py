"""Exit with 0 if the server in this container is ready, else with 1; print what it answered.

HEALTHCHECK runs this every few seconds, so it takes a socket and no HTTP library: importing one
takes longer than the answer.
"""

import os
import socket
import sys

SECONDS = 2.0


def main() -> int:
    """Ask `/health/ready`; the exit code comes back."""
    # An empty variable counts as one that is not set, as it does for the server.
    host = os.environ.get("SNAPENSEMBLE_HOST") or "127.0.0.1"
    port = int(os.environ.get("SNAPENSEMBLE_PORT") or "8000")
    address = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104
    try:
        with socket.create_connection(address, timeout=SECONDS) as connection:
            connection.sendall(
                b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            answer = b""
            while part := connection.recv(4096):
                answer += part
    except OSError as error:
        print(f"{address[0]}:{port}: {error}")
        return 1
    status, _, rest = answer.decode(errors="replace").partition("\r\n")
    print(status, rest.rpartition("\r\n\r\n")[2])
    return 0 if status.split(" ")[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main())

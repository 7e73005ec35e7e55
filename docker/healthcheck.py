"""Exit with 0 if the server in this container is ready, else with 1; print what it answered.

HEALTHCHECK runs this every few seconds, so it takes a socket and no HTTP library: importing one
takes longer than the answer.
"""

import os
import socket
import sys

SECONDS = 2.0
# Whose the first is that is set: serving/platforms.py.
PORT_VARIABLES = ("SNAPENSEMBLE_PORT", "SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT", "PORT")


def port() -> int:
    """The port of the server, if no flag says another one."""
    said = next((os.environ[name] for name in PORT_VARIABLES if os.environ.get(name)), None)
    if said is not None:
        return int(said)
    with open("/proc/1/cmdline", "rb") as file:  # noqa: PTH123 # pathlib takes time to import
        is_on_sagemaker = file.read().split(b"\0").count(b"serve") > 1  # docker run IMAGE serve
    return 8080 if is_on_sagemaker else 8000


def main() -> int:
    """Ask `/health/ready`; the exit code comes back."""
    # An empty variable counts as one that is not set, as it does for the server.
    host = os.environ.get("SNAPENSEMBLE_HOST") or "127.0.0.1"
    address = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port())  # noqa: S104
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

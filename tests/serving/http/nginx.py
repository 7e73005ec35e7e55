"""A real nginx in front of a server, where one is installed."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

INSTALLED = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_nginx = pytest.mark.skipif(INSTALLED is None, reason="nginx is not installed: not tried")
FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextlib.contextmanager
def nginx(directory: Path, locations: str) -> Iterator[httpx.Client]:
    """Run nginx until the end of the block; the client speaks to it through a Unix socket.

    Args:
        directory: for its files; its path must be short, since the socket is there.
        locations: what it does, in its own words, inside of `server`.
    """
    assert INSTALLED is not None
    socket, log, pid = (directory / name for name in ("front.sock", "error.log", "nginx.pid"))
    configuration = directory / "nginx.conf"
    folders = "\n".join(f"{each}_temp_path {directory}/{each};" for each in FOLDERS)
    user = "user root;" if os.geteuid() == 0 else ""  # else it could not reach the directory
    configuration.write_text(
        f"{user} pid {pid}; error_log {log}; events {{}}\n"
        f"http {{ access_log off; {folders}\n"
        f"server {{ listen unix:{socket}; client_max_body_size 16m;\n{locations}\n}} }}\n"
    )
    # It goes into the background when its socket is open.
    subprocess.run([INSTALLED, "-e", log, "-c", configuration], check=True, timeout=30)
    process = int(pid.read_text())
    try:
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, base_url="http://front", timeout=30) as http:
            yield http
    finally:
        os.kill(process, signal.SIGTERM)

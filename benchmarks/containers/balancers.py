"""Debian's nginx and HAProxy with the configurations that the product ships, on other ports."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DOCKER = Path(__file__).parents[2] / "docker"
PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin"
NGINX = shutil.which("nginx", path=PATHS)
HAPROXY = shutil.which("haproxy", path=PATHS)
ADDRESS = "127.0.0.1"
SERVER = re.compile(rf"^( +server (?:\w+ )?){ADDRESS}:800[1-9]\b(.*\n)", re.MULTILINE)


@contextmanager
def nginx(directory: Path, port: int, servers: Sequence[int]) -> Iterator[str]:
    """Run nginx in front of the servers and give its URL."""
    assert NGINX is not None
    log, pid = directory / "error.log", directory / "nginx.pid"
    # Both go into the background when their ports are open.
    command: list[str | Path] = [
        NGINX, "-e", log, "-c", configuration("nginx.conf", directory, port, servers), "-g",
        f"pid {pid}; error_log {log} warn;",
    ]  # fmt: skip
    with in_the_background(command, pid):
        yield f"http://{ADDRESS}:{port}"


@contextmanager
def haproxy(directory: Path, port: int, servers: Sequence[int]) -> Iterator[str]:
    """Run HAProxy in front of the servers and give its URL."""
    assert HAPROXY is not None
    pid = directory / "haproxy.pid"
    file = configuration("haproxy.cfg", directory, port, servers)
    with in_the_background([HAPROXY, "-q", "-D", "-p", pid, "-f", file], pid):
        yield f"http://{ADDRESS}:{port}"


def configuration(name: str, directory: Path, port: int, servers: Sequence[int]) -> Path:
    """A copy of a shipped configuration that listens on a port and has a line per server."""
    text = (DOCKER / name).read_text()
    shipped = list(SERVER.finditer(text))
    assert len(shipped) == 2 and text.count(f"{ADDRESS}:8000") == 1
    lines = [
        f"{shipped[0][1].replace('one', f'server{place}')}{ADDRESS}:{each}{shipped[0][2]}"
        for place, each in enumerate(servers)
    ]
    text = text[: shipped[0].start()] + "".join(lines) + text[shipped[-1].end() :]
    file = directory / name
    file.write_text(text.replace(f"{ADDRESS}:8000", f"{ADDRESS}:{port}"))
    return file


@contextmanager
def in_the_background(command: Sequence[str | Path], pid: Path) -> Iterator[None]:
    """Run a program that goes into the background and writes its process id; end it on leaving."""
    subprocess.run(command, check=True, timeout=30)
    process = int(pid.read_text())
    try:
        yield
    finally:
        os.kill(process, 15)

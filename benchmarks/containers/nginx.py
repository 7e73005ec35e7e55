"""Debian's nginx with the configuration that the product ships, on other ports."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path(__file__).parents[2] / "docker" / "nginx.conf"
INSTALLED = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def nginx(directory: Path, port: int, servers: Sequence[int]) -> Iterator[str]:
    """Run nginx in front of the servers and give its URL."""
    assert INSTALLED is not None
    text = CONFIGURATION.read_text()
    for shipped, used in zip((8000, 8001, 8002), (port, *servers), strict=True):
        assert text.count(f"127.0.0.1:{shipped}") == 1
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{used}")
    configuration = directory / "nginx.conf"
    configuration.write_text(text)
    log, pid = directory / "error.log", directory / "nginx.pid"
    # Nginx goes into the background when its ports are open.
    command: list[str | Path] = [
        INSTALLED, "-e", log, "-c", configuration, "-g", f"pid {pid}; error_log {log} warn;"
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=30)
    process = int(pid.read_text())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.kill(process, 15)

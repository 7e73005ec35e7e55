"""`snapensemble serve` as a child process: for the demo, the tests and the benchmarks."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from snapensemble.contracts.errors import SnapensembleError
from snapensemble.serving.settings import CLIENT_TOKEN


class ServerFailed(SnapensembleError):
    """The server ended before it was ready; its own message is above this one."""


@contextlib.contextmanager
def server_process(
    bundle_dir: Path,
    *flags: str,
    stdin: int | IO[str] | None = None,
    stderr: int | IO[str] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server, give the process and its URL, and end it on leaving.

    The server answers at once, since the line is awaited that it prints when its port is open. It
    has the terminal of this process, if there is one, where nothing is said of `stdin` and
    `stderr`.

    Raises:
        ServerFailed: the server ended before it was ready.
    """
    # -P, since the current directory may hold a folder or a file of any name.
    command = [sys.executable, "-P", "-m", "snapensemble.cli", "serve", str(bundle_dir), *flags]
    process = subprocess.Popen(  # noqa: S603 # our own
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        # The token is what clients send; a server with that variable alone refuses to start.
        env={name: value for name, value in os.environ.items() if name != CLIENT_TOKEN},
        process_group=0,  # Ctrl-C must reach it once, through the end of this block
    )
    assert process.stdout is not None
    try:
        greeting = process.stdout.readline().strip()
        if not greeting:
            raise ServerFailed(f"the server did not start (exit code {process.wait()})")
        yield process, greeting.rpartition(" on ")[2]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()

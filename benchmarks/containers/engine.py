"""Containers as a person starts them: by the engine's command line."""

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import ended

ENGINE = os.environ.get("ENGINE", "docker")
HARDENED = (
    "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--memory=512m",
    "--memory-swap=512m", "--cpus=1", "--pids-limit=128",
)  # fmt: skip
SECONDS = 60


def engine(*arguments: object) -> str:
    """What the engine prints; if it fails, an AssertionError has its own message."""
    command = [ENGINE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A container that runs; its server answers at `url`."""

    name: str
    url: str
    seconds_to_serve: float

    def inspect(self, template: str) -> str:
        """The part that the template names of what the engine knows of the container."""
        return engine("inspect", "--format", template, self.name)

    def exec(self, *command: str) -> str:
        """What a command in the container prints."""
        return engine("exec", self.name, *command)

    def resident_mib(self, *, most: bool = False) -> float:
        """The memory that the server's process holds, or the most that it ever held."""
        name = "VmHWM" if most else "VmRSS"
        status = self.exec("cat", "/proc/1/status").splitlines()
        return int(next(line.split()[1] for line in status if line.startswith(name))) / 1024

    def stop(self, grace_s: int = 45) -> int:
        """Send SIGTERM, and SIGKILL after the grace; the exit code comes back."""
        engine("stop", "--time", grace_s, self.name)
        return int(self.inspect("{{.State.ExitCode}}"))


@contextlib.contextmanager
def served(
    image: str,
    bundle_dir: Path | None,
    *flags: str,
    port: int = 0,
    hardened: Sequence[str] = HARDENED,
    arguments: Sequence[str] = (),
) -> Iterator[Container]:
    """A server in a container, on a port of the loopback address; removed on leaving."""
    name = f"snapensemble-test-{secrets.token_hex(4)}"
    volume = [] if bundle_dir is None else [f"--volume={bundle_dir}:/bundle:ro"]
    started = time.monotonic()
    engine(
        "run", "--detach", f"--name={name}", f"--publish=127.0.0.1:{port or ''}:8000", *volume,
        *hardened, *flags, image, *arguments,
    )  # fmt: skip
    try:
        wait_until_serving(name)
        seconds = time.monotonic() - started
        shown = engine("port", name, "8000/tcp").splitlines()[0]
        yield Container(name, f"http://{shown}", seconds)
    finally:
        engine("rm", "--force", "--volumes", name)


def wait_until_serving(name: str, *, since: str = "") -> None:
    """Wait until the server logs that it serves; fail with the log if it ends instead."""
    command = [ENGINE, "logs", "--follow", *([f"--since={since}"] if since else []), name]
    with ended(
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ) as log:
        assert log.stdout is not None
        lines = []
        for line in log.stdout:
            lines.append(line)
            if line.startswith("Serving "):
                return
    raise AssertionError(f"{name} ended before it served: {''.join(lines)}")


def wait_until_healthy(name: str) -> None:
    """Wait until the engine's own health check has passed."""
    command = [
        ENGINE, "events", "--filter", f"container={name}", "--filter", "event=health_status",
        "--since", "10m", "--format", "{{.Action}} {{.Status}}",
    ]  # fmt: skip
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as events:
        assert events.stdout is not None
        for line in events.stdout:
            if "unhealthy" in line:
                raise AssertionError(engine("inspect", "-f", "{{json .State.Health}}", name))
            if "healthy" in line:
                return
    raise AssertionError("the engine has ended")

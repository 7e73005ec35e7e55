"""A tiny kubelet: starts a pod, probes it as its specification says, and ends it in order.

Unlike a real one it waits for no startup probe again after a restart by the liveness probe, and
does not wait longer and longer between restarts.
"""

import http.client
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from benchmarks.containers.engine import Container, engine
from benchmarks.containers.pod_spec import PodSpec, Probe

HOST = "127.0.0.1"
PATIENCE_S = 90.0


class Tally:
    """What the results of a probe mean: it passes at one success, and fails at so many failures.

    Args:
        probe: says at how many.
        passes: what holds before the first result; None: neither passed nor failed.
    """

    def __init__(self, probe: Probe, passes: bool | None = None) -> None:
        self.passes = passes
        self._probe = probe
        self._failures = 0

    def count(self, is_success: bool) -> bool | None:
        """Count a result; whether the probe passes comes back."""
        self._failures = 0 if is_success else self._failures + 1
        if is_success:
            self.passes = True
        elif self._failures >= self._probe.failures:
            self.passes = False
            self._failures = 0
        return self.passes


class Pod:
    """One pod. A context manager starts it and, if nobody has, removes it.

    Args:
        spec: what to run.
        port: of the loopback address, for the container's port `http`.
        volumes: directories by the path where they are mounted, read-only.
    """

    def __init__(self, spec: PodSpec, port: int, volumes: Mapping[str, Path]) -> None:
        self.spec = spec
        self.port = port
        self.events: list[tuple[float, str]] = []  # on the monotonic clock
        self._volumes = volumes
        self._name = f"snapensemble-pod-{secrets.token_hex(4)}"
        self.container = Container(self._name, f"http://{HOST}:{port}", 0)
        self._noted = threading.Condition()
        self._is_ending = threading.Event()
        self._is_over = threading.Event()
        self._watching = threading.Thread(target=self._watch, name=self._name)

    def __enter__(self) -> "Pod":
        mounts = [f"--volume={path}:{place}:ro" for place, path in self._volumes.items()]
        engine(
            "run", "--detach", f"--name={self._name}",
            f"--publish={HOST}:{self.port}:{self.spec.ports['http']}", *self.spec.flags, *mounts,
            self.spec.image,
        )  # fmt: skip
        self._note("started")
        self._watching.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_ending.set()
        self._is_over.set()
        self._watching.join()
        engine("rm", "--force", "--volumes", self._name)

    def wait_until_ready(self) -> None:
        """Wait until the readiness probe has passed; fail with the log if it does not."""
        self.wait_for("ready")

    def wait_for(self, what: str) -> None:
        """Wait until something has happened to it; fail with the log if it does not."""
        with self._noted:
            if not self._noted.wait_for(lambda: self._has_happened(what), PATIENCE_S):
                raise AssertionError(f"not {what}: {self.events}\n{engine('logs', self._name)}")

    def _has_happened(self, what: str) -> bool:
        return any(each == what for _, each in self.events)

    def stop(self) -> int:
        """End it as a kubelet does: the hook, SIGTERM, and SIGKILL after the grace.

        Returns:
            The exit code of the container.
        """
        self._is_ending.set()
        began = time.monotonic()
        if self.spec.pre_stop:
            self._note("hook")
            self.container.exec(*self.spec.pre_stop)
        self._note("SIGTERM")
        code = self.container.stop(max(1, round(self.spec.grace_s - (time.monotonic() - began))))
        self._note(f"ended with {code}")
        self._is_over.set()
        return code

    @property
    def restarts(self) -> int:
        """How often a probe had it restarted."""
        return sum(what == "restarted" for _, what in self.events)

    def _note(self, what: str) -> None:
        with self._noted:
            self.events.append((time.monotonic(), what))
            self._noted.notify_all()

    def _watch(self) -> None:
        """Probe as long as the container is there; liveness and start no more once it ends."""
        while not self._is_over.is_set():
            self._note("probed for its start")
            if not self._probe_until("startup", self._is_ending.is_set):
                self._restart()
                continue
            liveness = threading.Thread(target=self._keep_alive)
            liveness.start()
            self._follow_readiness()
            liveness.join()
            return

    def _probe_until(self, name: str, is_over: Callable[[], bool]) -> bool:
        """Probe until it passes (True) or has failed (False); True also when it is over."""
        probe = self.spec.probes[name]
        tally = Tally(probe)
        while not is_over():
            passes = tally.count(self._asked(probe))
            if passes is not None:
                return passes
            self._is_over.wait(probe.period_s)
        return True

    def _follow_readiness(self) -> None:
        probe = self.spec.probes["readiness"]
        tally = Tally(probe, passes=False)
        while not self._is_over.is_set():
            before, now = tally.passes, tally.count(self._asked(probe))
            if now != before:
                self._note("ready" if now else "not ready")
            self._is_over.wait(probe.period_s)

    def _keep_alive(self) -> None:
        probe = self.spec.probes["liveness"]
        tally = Tally(probe)
        while not self._is_ending.wait(probe.period_s):
            if tally.count(self._asked(probe)) is False:
                self._restart()

    def _restart(self) -> None:
        self._note("restarted")
        engine("restart", "--time", round(self.spec.grace_s), self._name)

    def _asked(self, probe: Probe) -> bool:
        """Whether a probe succeeds now."""
        assert probe.port == "http", "the only port that is published"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=probe.timeout_s)
        try:
            connection.request("GET", probe.path)
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            with suppress(OSError):
                connection.close()

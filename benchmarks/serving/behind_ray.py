"""What becomes of requests behind Ray Serve when a bundle is rolled over and a replica is killed.

    make .venv-ray-serve/installed
    .venv-ray-serve/bin/python -m benchmarks.serving.behind_ray BUNDLE OTHER_BUNDLE [--rounds 3]

A cluster of one node on the loopback address runs `docker/ray/serve.yaml` with two replicas of one
lane each, and `snapensemble serve` with two lanes answers the same load before it. Clients ask
without a pause; a roll-over begins two seconds after them and ends when Ray says that all replicas
are new.
"""

import argparse
import copy
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # one node, on the loopback address

import yaml  # Ray is imported where it is used: after these, and where it is installed

from benchmarks.containers.behind_nginx import free_ports
from benchmarks.containers.load import Outcome, clients
from snapensemble.bench.pictures import noise
from snapensemble.contracts.bundle import read_bundle
from snapensemble.server_process import server_process

FOLDER = Path(__file__).parents[2] / "docker" / "ray"
SHIPPED = yaml.safe_load((FOLDER / "serve.yaml").read_text())
NAME = SHIPPED["applications"][0]["name"]
NAMESPACE = "serve"
REPLICAS = 2
CLIENTS = 8
CALM_S = 2.0
PATIENCE_S = 120.0


class Failed(Exception):
    """Ray could not deploy; the message is Ray's."""


class Cluster:
    """A cluster of one node, to which applications are deployed as people do.

    Args:
        directory: for the configuration.
        port: of the proxy.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.bundle: Path | None = None  # the one that all replicas serve, as far as is known
        self._file = directory / "serve.yaml"
        self._port = port

    def deploy(self, bundle: Path, **settings: object) -> None:
        """Deploy a bundle, and wait until all replicas serve it.

        Raises:
            Failed: they do not.
        """
        import ray

        self.bundle = None
        self._file.write_text(yaml.safe_dump(self.configuration(bundle, settings)))
        command = [
            Path(sys.executable).with_name("serve"), "run", "--non-blocking",
            "--address", ray.get_runtime_context().gcs_address, self._file,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or "Traceback" in done.stderr:
            raise Failed(done.stderr)
        self.wait()
        self.bundle = bundle

    def configuration(self, bundle: Path, settings: dict[str, object]) -> dict[str, Any]:
        """The shipped configuration for this machine: two replicas that share two processors."""
        shipped: dict[str, Any] = copy.deepcopy(SHIPPED)
        shipped["http_options"]["port"] = self._port
        application = shipped["applications"][0]
        application["args"]["bundle"] = str(bundle)
        application["args"]["settings"] |= {"threads": 1, **settings}
        deployment = application["deployments"][0]
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = REPLICAS
        deployment["ray_actor_options"]["num_cpus"] = 0.5  # a third replica must find its place
        return shipped

    def wait(self) -> None:
        """Wait until Ray has done what was asked for: each replica is new, and healthy."""
        from ray import serve

        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = serve.status().applications[NAME]
            deployments = list(found.deployments.values())
            if found.status == "DEPLOY_FAILED":
                raise Failed("\n".join([found.message, *(each.message for each in deployments)]))
            if found.status == "RUNNING" and all(
                each.status == "HEALTHY" and each.replica_states == {"RUNNING": REPLICAS}
                for each in deployments
            ):
                return
            time.sleep(0.1)
        raise Failed(f"not as asked for within {PATIENCE_S:g} s: {serve.status()}")

    def replicas(self) -> set[str]:
        """The names of all replicas' actors that run."""
        from ray.util import list_named_actors

        named = list_named_actors(all_namespaces=True)
        return {
            each["name"]
            for each in named
            if each["namespace"] == NAMESPACE and each["name"].startswith("SERVE_REPLICA::")
        }

    def kill_a_replica(self) -> None:
        """End a replica's process at once, and wait until another has taken its place."""
        import ray

        before = self.replicas()
        ray.kill(ray.get_actor(min(before), namespace=NAMESPACE))
        deadline = time.monotonic() + PATIENCE_S
        while len(self.replicas() - {min(before)}) < REPLICAS:
            assert time.monotonic() < deadline, "Ray has not replaced the replica"
            time.sleep(0.1)
        self.wait()


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """A cluster of one node without a dashboard; it ends on leaving."""
    import ray
    from ray import serve

    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")])
    )
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else one is left at home
        ray.init(
            "local",
            num_cpus=2,
            object_store_memory=200_000_000,
            include_dashboard=False,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="warning",
            _temp_dir=directory,
        )
        try:
            yield Cluster(Path(directory), free_ports(1)[0])
        finally:
            serve.shutdown()
            ray.shutdown()


def under_load(
    url: str, bodies: list[bytes], act: Callable[[], None]
) -> tuple[Outcome, float, float]:
    """Do something under load; when it began and when it was over comes back, too."""
    with clients(url, bodies, number=CLIENTS) as outcome:
        threading.Event().wait(CALM_S)
        began = time.monotonic()
        act()
        ended = time.monotonic()
        threading.Event().wait(CALM_S)
    return outcome, began, ended


def main() -> None:
    """Measure in turns, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("other", type=Path, help="a bundle of the same images")
    parser.add_argument("--rounds", type=int, default=3, help="of each (3)")
    args = parser.parse_args()
    bundles = [args.bundle.resolve(), args.other.resolve()]
    bodies = list(noise(read_bundle(bundles[0]).image).encoded)
    with server_process(bundles[0], "--port", "0", "--threads", str(REPLICAS)) as (_, url):
        for _ in range(args.rounds):
            show("snapensemble serve", *under_load(url, bodies, wait_a_while))
    with ray_cluster() as cluster:
        cluster.deploy(bundles[0])
        for turn in range(args.rounds):
            show("Ray Serve", *under_load(cluster.url, bodies, wait_a_while))
            other = bundles[(turn + 1) % 2]
            roll = lambda other=other: cluster.deploy(other)  # noqa: E731
            show("rolled over", *under_load(cluster.url, bodies, roll))
            show("replica killed", *under_load(cluster.url, bodies, cluster.kill_a_replica))


def wait_a_while() -> None:
    """Let some seconds of load pass."""
    threading.Event().wait(3 * CALM_S)


def show(what: str, outcome: Outcome, began: float, ended: float) -> None:
    """Print what became of the requests, and the 99th percentile of the worst second of it."""
    calm = outcome.p99_by_second(began - CALM_S, began)
    line = {
        "what": what,
        "seconds": round(ended - began, 1),
        "requests": outcome.counts.total(),
        "lost": outcome.lost,
        "requests_per_second_before": round(
            sum(began - CALM_S <= at < began for at, _ in outcome.samples) / CALM_S
        ),
        "p99_before_ms": round(1000 * max(calm)),
        "p99_worst_second_ms": round(1000 * max(outcome.p99_by_second(began, ended + CALM_S))),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

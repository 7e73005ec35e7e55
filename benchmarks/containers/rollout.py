"""The deployment that the product ships, rolled over under load by hand, without a cluster.

    python -m benchmarks.containers.rollout [--rounds 3]    # needs an engine, nginx and HAProxy

Two replicas run as the pod specification in `docker/kubernetes/base` says, behind HAProxy, which
asks for `/health/ready`, or behind nginx, which learns from connections. Then each is replaced as
the strategy says: a new one starts, becomes ready, and an old one is ended. A third of the
balancer's servers is therefore always away.
"""

import argparse
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.containers.balancers import haproxy, nginx
from benchmarks.containers.behind_nginx import free_ports
from benchmarks.containers.engine import ENGINE, engine
from benchmarks.containers.kubelet import Pod
from benchmarks.containers.load import Outcome, clients
from benchmarks.containers.pod_spec import PodSpec, expect, read_pod
from benchmarks.machine import save, spread
from benchmarks.random_members import PICTURES, random_bundle

DEPLOYMENT = Path(__file__).parents[2] / "docker" / "kubernetes" / "base" / "deployment.yaml"
BUNDLE_DOCKERFILE = Path(__file__).parents[2] / "docker" / "bundle.Dockerfile"
BALANCERS: dict[str, Callable[[Path, int, Sequence[int]], AbstractContextManager[str]]] = {
    "HAProxy": haproxy,
    "nginx": nginx,
}
TAG = "snapensemble-serving-bench"
REPLICAS = 2
CLIENTS = 8
CALM_S = 3.0


@dataclass(frozen=True)
class Rollout:
    """What became of requests while all replicas were replaced.

    Attributes:
        outcome: of all requests.
        began: when the first new replica was started, on the monotonic clock.
        ended: when the last old replica had ended.
        pods: all of them, the old ones first.
        codes: how the old ones exited.
    """

    outcome: Outcome
    began: float
    ended: float
    pods: tuple[Pod, ...]
    codes: tuple[int, ...]

    def figures(self) -> dict[str, Any]:
        """The figures of one rollout, in JSON's types."""
        calm = [s for at, s in self.outcome.samples if at < self.began]
        by_second = self.outcome.p99_by_second(self.began, self.ended)
        return {
            "requests": self.outcome.counts.total(),
            "lost": self.outcome.lost,
            "seconds": self.ended - self.began,
            "p99_before_ms": 1000 * float(np.quantile(calm, 0.99)),
            "p99_worst_second_ms": 1000 * max(by_second),
            "ready_after_s": [since("started", "ready", pod) for pod in self.pods[REPLICAS:]],
            "not_ready_after_s": [
                since("SIGTERM", "not ready", pod) for pod in self.pods[:REPLICAS]
            ],
        }


def since(first: str, second: str, pod: Pod) -> float:
    """The seconds between two events of a pod."""
    at = {what: when for when, what in reversed(pod.events)}
    return at[second] - at[first]


def roll_over(
    spec: PodSpec, volumes: Mapping[str, Path], directory: Path, balancer: str
) -> Rollout:
    """Replace all replicas of a deployment under load, one after the other, new ones first."""
    port, *ports = free_ports(2 + REPLICAS)
    with ExitStack() as stack:
        pods = [stack.enter_context(Pod(spec, each, volumes)) for each in ports[:REPLICAS]]
        for pod in pods:
            pod.wait_until_ready()
        free, codes = ports[REPLICAS], []
        url = stack.enter_context(BALANCERS[balancer](directory, port, ports))
        with clients(url, PICTURES, number=CLIENTS) as outcome:
            threading.Event().wait(CALM_S)
            began = time.monotonic()
            for old in tuple(pods):
                pods.append(stack.enter_context(Pod(spec, free, volumes)))
                pods[-1].wait_until_ready()
                codes.append(old.stop())
                free = old.port
            ended = time.monotonic()
            threading.Event().wait(CALM_S)
        return Rollout(outcome, began, ended, tuple(pods), tuple(codes))


def read_deployment(file: Path = DEPLOYMENT) -> PodSpec:
    """The pods of the shipped deployment, whose strategy is the one of `roll_over`."""
    deployment = yaml.safe_load(file.read_text())["spec"]
    strategy = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    expect(deployment["strategy"], strategy, "strategy")
    return read_pod(deployment["template"]["spec"])


@contextmanager
def files_of_image(context: Path) -> Iterator[Path]:
    """The files of an image that holds a bundle and nothing else, built as the docs say."""
    tag = f"{TAG}-bundle"
    engine("build", "--quiet", "--tag", tag, "--file", BUNDLE_DOCKERFILE, context)
    with tempfile.TemporaryDirectory() as directory:
        files = Path(directory) / "files"
        name = engine("create", tag, "nothing-runs")
        try:
            engine("cp", f"{name}:/.", files)
        finally:
            engine("rm", name)
        for folder in (Path(directory), files):
            folder.chmod(0o755)
        yield files


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each balancer (3)")
    args = parser.parse_args()
    subprocess.run(["make", "image"], env=os.environ | {"IMAGE": TAG}, check=True)  # noqa: S607
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in BALANCERS}
    with tempfile.TemporaryDirectory() as work:
        Path(work).chmod(0o755)
        spec = named(read_deployment(), TAG)
        with files_of_image(random_bundle(Path(work) / "bundle")) as files:
            for _ in range(args.rounds):
                for balancer, rounds in found.items():
                    volumes = dict.fromkeys(spec.image_volumes, files)
                    rounds.append(roll_over(spec, volumes, Path(work), balancer).figures())
                    print(balancer, rounds[-1], flush=True)
    version = engine("version", "--format", "{{.Server.Version}}")
    save("rollout", {"engine": f"{ENGINE} {version}", "clients": CLIENTS, **found}, table(found))


def named(spec: PodSpec, image: str) -> PodSpec:
    """The same with the image that was built here, as an overlay of Kustomize names it."""
    return PodSpec(**(vars(spec) | {"image": image}))


def table(found: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str, ...]]:
    """What a person reads."""
    head = (
        "balancer", "requests", "failed", "p99 before, ms", "p99 in the worst second, ms",
        "ready after, s", "not ready after SIGTERM, s",
    )  # fmt: skip
    return [head] + [
        (
            balancer,
            str(sum(each["requests"] for each in rounds)),
            str(sum(sum(each["lost"].values()) for each in rounds)),
            *(
                spread([each[name] for each in rounds], ".0f")
                for name in ("p99_before_ms", "p99_worst_second_ms")
            ),
            *(
                spread([value for each in rounds for value in each[name]], ".1f")
                for name in ("ready_after_s", "not_ready_after_s")
            ),
        )
        for balancer, rounds in found.items()
    ]


if __name__ == "__main__":
    main()

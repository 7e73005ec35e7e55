"""The pods of the shipped deployment, run as a kubelet would and rolled over under load."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.containers.balancers import HAPROXY, NGINX
from benchmarks.containers.behind_nginx import free_ports
from benchmarks.containers.kubelet import Pod
from benchmarks.containers.pod_spec import PodSpec
from benchmarks.containers.rollout import files_of_image, named, read_deployment, roll_over
from benchmarks.random_members import PICTURES

BALANCERS = {"HAProxy": HAPROXY, "nginx": NGINX}


@pytest.fixture(scope="module")
def spec(image: str) -> PodSpec:
    return named(read_deployment(), image)


@pytest.fixture(scope="module")
def volumes(spec: PodSpec, bundle5: Path) -> Iterator[dict[str, Path]]:
    with files_of_image(bundle5) as files:
        yield dict.fromkeys(spec.image_volumes, files)


def test_a_pod_gets_ready_hardened_and_ends_within_its_grace(
    spec: PodSpec, volumes: dict[str, Path]
) -> None:
    (port,) = free_ports(1)
    with Pod(spec, port, volumes) as pod:
        pod.wait_until_ready()
        assert httpx.post(f"{pod.container.url}/predict", content=PICTURES[0]).status_code == 200
        assert pod.container.exec("id", "-u") == "10001"
        with pytest.raises(AssertionError, match="Read-only file system"):
            pod.container.exec("touch", "/tmp/x")
        assert pod.container.inspect("{{.HostConfig.CapDrop}} {{.HostConfig.Memory}}") == (
            f"[ALL] {512 * 2**20}"
        )
        assert pod.stop() == 0 and pod.restarts == 0
    at = {what: when for when, what in pod.events}
    assert at["SIGTERM"] < at["not ready"] < at["ended with 0"]


def test_a_pod_that_does_not_start_in_time_is_restarted(
    spec: PodSpec, volumes: dict[str, Path]
) -> None:
    hasty = dataclasses.replace(spec.probes["startup"], failures=1, period_s=0.01)
    # As the first process of a container it gets no signal before it has asked for it.
    spec = dataclasses.replace(spec, probes={**spec.probes, "startup": hasty}, grace_s=1)
    (port,) = free_ports(1)
    with Pod(spec, port, volumes) as pod:
        pod.wait_for("restarted")
    assert pod.restarts >= 1


def test_the_hook_runs_before_the_signal(spec: PodSpec, volumes: dict[str, Path]) -> None:
    spec = dataclasses.replace(spec, pre_stop=("python", "-c", "open('/proc/1/cmdline')"))
    (port,) = free_ports(1)
    with Pod(spec, port, volumes) as pod:
        pod.wait_until_ready()
        pod.stop()
    names = [what for _, what in pod.events]
    assert names.index("hook") < names.index("SIGTERM")


@pytest.mark.parametrize("balancer", [pytest.param("HAProxy", marks=pytest.mark.slow), "nginx"])
def test_all_replicas_are_replaced_without_a_lost_request(
    spec: PodSpec, volumes: dict[str, Path], tmp_path: Path, balancer: str
) -> None:
    if BALANCERS[balancer] is None:
        pytest.skip(f"{balancer} was NOT TRIED, as it is not installed: apt-get install it")
    found = roll_over(spec, volumes, tmp_path, balancer)
    assert found.outcome.lost == {} and found.outcome.answered > 100
    assert found.codes == (0, 0) and not any(pod.restarts for pod in found.pods)

"""The shipped pod specification becomes flags of `docker run`, all of it or not at all."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from benchmarks.containers.kubelet import Tally
from benchmarks.containers.pod_spec import NotTranslated, Probe, quantity, read_pod
from benchmarks.containers.rollout import DEPLOYMENT, read_deployment

Path = tuple[str | int, ...]
POD = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]
# What a scheduler reads, and what only a cluster does.
ELSEWHERE = ("requests", "topologySpreadConstraints")


def objects(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all objects in a document that is translated."""
    if isinstance(value, dict):
        yield path
        for name, part in value.items():
            if name not in ELSEWHERE:
                yield from objects(part, (*path, name))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from objects(part, (*path, place))


def at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def test_the_shipped_pod_is_as_hardened_as_it_says() -> None:
    spec = read_deployment()
    assert set(spec.flags) >= {
        "--user=10001:10001", "--read-only", "--cap-drop=ALL", "--cpus=1.0",
        "--security-opt=no-new-privileges", f"--memory={512 * 2**20}",
        "--env=SNAPENSEMBLE_DRAIN_SECONDS=10",
    }  # fmt: skip
    assert spec.probes["readiness"] == Probe("/health/ready", "http", 2, 2, 2)
    assert (spec.grace_s, spec.pre_stop, spec.ports["http"]) == (45, (), 8000)
    assert list(spec.image_volumes) == ["/bundle"]


@pytest.mark.parametrize("path", list(objects(POD)), ids=lambda path: ".".join(map(str, path)))
def test_what_is_new_in_any_part_of_a_pod_is_not_passed_over(path: Path) -> None:
    pod = copy.deepcopy(POD)
    at(pod, path)["somethingNew"] = 1
    with pytest.raises(NotTranslated):
        read_pod(pod)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (("securityContext",), "runAsUser", 0),
        (("securityContext", "seccompProfile"), "type", "Unconfined"),
        (("containers", 0, "securityContext"), "allowPrivilegeEscalation", True),
        (("containers", 0, "volumeMounts", 0), "readOnly", False),
        (("containers", 0, "resources", "limits"), "memory", "512MB"),
    ],
)
def test_a_value_that_means_something_else_is_refused(path: Path, name: str, value: object) -> None:
    pod = copy.deepcopy(POD)
    at(pod, path)[name] = value
    with pytest.raises(NotTranslated, match="found"):
        read_pod(pod)


def test_a_hook_is_a_command() -> None:
    pod = copy.deepcopy(POD)
    pod["containers"][0]["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    assert read_pod(pod).pre_stop == ("sleep", "5")


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("500m", 0.5), ("512Mi", 2**29), ("1.5G", 15 * 10**8)]
)
def test_quantities_are_read(text: str, number: float) -> None:
    assert quantity(text) == number


def test_a_probe_fails_only_after_so_many_failures_in_a_row() -> None:
    tally = Tally(Probe("/", "http", 1, 1, failures=2), passes=True)
    results = [False, True, False, False, False, True]
    assert [tally.count(result) for result in results] == [True, True, True, False, False, True]

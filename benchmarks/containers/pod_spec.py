"""A pod specification of Kubernetes as flags of `docker run`; what cannot be translated is refused.

So a line that is added to the manifests is either tried or stops whoever tries them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Fields = Mapping[str, Any]
# What only a cluster does: docs/scaling.md says what that adds.
OF_THE_CLUSTER = ("automountServiceAccountToken", "enableServiceLinks", "topologySpreadConstraints")
FACTORS = {"m": Fraction(1, 1000)} | {
    unit: Fraction(factor)
    for power, (decimal, binary) in enumerate([("", ""), ("k", "Ki"), ("M", "Mi"), ("G", "Gi")])
    for unit, factor in ((decimal, 1000**power), (binary, 1024**power))
}


class NotTranslated(Exception):
    """A specification asks for something that is not translated; the message says where."""


@dataclass(frozen=True)
class Probe:
    """What a kubelet asks again and again, and how often it may fail."""

    path: str
    port: str
    period_s: float
    timeout_s: float
    failures: int  # in a row, after which it has failed


@dataclass(frozen=True)
class PodSpec:
    """The only container of a pod.

    Attributes:
        image: what runs.
        flags: of `docker run`, without volumes and ports.
        ports: by name.
        probes: `startup`, `readiness` and `liveness`.
        pre_stop: a command that runs in the container before SIGTERM; none if empty.
        grace_s: from the beginning of the end to SIGKILL, the hook included.
        image_volumes: images whose files are mounted, read-only, by the path of the mount.
    """

    image: str
    flags: tuple[str, ...]
    ports: Mapping[str, int]
    probes: Mapping[str, Probe]
    pre_stop: tuple[str, ...]
    grace_s: float
    image_volumes: Mapping[str, str]


def read_pod(pod: Fields) -> PodSpec:
    """Translate the specification in the template of a deployment.

    Raises:
        NotTranslated: it has something that is not translated.
    """
    only(
        pod, "pod", "containers", "volumes", "securityContext", "terminationGracePeriodSeconds",
        *OF_THE_CLUSTER,
    )  # fmt: skip
    (container,) = pod["containers"]
    only(
        container, "container", "name", "image", "env", "ports", "startupProbe", "readinessProbe",
        "livenessProbe", "lifecycle", "resources", "securityContext", "volumeMounts",
    )  # fmt: skip
    for port in container["ports"]:
        only(port, f"port {port['name']}", "name", "containerPort")
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    return PodSpec(
        image=container["image"],
        flags=(
            *user(pod.get("securityContext", {})),
            *rights(container.get("securityContext", {})),
            *limits(container["resources"]),
            *environment(container.get("env", ())),
        ),
        ports=ports,
        probes={name: read_probe(probe, name) for name, probe in probes.items()},
        pre_stop=hook(container.get("lifecycle", {})),
        grace_s=pod.get("terminationGracePeriodSeconds", 30),
        image_volumes=image_volumes(pod.get("volumes", ()), container.get("volumeMounts", ())),
    )


def only(fields: Fields, place: str, *known: str) -> None:
    """Refuse fields that are not translated."""
    if unknown := fields.keys() - set(known):
        raise NotTranslated(
            f"{place}: found {', '.join(sorted(unknown))}, expected some of {', '.join(known)}; "
            "teach benchmarks/containers/pod_spec.py what it means for docker run"
        )


def expect(value: object, expected: object, place: str) -> None:
    """Refuse a value that means something else than what is done here."""
    if value != expected:
        raise NotTranslated(f"{place}: found {value!r}, expected {expected!r}")


def user(security: Fields) -> Iterable[str]:
    """Who runs it."""
    only(security, "securityContext", "runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile")
    expect(security.get("seccompProfile"), {"type": "RuntimeDefault"}, "seccompProfile")
    if security.get("runAsNonRoot") and security["runAsUser"] == 0:
        raise NotTranslated("runAsUser: found 0, expected another, since runAsNonRoot is set")
    yield f"--user={security['runAsUser']}:{security['runAsGroup']}"


def rights(security: Fields) -> Iterable[str]:
    """What its processes may do."""
    place = "container.securityContext"
    only(security, place, "allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities")
    expect(security.get("allowPrivilegeEscalation"), False, f"{place}.allowPrivilegeEscalation")
    yield "--security-opt=no-new-privileges"
    if security.get("readOnlyRootFilesystem"):
        yield "--read-only"
    capabilities = security.get("capabilities", {})
    only(capabilities, "capabilities", "drop")
    yield from (f"--cap-drop={name}" for name in capabilities.get("drop", ()))


def limits(resources: Fields) -> Iterable[str]:
    """What it may use; what it requests is for the scheduler of a cluster."""
    only(resources, "resources", "limits", "requests")
    only(resources["limits"], "limits", "cpu", "memory")
    yield f"--cpus={float(quantity(resources['limits']['cpu']))}"
    memory = int(quantity(resources["limits"]["memory"]))
    yield from (f"--memory={memory}", f"--memory-swap={memory}")


def quantity(text: str) -> Fraction:
    """A number as Kubernetes writes it: 1, 500m, 512Mi."""
    unit = text.lstrip("0123456789.")
    if unit not in FACTORS:
        raise NotTranslated(f"{text}: found the unit {unit!r}, expected one of {list(FACTORS)}")
    return Fraction(text.removesuffix(unit)) * FACTORS[unit]


def environment(variables: Iterable[Fields]) -> Iterable[str]:
    """Its variables, whose values must be in the manifest."""
    for variable in variables:
        only(variable, f"env {variable['name']}", "name", "value")
        yield f"--env={variable['name']}={variable['value']}"


def read_probe(probe: Fields, name: str) -> Probe:
    """A probe over HTTP, with Kubernetes' defaults."""
    only(probe, f"{name}Probe", "httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold")
    only(probe["httpGet"], f"{name}Probe.httpGet", "path", "port")
    return Probe(
        path=probe["httpGet"]["path"],
        port=probe["httpGet"]["port"],
        period_s=probe.get("periodSeconds", 10),
        timeout_s=probe.get("timeoutSeconds", 1),
        failures=probe.get("failureThreshold", 3),
    )


def hook(lifecycle: Fields) -> tuple[str, ...]:
    """The command before SIGTERM."""
    only(lifecycle, "lifecycle", "preStop")
    pre_stop = lifecycle.get("preStop", {})
    only(pre_stop, "preStop", "exec")
    return tuple(pre_stop.get("exec", {}).get("command", ()))


def image_volumes(volumes: Iterable[Fields], mounts: Iterable[Fields]) -> dict[str, str]:
    """The images whose files are mounted, by the path of the mount."""
    images = {}
    for volume in volumes:
        only(volume, f"volume {volume['name']}", "name", "image")
        only(volume["image"], f"volume {volume['name']}", "reference", "pullPolicy")
        images[volume["name"]] = volume["image"]["reference"]
    found = {}
    for mount in mounts:
        only(mount, f"mount {mount['name']}", "name", "mountPath", "readOnly")
        expect(mount.get("readOnly"), True, f"mount {mount['name']}.readOnly")
        found[mount["mountPath"]] = images[mount["name"]]
    return found

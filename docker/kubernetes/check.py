"""Check every resource against the schema of its kind, without a cluster and without a network.

    make kubernetes

Kubernetes' own kinds are checked by `kubernetes-validate`, strictly, for the oldest and the newest
version that it makes sense to promise; the Prometheus operator's by the models of `cloudcoil`;
KServe's by the field tables in the models of its Python package, which is read and not imported,
since it needs fifty packages. Where kubectl is installed, what Kustomize makes of the files is
checked too.
"""

import ast
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
from pydantic import BaseModel

HERE = Path(__file__).parent
OLDEST = "1.33"  # the first that takes an image as a volume without being asked to
PLAIN = {"str": str, "int": int, "bool": bool, "object": dict}
MADE_BY_KUSTOMIZE = ("base", "volume-claim")


class Wrong(Exception):
    """What is wrong, and where."""


def main() -> int:
    """Check every resource; 1 comes back if something is wrong."""
    wrong, count = [], 0
    for place, resource in resources():
        count += 1
        try:
            check(resource)
        except (Wrong, ValueError, kubernetes_validate.ValidationError) as error:
            wrong.append(f"{place}: {resource['kind']}: {error}")
    print(*wrong, f"{count} resources checked, {len(wrong)} wrong", sep="\n")
    return 1 if wrong else 0


def resources() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each resource with the place that it comes from."""
    base = yaml.safe_load((HERE / "base" / "kustomization.yaml").read_text())["resources"]
    for file in [*(HERE / "base" / name for name in base), *sorted((HERE / "kserve").glob("*"))]:
        for resource in yaml.safe_load_all(file.read_text()):
            yield str(file.relative_to(HERE)), resource
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        print("kubectl is not installed, so the files were checked and not what Kustomize makes")
        return
    for name in MADE_BY_KUSTOMIZE:
        command = [kubectl, "kustomize", str(HERE / name)]
        made = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        for resource in yaml.safe_load_all(made.stdout):
            yield f"kustomize {name}", resource


def check(resource: dict[str, Any]) -> None:
    """Raise if a resource is not what its kind says."""
    group, _, version = resource["apiVersion"].rpartition("/")
    if group == "monitoring.coreos.com":
        only_known_fields(ServiceMonitor.model_validate(resource), resource)
    elif group == "serving.kserve.io":
        check_fields(version.capitalize() + resource["kind"], resource)
    else:
        for kubernetes in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(resource, kubernetes, strict=True)


def only_known_fields(model: Any, data: Any, path: str = "") -> None:
    """Raise if `data`, which `model` was made of, has a field that the model does not know."""
    if isinstance(model, list):
        for place, (part, raw) in enumerate(zip(model, data, strict=True)):
            only_known_fields(part, raw, f"{path}[{place}]")
    elif isinstance(model, BaseModel) and isinstance(data, dict):
        known = {field.alias or name: name for name, field in type(model).model_fields.items()}
        for key, raw in data.items():
            if key not in known:
                raise Wrong(f"{path}.{key} is not known")
            only_known_fields(getattr(model, known[key]), raw, f"{path}.{key}")


def check_fields(kind: str, data: dict[str, Any], path: str = "") -> None:
    """Raise if an object has a field that its kind does not have, or one of another type."""
    types, names = field_tables(kind)
    python_name = {json_name: name for name, json_name in names.items()}
    for key, value in data.items():
        if key not in python_name:
            raise Wrong(f"{path}.{key} is not known to {kind}")
        check_value(types[python_name[key]], value, f"{path}.{key}")


def check_value(kind: str, value: Any, path: str) -> None:
    """Raise if a value is not of a type that one of KServe's tables names."""
    if kind in ("list[V1Container]", "V1ObjectMeta"):  # Kubernetes' own
        spec = {"containers": value if kind != "V1ObjectMeta" else [{"name": "x"}]}
        metadata = value if kind == "V1ObjectMeta" else {}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        kubernetes_validate.validate(pod, OLDEST, strict=True)
    elif kind.startswith("list["):
        if not isinstance(value, list):
            raise Wrong(f"{path} is {value!r}, expected a list")
        for place, part in enumerate(value):
            check_value(kind[5:-1], part, f"{path}[{place}]")
    elif kind == "dict(str, str)":
        if not all(isinstance(word, str) for pair in value.items() for word in pair):
            raise Wrong(f"{path} is {value!r}, expected text for text")
    elif kind in PLAIN:
        if type(value) is not PLAIN[kind]:
            raise Wrong(f"{path} is {value!r}, expected {kind}")
    else:
        check_fields(kind, value, path)


def field_tables(kind: str) -> tuple[dict[str, str], dict[str, str]]:
    """The type and the JSON name of each attribute of a model in KServe's package."""
    spec = importlib.util.find_spec("kserve")
    assert spec is not None and spec.origin is not None
    for file in (Path(spec.origin).parent / "models").glob("*.py"):
        text = file.read_text()
        if f"\nclass {kind}(object):" in text:
            (model,) = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef))
            tables = {
                node.targets[0].id: ast.literal_eval(node.value)
                for node in model.body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            return tables["openapi_types"], tables["attribute_map"]
    raise Wrong(f"KServe has no {kind}, or this program has to learn how to check it")


if __name__ == "__main__":
    sys.exit(main())

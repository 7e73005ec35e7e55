"""The files for Azure ML have the fields that its documents list, and agree with the image.

Fields: `MicrosoftDocs/azure-docs`, reference-yaml-deployment-managed-online.md, -environment.md and
reference-yaml-endpoint-online.md.
"""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "docker" / "azureml"
PROBE = {"initial_delay", "period", "timeout", "success_threshold", "failure_threshold"}
ROUTE = {"path": None, "port": None}
# What may be there: nothing more for None, else the fields below it.
DEPLOYMENT: dict[str, Any] = {
    **dict.fromkeys(
        ["$schema", "name", "description", "tags", "endpoint_name", "environment_variables",
         "instance_type", "instance_count", "app_insights_enabled", "scale_settings"]
    ),
    "model": dict.fromkeys(["name", "version", "path", "type", "description"]),
    "environment": {
        **dict.fromkeys(["name", "version", "image", "description", "os_type"]),
        "inference_config": dict.fromkeys(
            ["liveness_route", "readiness_route", "scoring_route"], ROUTE
        ),
    },
    "request_settings": dict.fromkeys(
        ["request_timeout_ms", "max_concurrent_requests_per_instance", "max_queue_wait_ms"]
    ),
    "liveness_probe": dict.fromkeys(PROBE),
    "readiness_probe": dict.fromkeys(PROBE),
}  # fmt: skip
ENDPOINT: dict[str, Any] = dict.fromkeys(
    ["$schema", "name", "description", "tags", "auth_mode", "traffic", "public_network_access"]
)
REQUIRED = {"name", "endpoint_name", "environment", "instance_type", "instance_count"}


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


def unknown(content: dict[str, Any], fields: dict[str, Any], where: str = "") -> list[str]:
    """The fields that the documents do not list."""
    found = [f"{where}{name}" for name in content if name not in fields]
    for name, below in fields.items():
        if below is not None and name in content:
            found += unknown(content[name], below, f"{where}{name}.")
    return found


def test_every_field_is_documented_and_none_is_missing() -> None:
    deployment = read("deployment.yaml")
    assert unknown(deployment, DEPLOYMENT) == [] and deployment.keys() >= REQUIRED
    assert unknown(read("endpoint.yaml"), ENDPOINT) == []
    assert deployment["endpoint_name"] == read("endpoint.yaml")["name"]
    wrong = {**deployment, "liveness_probe": {"delay": 1}, "colour": 1}
    assert unknown(wrong, DEPLOYMENT) == ["colour", "liveness_probe.delay"]


def test_all_routes_are_at_the_port_that_is_set() -> None:
    deployment = read("deployment.yaml")
    routes = deployment["environment"]["inference_config"]
    assert {name: route["path"] for name, route in routes.items()} == {
        "liveness_route": "/health/live",
        "readiness_route": "/health/ready",
        "scoring_route": "/predict",
    }
    port = deployment["environment_variables"]["SNAPENSEMBLE_PORT"]
    assert {str(route["port"]) for route in routes.values()} == {port}

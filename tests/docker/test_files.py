"""The files that deploy the product agree with it and with each other. No engine is needed."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from snapensemble.serving.settings import OTHERS, Settings
from snapensemble.serving.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
DOCKERFILES = [DOCKER / "serving.Dockerfile", DOCKER / "trainer.Dockerfile"]
DEPLOYING = [
    file
    for pattern in ("*.Dockerfile", "*.conf", "*.cfg", "**/*.yaml", "**/*.yml")
    for file in sorted(DOCKER.glob(pattern))
]
DEPLOYMENT = yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
(SERVER,) = POD["containers"]
ADAPTER = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
(RULE,) = ADAPTER["rules"]["custom"]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize("package", PACKAGES["wheel"]["packages"])
def test_every_package_reaches_the_images(package: str) -> None:
    assert f"!{package}" in (ROOT / ".dockerignore").read_text().splitlines()
    for dockerfile in DOCKERFILES:
        assert f"COPY {package} {package}" in dockerfile.read_text()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_needs_no_syntax_from_elsewhere(dockerfile: Path) -> None:
    assert "syntax=" not in dockerfile.read_text()
    assert set(re.findall(r"^FROM (\S+)", dockerfile.read_text(), re.MULTILINE)) <= {
        "python:3.11-slim-bookworm", "packages", "code", "scratch",
    }  # fmt: skip


@pytest.mark.parametrize("file", DEPLOYING, ids=lambda file: file.name)
def test_every_setting_that_is_named_exists(file: Path) -> None:
    known = {f"SNAPENSEMBLE_{name.upper()}" for name in Settings.model_fields}
    known |= set(OTHERS)
    assert set(re.findall(r"SNAPENSEMBLE_[A-Z_]+", file.read_text())) <= known


@pytest.mark.parametrize("file", DEPLOYING, ids=lambda file: file.name)
def test_every_metric_that_is_named_exists(file: Path) -> None:
    shown = {
        family.name + suffix
        for family in Metrics().registry.collect()
        for suffix in ("", "_total", "_bucket", "_sum", "_count")
    }
    named = set(re.findall(r"snapensemble_[a-z_]+", file.read_text()))
    assert named <= shown | {RULE["name"]["as"]}


def test_the_autoscaler_asks_for_what_the_adapter_gives() -> None:
    scaler = yaml.safe_load((KUBERNETES / "base" / "autoscaler.yaml").read_text())
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == RULE["name"]["as"]


def test_a_pod_has_the_time_to_drain_and_to_finish() -> None:
    found = environment(SERVER)
    drain = float(found["SNAPENSEMBLE_DRAIN_SECONDS"])
    finish = float(found["SNAPENSEMBLE_SHUTDOWN_TIMEOUT_S"])
    assert POD["terminationGracePeriodSeconds"] >= drain + finish + 5


def test_a_pod_that_drains_is_seen_as_not_ready_before_it_closes() -> None:
    probe = SERVER["readinessProbe"]
    seconds = probe["failureThreshold"] * probe["periodSeconds"] + probe["timeoutSeconds"]
    assert seconds < float(environment(SERVER)["SNAPENSEMBLE_DRAIN_SECONDS"])


def test_haproxy_sees_that_a_container_drains_before_it_closes() -> None:
    check = re.search(r"check inter (\d+)s fall (\d+)", (DOCKER / "haproxy.cfg").read_text())
    drain = re.search(r"DRAIN_SECONDS=(\d+)", (DOCKER / "serving.Dockerfile").read_text())
    assert check is not None and drain is not None
    assert int(check[1]) * (int(check[2]) + 1) < int(drain[1])


def test_a_service_named_like_the_product_does_not_set_its_port() -> None:
    assert POD["enableServiceLinks"] is False


def test_the_runtime_for_kserve_gives_the_time_too() -> None:
    runtime = yaml.safe_load((KUBERNETES / "kserve" / "serving-runtime.yaml").read_text())
    service = yaml.safe_load((KUBERNETES / "kserve" / "inference-service.yaml").read_text())
    (server,) = runtime["spec"]["containers"]
    drain = float(environment(server)["SNAPENSEMBLE_DRAIN_SECONDS"])
    default = Settings.model_fields["shutdown_timeout_s"].default
    grace = service["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert grace >= drain + default + 5
    formats = [each["name"] for each in runtime["spec"]["supportedModelFormats"]]
    assert service["spec"]["predictor"]["model"]["modelFormat"]["name"] in formats


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_probes_ask_paths_that_the_server_has(path: str) -> None:
    asked = {SERVER[probe]["httpGet"]["path"] for probe in SERVER if probe.endswith("Probe")}
    assert path in asked and asked <= {"/health/live", "/health/ready"}


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    provisioning = DOCKER / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "snapensemble.yaml").read_text())[
        "providers"
    ]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/snapensemble.json" in mounted
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    (job,) = scraped["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["serve:8000"]}] and "serve" in services

"""The serving image: what is in it, and that it runs with nothing allowed that it does not need."""

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from benchmarks.containers.engine import (
    ENGINE,
    HARDENED,
    Container,
    engine,
    served,
    wait_until_healthy,
)
from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.files import sha256_of
from tests.factories import encoded, picture

BASE = "python:3.11-slim-bookworm"
MB = 10**6


def python(image: str, code: str) -> subprocess.CompletedProcess[str]:
    command = [ENGINE, "run", "--rm", "--network=none", "--entrypoint=python", image, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_is_small(image: str) -> None:
    size, base = (int(engine("image", "inspect", "-f", "{{.Size}}", i)) for i in (image, BASE))
    assert size - base < 180 * MB


@pytest.mark.parametrize("name", ["torch", "onnx", "matplotlib", "sklearn", "google.protobuf"])
def test_it_has_no(image: str, name: str) -> None:
    assert "ModuleNotFoundError" in python(image, f"import {name}").stderr


def test_nothing_is_compiled_at_start(image: str) -> None:
    code = (
        "import json; from pathlib import Path; "
        "files = [*Path('/app').rglob('*.py'), *Path('/venv/lib').rglob('*.py')]; "
        "print(json.dumps([str(file) for file in files"
        " if not list((file.parent / '__pycache__').glob(file.stem + '.*.pyc'))]))"
    )
    assert json.loads(python(image, code).stdout) == ["/app/healthcheck.py"]


def test_it_says_what_it_is(image: str, clone: Path) -> None:
    config = json.loads(engine("image", "inspect", "-f", "{{json .Config}}", image))
    user, group = config["User"].split(":")
    assert int(user) > 0 and int(group) > 0
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=clone, text=True).strip()
    labels = config["Labels"]
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == "0.1.0"


def test_the_inventory_lists_what_is_in_it(image: str, clone: Path) -> None:
    code = (
        "from importlib.metadata import distributions; import json; "
        "print(json.dumps({d.name: d.version for d in distributions()}))"
    )
    installed = json.loads(python(image, code).stdout)
    bill = json.loads((clone / "dist" / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "snapensemble"
    ours = [part for part in bill["components"] if part.get("purl", "").startswith("pkg:pypi/")]
    listed = {part["name"]: part["version"] for part in ours}
    assert listed == {name: v for name, v in installed.items() if name != "snapensemble"}
    assert all(part.get("licenses") for part in ours)
    licences = (clone / "dist" / "licences.md").read_text()
    assert all(f"| {name} " in licences for name in listed)


def test_the_inventory_lists_what_is_from_debian(image: str, clone: Path) -> None:
    shown = engine(
        "run", "--rm", "--entrypoint=dpkg-query", image, "--show",
        "--showformat=${Package} ${Version}\\n",
    )  # fmt: skip
    bill = json.loads((clone / "dist" / "sbom.cdx.json").read_text())
    listed = [part for part in bill["components"] if part.get("purl", "").startswith("pkg:deb/")]
    assert {f"{part['name']} {part['version']}" for part in listed} == set(shown.splitlines())


def test_it_serves_hardened_and_becomes_healthy(server: Container) -> None:
    data = encoded(picture(3, width=32, height=32))
    reply = httpx.post(f"{server.url}/predict", content=data)
    (answer,) = reply.json()["predictions"]
    assert reply.status_code == 200 and answer["members_used"] == 5
    assert sum(answer["probabilities"]) == pytest.approx(1)
    wait_until_healthy(server.name)


def test_it_takes_all_forms_of_a_request_where_nothing_can_be_written(server: Container) -> None:
    data = encoded(picture(0, width=1500, height=1000))  # above what forms keep in memory elsewhere
    assert len(data) > 2**22
    files = [("image", ("a.png", data, "image/png"))] * 2
    reply = httpx.post(f"{server.url}/predict", files=files, timeout=60)
    assert reply.status_code == 200 and len(reply.json()["predictions"]) == 2
    assert "Read-only file system" in exec_fails(server, "touch", "/tmp/x")


def exec_fails(container: Container, *command: str) -> str:
    with pytest.raises(AssertionError) as caught:
        container.exec(*command)
    return str(caught.value)


def test_any_user_can_run_it(image: str, bundle5: Path) -> None:
    with served(image, bundle5, "--user=54321:54321") as container:
        assert httpx.get(f"{container.url}/health/ready").status_code == 200
        assert container.exec("id", "-u") == "54321"


@pytest.mark.parametrize(
    ("flag", "lanes"), [("--cpus=1.5", 2), ("--cpus=0.5", 1), ("--cpuset-cpus=1", 1)]
)
def test_there_are_as_many_lanes_as_processors_allowed(
    image: str, bundle5: Path, flag: str, lanes: int
) -> None:
    hardened = [other for other in HARDENED if not other.startswith("--cpus")]
    with served(image, bundle5, flag, hardened=hardened) as container:
        assert httpx.get(f"{container.url}/model").json()["lanes"] == lanes


def test_a_bundle_can_be_baked_in_by_two_lines(
    image: str, bundle5: Path, tmp_path: Path, clone: Path
) -> None:
    lines = (clone / "docker" / "baked.Dockerfile").read_text().splitlines()
    assert len(lines) == 2
    (tmp_path / "Dockerfile").write_text("\n".join([f"FROM {image}", lines[1]]))
    baked = f"{image}-baked"
    engine("build", "--tag", baked, "--file", tmp_path / "Dockerfile", bundle5)
    with served(baked, None) as container:
        assert httpx.get(f"{container.url}/health/ready").status_code == 200


def test_without_a_bundle_it_says_so_and_ends(image: str) -> None:
    with (
        pytest.raises(AssertionError, match="none of these exists: /bundle/ensemble.json"),
        served(image, None),
    ):
        pass


def test_the_expected_bundle_is_served_and_no_other(image: str, bundle5: Path) -> None:
    right = sha256_of((bundle5 / BUNDLE_FILE).read_bytes())
    with served(image, bundle5, f"--env=SNAPENSEMBLE_EXPECT_BUNDLE={right}"):
        pass
    with (
        pytest.raises(AssertionError, match=f"sha256 is {right}, expected 0000"),
        served(image, bundle5, f"--env=SNAPENSEMBLE_EXPECT_BUNDLE={'0' * 64}"),
    ):
        pass

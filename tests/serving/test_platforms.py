"""Where the bundle, the port and the routes come from if nobody says it by an argument."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.cli import build_settings
from snapensemble.serving.platforms import (
    PLACES,
    PORT_VARIABLES,
    bundle_place,
    check_ports,
    is_word_of_sagemaker,
)
from snapensemble.serving.settings import variable
from tests.factories import make_bundle


def a_bundle(place: Path) -> Path:
    """A directory that looks like a bundle to who looks for one."""
    place.mkdir(parents=True, exist_ok=True)
    (place / BUNDLE_FILE).write_text("{}")
    return place


def found(environment: dict[str, str], *places: Path) -> Path:
    return bundle_place(environment, [str(each) for each in places])


@pytest.mark.parametrize("below", ["", "photos", "photos/1", "upload/photos/1"])
def test_the_only_place_with_a_bundle_is_taken(tmp_path: Path, below: str) -> None:
    bundle = a_bundle(tmp_path / "b" / below)
    (tmp_path / "a").mkdir()
    assert found({}, tmp_path / "missing", tmp_path / "a", tmp_path / "b") == bundle


@pytest.mark.parametrize("name", ["AZUREML_MODEL_DIR", "HF_MODEL_DIR", "AIP_STORAGE_URI"])
def test_a_variable_names_a_place(tmp_path: Path, name: str) -> None:
    bundle = a_bundle(tmp_path / "models" / "photos")
    assert found({name: str(tmp_path / "models")}, tmp_path / "missing") == bundle
    # A place that is named twice is one place.
    assert found({name: str(tmp_path / "models")}, tmp_path / "models") == bundle


def test_a_place_with_several_bundles_stands_for_all_of_them(tmp_path: Path) -> None:
    a_bundle(tmp_path / "models" / "photos")
    a_bundle(tmp_path / "models" / "digits")
    assert found({}, tmp_path / "models") == tmp_path / "models"


def test_a_bundle_may_have_others_below_it(tmp_path: Path) -> None:
    a_bundle(tmp_path / "models" / "old")
    assert found({}, a_bundle(tmp_path / "models")) == tmp_path / "models"


def test_several_places_are_named_and_none_is_taken(tmp_path: Path) -> None:
    places = [a_bundle(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(InvalidConfig, match="there are several: ") as error:
        found({}, *places)
    assert all(str(place) in str(error.value) for place in places)


def test_without_a_bundle_all_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="none of these exists") as error:
        found({"HF_MODEL_DIR": "/nowhere"}, tmp_path / "a", tmp_path / "b")
    for place in ("/nowhere", tmp_path / "a", tmp_path / "b"):
        assert f"{place}/{BUNDLE_FILE}" in str(error.value)


def test_a_bundle_in_a_bucket_is_not_fetched_and_the_message_says_what_to_do(
    tmp_path: Path,
) -> None:
    environment = {"AIP_STORAGE_URI": "gs://bucket/photos"}
    with pytest.raises(InvalidConfig, match="gs://bucket/photos.*copy the bundle into the image"):
        found(environment, tmp_path)
    assert found(environment, a_bundle(tmp_path)) == tmp_path


def test_a_place_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(InvalidConfig, match="Permission denied.*--user 0"):
        found({}, tmp_path)


def test_the_places_of_all_platforms_are_known() -> None:
    assert PLACES == ("/bundle", "/opt/ml/model", "/mnt/models", "/repository")


@pytest.mark.parametrize("name", PORT_VARIABLES)
def test_a_platforms_port_counts_where_no_setting_says_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "8123")
    assert build_settings({}).port == 8123
    assert build_settings({}, usual_port="8080").port == 8123
    assert build_settings({"port": "1"}).port == 1
    assert build_settings({}, for_server=False).port == 8000
    monkeypatch.setenv(variable("port"), "2")
    assert build_settings({}).port == 2


def test_the_first_platforms_port_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in enumerate(PORT_VARIABLES):
        monkeypatch.setenv(name, str(9000 + place))
    assert build_settings({}).port == 9000


@pytest.mark.parametrize("name", PORT_VARIABLES)
@pytest.mark.parametrize("value", ["http", "70000", "-1", "80 80"])
def test_a_port_that_is_none_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidConfig, match=f"^{name}: expected a whole number"):
        build_settings({})


def test_sagemaker_asks_at_8080(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_settings({}, usual_port="8080").port == 8080


def test_serve_is_sagemakers_word_unless_there_is_such_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_word_of_sagemaker(Path("serve"))
    assert not is_word_of_sagemaker(Path("bundle")) and not is_word_of_sagemaker(None)
    Path("serve").mkdir()
    assert not is_word_of_sagemaker(Path("serve"))


@pytest.mark.parametrize("text", ["20000-29999", "9000-9000"])
def test_ports_in_sagemakers_range_are_free(text: str) -> None:
    environment = {"SAGEMAKER_SAFE_PORT_RANGE": text}
    check_ports(environment, {"--metrics-port": int(text[:5].rstrip("-"))})
    check_ports(environment, {"--metrics-port": None})
    check_ports({}, {"--metrics-port": 1})


@pytest.mark.parametrize("text", ["20000-29999", "29999-20000", "many", "1-"])
@pytest.mark.parametrize("port", [0, 9000])
def test_other_ports_are_refused(text: str, port: int) -> None:
    with pytest.raises(InvalidConfig, match="SAGEMAKER_SAFE_PORT_RANGE"):
        check_ports({"SAGEMAKER_SAFE_PORT_RANGE": text}, {"--metrics-port": port})


@pytest.mark.parametrize("name", ["AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_wrong_route_ends_the_server_before_it_starts(
    bundle_dir: Path, name: str, workers: str
) -> None:
    done = serve_with({name: "predict"}, str(bundle_dir), "--port", "0", "--workers", workers)
    assert done.returncode == 2
    assert f"{name}: found 'predict', expected a path" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_nothing_is_found_the_server_says_where_it_has_looked(tmp_path: Path) -> None:
    done = serve_with({"HF_MODEL_DIR": str(tmp_path)}, "--port", "0")
    assert done.returncode == 2 and f"{tmp_path}/{BUNDLE_FILE}" in done.stderr


def test_the_image_starts_as_sagemaker_starts_it(tmp_path: Path) -> None:
    """`docker run IMAGE serve`, with the place of Azure ML, since /opt/ml/model is not ours."""
    make_bundle(tmp_path / "models" / "photos")
    environment = {
        "AZUREML_MODEL_DIR": str(tmp_path / "models"),
        "SAGEMAKER_BIND_TO_PORT": "0",
    }
    process = start_with(environment, "serve")
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip().rpartition(" on ")[2]
        assert httpx.get(f"{url}/ping").status_code == 200
    finally:
        process.terminate()
        assert process.wait() == 0
        process.stdout.close()


def start_with(environment: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    """`snapensemble serve` with these variables beside those of the tests."""
    return subprocess.Popen(
        [sys.executable, "-m", "snapensemble.cli", "serve", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def serve_with(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The same, until it has ended by itself."""
    return subprocess.run(
        [sys.executable, "-m", "snapensemble.cli", "serve", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

"""Variables of the environment that are no settings, or empty."""

from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.cli import build_settings
from snapensemble.serving.settings import OTHERS, Settings, check_environment
from tests.forks import run


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SNAPENSEMBLE_TOKNES", "SNAPENSEMBLE_TOKENS"),
        ("SNAPENSEMBLE_TOKEN_FILE", "SNAPENSEMBLE_TOKENS_FILE"),
        ("SNAPENSEMBLE_EXPECTED_BUNDLE", "SNAPENSEMBLE_EXPECT_BUNDLE"),
        ("SNAPENSEMBLE_MAX_BODY_BYTE", "SNAPENSEMBLE_MAX_BODY_BYTES"),
        ("snapensemble_verify_keys", "SNAPENSEMBLE_VERIFY_KEY"),
    ],
)
def test_a_mistyped_variable_stops_the_start_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(InvalidConfig, match=f"{name.upper()} is no setting; did you mean {meant}?"):
        build_settings({})


def test_a_name_like_no_other_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_QQQQ", "")
    with pytest.raises(InvalidConfig, match="SNAPENSEMBLE_QQQQ is no setting; .*--help"):
        build_settings({})


@pytest.mark.parametrize("name", [*Settings.model_fields, "Port", "PORT"])
def test_a_setting_in_any_case_is_one(name: str) -> None:
    check_environment({f"SNAPENSEMBLE_{name}": "x"}, Settings.model_fields, ())
    check_environment({f"snapensemble_{name}": "x"}, Settings.model_fields, ())


def test_variables_of_others_and_of_kubernetes_are_let_be() -> None:
    names = [
        *(name for name in OTHERS if name != "SNAPENSEMBLE_TOKEN"),
        "SNAPENSEMBLE_WEB_SERVICE_HOST",
        "SNAPENSEMBLE_WEB_SERVICE_PORT_HTTP",
        "SNAPENSEMBLE_PORT_8000_TCP_ADDR",
        "SNAPENSEMBLE_PORT_8000_TCP",
        "SNAPENSEMBLED",
        "SNAPENSEMBLE",
        "PATH",
    ]
    check_environment(dict.fromkeys(names, "x"), Settings.model_fields, ())


def test_the_token_of_clients_does_not_pass_for_that_of_a_server(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_TOKEN", "a-token-of-clients")
    found = run("serve", bundle_dir, "--port", "0")
    assert found.returncode == 2 and found.stdout == ""
    assert "SNAPENSEMBLE_TOKEN is the token that clients send" in found.stderr
    assert "a-token-of-clients" not in found.stderr
    build_settings({"tokens_file": str(tmp_path / "tokens")})
    monkeypatch.setenv("SNAPENSEMBLE_TOKENS", "tokens-of-the-server")
    build_settings({})


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_one_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"SNAPENSEMBLE_{name.upper()}", "")
    if name in ("tokens", "tokens_file", "expect_bundle", "verify_key"):
        with pytest.raises(InvalidConfig, match=f"SNAPENSEMBLE_{name.upper()}: there is no"):
            build_settings({})
    else:
        assert build_settings({}) == Settings()


def test_a_guard_given_as_a_flag_may_be_empty_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_EXPECT_BUNDLE", "")
    assert build_settings({"expect_bundle": "0" * 64}).expect_bundle == "0" * 64


def test_every_variable_that_is_read_is_known() -> None:
    """A name that some part reads would else stop a server that is started beside it."""
    import re

    root = Path(__file__).parents[2]
    known = {f"SNAPENSEMBLE_{name.upper()}" for name in Settings.model_fields} | set(OTHERS)
    for room in ("contracts", "trainer", "export", "report", "serving", "snapensemble", "docker"):
        for file in (root / room).rglob("*.py"):
            named = set(re.findall(r"SNAPENSEMBLE_[A-Z_]*[A-Z]", file.read_text()))
            assert named <= known, file

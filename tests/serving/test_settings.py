from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import flag
from snapensemble.server_process import server_process
from snapensemble.serving.cli import build_settings
from snapensemble.serving.process.sockets import Ports, bind_port, listening
from tests.serving.process.test_server import connect


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_PORT", "9001")
    monkeypatch.setenv("SNAPENSEMBLE_THREADS", "3")
    settings = build_settings({"port": "9002"})
    assert (settings.port, settings.threads, settings.max_batch_size) == (9002, 3, 32)


def test_a_platforms_port_counts_where_no_setting_says_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "8080")
    assert build_settings({}).port == 8080
    monkeypatch.setenv("SNAPENSEMBLE_PORT", "")
    assert build_settings({}).port == 8080
    monkeypatch.setenv("SNAPENSEMBLE_PORT", "9001")
    assert build_settings({}).port == 9001
    assert build_settings({"port": "9002"}).port == 9002
    monkeypatch.delenv("SNAPENSEMBLE_PORT")
    monkeypatch.setenv("snapensemble_port", "9003")
    assert build_settings({}).port == 9003
    monkeypatch.delenv("snapensemble_port")
    monkeypatch.setenv("PORT", "")
    assert build_settings({}).port == 8000


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "70000", "-1", " "])
def test_a_platforms_port_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PORT", value)
    message = f"^PORT: expected a whole number, from 0 to 65535, got '{value}'$"
    with pytest.raises(InvalidConfig, match=message):
        build_settings({})
    assert build_settings({"port": "1"}).port == 1
    assert build_settings({}, for_server=False).port == 8000


@pytest.mark.parametrize(
    ("flags", "both"),
    [
        ({"port": "9000", "metrics_port": "9000"}, "--port and --metrics-port"),
        ({"grpc_port": "8000"}, "--port and --grpc-port"),
        (
            {"uds": "x.sock", "grpc_port": "1", "metrics_port": "1"},
            "--grpc-port and --metrics-port",
        ),
    ],
)
def test_a_port_that_is_meant_twice_is_refused_with_both_its_flags(
    flags: dict[str, object], both: str
) -> None:
    with pytest.raises(InvalidConfig, match=f"^{both} are both [0-9]+; choose another for one$"):
        build_settings(flags)


def test_free_ports_and_that_of_a_server_on_a_path_are_not_meant_twice() -> None:
    assert build_settings({"port": "0", "grpc_port": "0", "metrics_port": "0"}).port == 0
    assert build_settings({"uds": "x.sock", "metrics_port": "8000"}).metrics_port == 8000


@pytest.mark.parametrize("text", ["models", "//models", "/a/../b", "/a b", "/a?b", "/%61", "/a//b"])
def test_a_prefix_is_a_plain_path(text: str) -> None:
    with pytest.raises(InvalidConfig, match="^--root-path: expected a path such as"):
        build_settings({"root_path": text})


def test_a_prefix_has_no_slash_at_its_end() -> None:
    assert build_settings({"root_path": "/a/b/"}).root_path == "/a/b"
    assert build_settings({"root_path": "/"}).root_path == ""


@pytest.mark.parametrize(
    "flags",
    [
        {"port": "70000"},
        {"threads": "0"},
        {"max_batch_size": "many"},
        {"body_timeout_s": "inf"},
        {"providers": "cpu,gpu"},
        {"providers": ","},
        {"host": ""},
    ],
)
def test_a_wrong_value_is_named(flags: dict[str, Any]) -> None:
    (name,) = flags
    with pytest.raises(InvalidConfig, match=f"^{flag(name)}: .*got '{flags[name]}'$"):
        build_settings(flags)


def test_a_wrong_variable_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("snapensemble_max_queue", "2")
    message = "--max-images-per-request 64 exceeds SNAPENSEMBLE_MAX_QUEUE 2, so such"
    with pytest.raises(InvalidConfig, match=message):
        build_settings({})
    monkeypatch.setenv("SNAPENSEMBLE_PORT", "x")
    message = "^SNAPENSEMBLE_PORT: expected a whole number, from 0 to 65535, got 'x'$"
    with pytest.raises(InvalidConfig, match=message):
        build_settings({})
    with pytest.raises(InvalidConfig, match="^--max-images-per-request 64 exceeds --max-queue 3"):
        build_settings({"port": "1", "max_queue": "3"})


def test_a_request_must_fit_the_queue() -> None:
    with pytest.raises(InvalidConfig, match="--max-images-per-request 64 exceeds --max-queue 2"):
        build_settings({"max_queue": "2"})


def test_a_taken_port_is_said_so() -> None:
    with listening(Ports(bind_port("127.0.0.1", 0))).clients as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidConfig, match=f"cannot listen on 127.0.0.1:{port}"):
            bind_port("127.0.0.1", port)


def test_a_port_on_which_another_was_quicker_to_listen_is_named() -> None:
    with bind_port("127.0.0.1", 0) as ours:
        port = ours.getsockname()[1]
        with (
            listening(Ports(bind_port("127.0.0.1", port))),
            pytest.raises(InvalidConfig, match=f"cannot listen on http://127.0.0.1:{port}: "),
        ):
            listening(Ports(ours))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="cannot listen on 192.0.2.1:0"):
        bind_port("192.0.2.1", 0)


def test_an_idle_connection_stays_open_as_long_as_is_set(bundle_dir: Path) -> None:
    with (
        server_process(bundle_dir, "--port", "0", "--keep-alive-s", "1") as (_, url),
        closing(connect(url)) as connection,
    ):
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        assert connection.sock.recv(1) == b""  # closed by the server, long before the usual 75 s


@pytest.mark.parametrize(
    "text", ["shop.example", "https://shop.example/path", "null", "a,https://b"]
)
def test_an_origin_is_a_scheme_and_a_host(text: str) -> None:
    with pytest.raises(InvalidConfig, match="^--cors-origins: .*is no origin"):
        build_settings({"cors_origins": text})


def test_origins_are_separated_by_commas() -> None:
    origins = build_settings({"cors_origins": "https://a.example, http://[::1]:3000,"})
    assert origins.allowed_origins == ("https://a.example", "http://[::1]:3000")

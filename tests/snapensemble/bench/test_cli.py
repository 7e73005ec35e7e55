"""`snapensemble bench` on tiny members: what it reports, and how it ends."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.children import ended
from snapensemble.bench.cli import BenchConfig
from snapensemble.cli import main
from snapensemble.contracts.options import build
from tests.factories import cascade_record, encoded, make_bundle, picture

DOCUMENT = {
    "model", "members", "mode", "seconds_per_row", "pictures", "images_per_request", "cores",
    "rows", "warnings", "stopped",
}  # fmt: skip
ROW = {
    "way", "concurrency", "rate", "seconds", "requests", "answered", "errors",
    "requests_per_second", "images_per_second", "latency_ms", "members_used",
    "cpu_seconds_per_image", "peak_memory_bytes", "client_core_share",
}  # fmt: skip


def bench(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["bench", *map(str, arguments), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["bench", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and captured.out == ""
    return captured.err


def test_the_document_and_its_figures_fit_together(
    capsys: pytest.CaptureFixture[str], bundle_dir: Path, signal_handlers: None
) -> None:
    found = bench(
        capsys, bundle_dir, "--concurrency", 1, 4, "--rate", 40,
        "--seconds", 0.2, "--images-per-request", 2,
    )  # fmt: skip
    assert set(found) == DOCUMENT
    assert found["pictures"] == "64 synthetic pictures of noise, 5 x 6, PNG"
    assert (found["members"], found["images_per_request"]) == (3, 2)
    assert found["model"] == {"name": "insects", "version": "0badcafe"}
    assert found["stopped"] is False
    rows = found["rows"]
    assert [(row["way"], row["concurrency"], row["rate"]) for row in rows] == [
        (way, *load) for load in ((1, None), (4, None), (None, 40)) for way in ("engine", "http")
    ]
    for row in rows:
        assert set(row) == ROW
        assert row["answered"] + sum(row["errors"].values()) == row["requests"] > 0
        assert row["errors"] == {} and row["members_used"] == 3
        assert row["requests_per_second"] == pytest.approx(row["answered"] / row["seconds"])
        assert row["images_per_second"] == pytest.approx(2 * row["requests_per_second"])
        latency_ms = row["latency_ms"]
        assert set(latency_ms) == {"p50", "p95", "p99", "max"}
        assert 0 < latency_ms["p50"] <= latency_ms["p95"] <= latency_ms["p99"] <= latency_ms["max"]
    if sys.platform == "linux":
        assert all(row["peak_memory_bytes"] > 2**20 for row in rows)
        assert all(row["cpu_seconds_per_image"] is not None for row in rows)
    assert [row["client_core_share"] is None for row in rows] == [True, False] * 3


def test_a_cascade_asks_fewer_members(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, signal_handlers: None
) -> None:
    directory = make_bundle(tmp_path / "bundle", cascade=cascade_record((0.0, 0.0)))
    file = tmp_path / "a.jpg"
    file.write_bytes(encoded(picture(), "JPEG"))
    flags = ("--mode", "cascade", "--seconds", 0.1, "--concurrency", 2, "--images", file)
    found = bench(capsys, directory, *flags)
    assert found["mode"] == "cascade" and found["pictures"].startswith("1 picture files, ")
    assert [row["members_used"] for row in found["rows"]] == [1, 1]


def test_a_cascade_that_the_bundle_does_not_carry(
    capsys: pytest.CaptureFixture[str], bundle_dir: Path
) -> None:
    assert "carries no cascade" in fails(capsys, bundle_dir, "--mode", "cascade")


def test_a_bundle_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "ensemble.json" in fails(capsys, tmp_path)


def test_a_port_where_nobody_listens(capsys: pytest.CaptureFixture[str], bundle_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    message = fails(capsys, bundle_dir, "--url", f"http://127.0.0.1:{port}")
    assert f"no answer from http://127.0.0.1:{port}; is a server running there?" in message


def test_a_file_that_is_no_picture(
    capsys: pytest.CaptureFixture[str], bundle_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert "a.png: not an image" in fails(capsys, bundle_dir, "--images", tmp_path / "a.png")
    assert "b.png: No such file" in fails(capsys, bundle_dir, "--images", tmp_path / "b.png")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"seconds": "0"}, "--seconds: expected a number, above 0, got '0'"),
        ({"seconds": "nan"}, "--seconds: expected a finite number, above 0"),
        ({"concurrency": ["1", "0"]}, "--concurrency: .*each a whole number, at least 1, got '0'"),
        ({"rate": ["-1.0"]}, "--rate: expected a list, each a number, above 0, got '-1.0'"),
        ({"images_per_request": "0"}, "--images-per-request: expected a whole number, at least 1"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(flag: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(BenchConfig, {"bundle_dir": Path("bundle"), **flag})


def test_open_loops_replace_the_usual_closed_ones() -> None:
    usual, *others = (
        BenchConfig(bundle_dir=Path("bundle"), **given)
        for given in ({}, {"rate": (5.0,)}, {"rate": (5.0,), "concurrency": (2,)})
    )
    assert usual.loads == [(1, None), (8, None), (32, None)]
    assert [each.loads for each in others] == [[(None, 5.0)], [(2, None), (None, 5.0)]]


def test_ctrl_c_prints_what_was_measured(bundle_dir: Path) -> None:
    command = [sys.executable, "-m", "snapensemble.cli", "bench", str(bundle_dir)]
    load = ["--concurrency", "1", "2", "--seconds", "0.5", "--rate", "1"]
    with ended(
        subprocess.Popen(
            [*command, *load], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for text in process.stdout:
            if text.startswith("engine"):
                process.send_signal(signal.SIGINT)
                break
        rest, message = process.communicate()
    assert process.returncode == 130
    assert all(text.startswith(("http", "engine")) for text in rest.split("\n") if text)
    assert message == "snapensemble bench: stopped by SIGINT\n"

"""Damaged pictures leave no trace in the log. In child processes: the silence is for good."""

import base64
import ctypes
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from snapensemble.server_process import server_process
from snapensemble.serving.process.libraries import LOGGERS, silence_decoders
from tests.factories import encoded, picture

DECODE = """
import base64, sys
from snapensemble.contracts.errors import InvalidImage
from snapensemble.contracts.pixels import decode_image
from snapensemble.serving.process.startup import prepare_process
from snapensemble.serving.settings import Settings
if sys.argv[1] == "as a server":
    prepare_process(Settings())
for line in sys.stdin:
    data = base64.b64decode(line)
    for end in range(1, len(data) + 1):
        try:
            decode_image(data[:end], channels=3, height=6, width=5)
        except InvalidImage:
            pass
"""
TIFFS = [
    encoded(picture(1, width=24, height=16), "TIFF", compression=compression)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
]
TAG_277 = (277).to_bytes(2, "little")  # samples per pixel
TOO_MANY_SAMPLES = TIFFS[0].replace(TAG_277 + b"\3\0\1\0\0\0\3\0", TAG_277 + b"\3\0\1\0\0\0\xff\0")


def said_while_decoding(how: str) -> str:
    lines = b"".join(base64.b64encode(data) + b"\n" for data in [*TIFFS, TOO_MANY_SAMPLES])
    command = [sys.executable, "-c", DECODE, how]
    done = subprocess.run(command, input=lines, capture_output=True, timeout=60, check=True)
    return done.stderr.decode()


def test_damaged_tiffs_print_nothing_in_a_server() -> None:
    assert said_while_decoding("as a server") == ""


def test_damaged_tiffs_would_print() -> None:
    said = said_while_decoding("as it is")
    assert "JPEGLib: " in said and "UserWarning" in said


def test_clients_cannot_write_to_the_log_of_a_server(
    bundle_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    with (
        server_process(bundle_dir, "--port", "0") as (_, url),
        httpx.Client(base_url=url) as http,
    ):
        for data in TIFFS:
            assert http.post("/predict", content=data[:-9]).status_code == 422
        for data in (b"--x\r\n\r\n--y", b"garbage", b"--x\r\nA\r\n"):
            assert http.post("/predict", content=data, headers=form).status_code == 400
    assert capfd.readouterr().err == ""


def test_a_libtiff_out_of_reach_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    monkeypatch.setattr(warnings, "filterwarnings", lambda *_, **__: None)
    for name in LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    silence_decoders()
    assert caplog.messages == ["what libtiff prints about damaged TIFF files will be on stderr"]

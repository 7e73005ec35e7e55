"""Damaged pictures leave no trace in the log, and large ones none in memory.

Settings of C libraries are for good, so they are made in child processes.
"""

import base64
import ctypes
import logging
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from benchmarks.children import ended
from snapensemble.bench.processes import resident_bytes
from snapensemble.server_process import server_process
from snapensemble.serving.process.libraries import LOGGERS, silence_libraries
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
MIB = 2**20
HOLE = 24 * MIB
# A large block is freed, then another lies under a small one that stays: what is left of it?
PROGRAM = f"""
import ctypes, sys
from snapensemble.serving.process.libraries import give_large_blocks_back
if sys.argv[1] == "yes":
    give_large_blocks_back()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def block(size):
    address = libc.malloc(size)
    ctypes.memset(address, 1, size)
    return address
libc.free(block({HOLE}))
large, small = block({HOLE}), block(1000)
libc.free(large)
print("done", flush=True)
sys.stdin.read()
"""


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
    silence_libraries()
    assert caplog.messages == ["what libtiff prints about damaged TIFF files will be on stderr"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_large_picture_leaves_nothing_behind() -> None:
    held = {}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    for way in ("no", "yes"):
        with ended(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, way],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            held[way] = resident_bytes(process.pid) or 0
            process.stdin.close()
    assert held["no"] - held["yes"] > HOLE / 2

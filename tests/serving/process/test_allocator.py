"""What the server holds after large pictures."""

import os
import platform
import subprocess
import sys

import pytest

from snapensemble.bench.processes import resident_bytes

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_large_picture_leaves_nothing_behind() -> None:
    held = {}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    for way in ("no", "yes"):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            held[way] = resident_bytes(process.pid) or 0
            process.stdin.close()
    assert held["no"] - held["yes"] > HOLE / 2

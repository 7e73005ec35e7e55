"""The comparison of servers, without any of the peers."""

import base64
import json
import subprocess
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.children import ended
from benchmarks.peers import peers
from benchmarks.peers.apps.members import Members
from benchmarks.peers.measure import CONNECTIONS, Round
from benchmarks.peers.peers import ALL, BY_NAME, OURS, OURS_INT8
from benchmarks.peers.process_tree import MARK, ProcessTree
from benchmarks.peers.tables import against_the_best, footprints, loads
from benchmarks.peers.venvs import REQUIREMENTS, ROOT
from snapensemble.bench.processes import PROC
from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.metrics import mean_probabilities
from snapensemble.serving.inference.engine import load_engine
from tests.factories import CONTRACT

needs_proc = pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="needs /proc of Linux")
SAME = ("onnxruntime==", "pillow==")  # or it would be other work
# The child starts one that outlives it, in a session of its own, says so and waits.
PARENT = """
import subprocess, sys
code = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
subprocess.run([sys.executable, "-c", code, sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", flush=True)
input()
"""


def figures(rate: float, p99_ms: float, failed: int = 0) -> dict[str, Any]:
    load = {
        "requests_per_second": rate,
        "p50_ms": 1.0,
        "p99_ms": p99_ms,
        "cpu_ms_per_image": 2.0,
        "failed": failed,
    }
    still = {"start_s": 1.0, "idle_cores": 0.01, "memory_mib": 100.0, "processes": 1}
    return {f"c={count}": load for count in CONNECTIONS} | still


ROUNDS: list[Round] = [
    {OURS: figures(200, 10), "fastapi": figures(100, 20), "ray": figures(50, 15)},
    {OURS: figures(300, 10), "fastapi": figures(100, 30), "ray": figures(50, 15)},
]


@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.name)
def test_a_server_has_a_program_and_pinned_packages(peer: peers.Peer) -> None:
    _, module, *_ = peer.arguments(Path("bundle"), 8000)
    # Looking for it must not run it: its packages are in its own environment.
    assert find_spec(module) is not None
    lines = (REQUIREMENTS / f"{peer.environment}.txt").read_text().split()
    assert lines and all("==" in line for line in lines)
    ours = (ROOT / "constraints.txt").read_text().split()
    assert {line for line in ours if line.startswith(SAME)} <= set(lines)


@pytest.mark.parametrize("bundle", ["bundle_dir", "trunk_dir"])
def test_a_peer_asks_the_members_as_ours_does(bundle: str, request: pytest.FixtureRequest) -> None:
    directory: Path = request.getfixturevalue(bundle)
    shape = (40, *CONTRACT.shape)
    images_NCHW = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    read = read_bundle(directory)
    with load_engine(directory) as engine:
        probs_MNK = engine.predict(images_NCHW)
    expected_NK = mean_probabilities(probs_MNK, read.weights_M, read.temperature)
    np.testing.assert_allclose(Members(directory).ask(images_NCHW), expected_NK, atol=1e-5)


def test_the_picture_reaches_a_peer_unchanged() -> None:
    picture = bytes(range(256))
    assert BY_NAME["fastapi"].body(picture) == picture
    tensor = json.loads(BY_NAME["mlserver-batch"].body(picture))["inputs"][0]
    assert base64.b64decode(tensor["data"][0]) == picture
    peer = BY_NAME["bentoml-batch"]
    request = httpx.Request("POST", "http://x", content=peer.body(picture), headers=peer.headers)
    assert b"\r\n\r\n" + picture + b"\r\n--" in request.read()


def test_the_numbers_behind_the_json_are_read() -> None:
    head = b'{"outputs":[]}'
    reply = httpx.Response(
        200,
        content=head + np.array([0.25, 0.75]).tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert list(BY_NAME["pytriton"].probabilities(reply)) == [0.25, 0.75]


def test_ratios_are_those_of_one_round() -> None:
    rows = loads(ROUNDS, {"bentoml": "no wheel | none"})
    fastapi = next(row for row in rows if row[0] == BY_NAME["fastapi"].title)
    assert fastapi[-2:] == ("2.50 (2.00 to 3.00)", "2.50 (2.00 to 3.00)")
    assert rows[-1][2] == "not measured: no wheel / none"
    assert {len(row) for row in rows} == {len(rows[0])}


def test_the_best_peer_may_be_another_for_latency() -> None:
    rows = against_the_best(ROUNDS)
    assert len(rows) == 1 + len(CONNECTIONS)
    assert rows[1][1:] == (
        BY_NAME["fastapi"].title,
        "2.50 (2.00 to 3.00)",
        BY_NAME["ray"].title,
        "1.50 (1.50 to 1.50)",
    )


def test_tables_without_peers_hold_ours_alone() -> None:
    rounds: list[Round] = [{OURS: figures(1, 1), OURS_INT8: figures(2, 1)}]
    assert len(against_the_best(rounds)) == 1
    assert len(footprints(rounds, {OURS: 1.0, OURS_INT8: 1.0})) == 3


@needs_proc
def test_a_tree_ends_with_those_that_have_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    command = [sys.executable, "-c", PARENT]
    with ended(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as root:
        tree = ProcessTree(root, mark)
        try:
            assert root.stdout is not None and root.stdout.readline() == b"ready\n"
            monkeypatch.delenv(MARK)
            assert len(tree.pids()) == 2
            assert tree.cpu_s() > 0 and tree.memory_mib() > 1
        finally:
            tree.end()
        assert tree.pids() == set()

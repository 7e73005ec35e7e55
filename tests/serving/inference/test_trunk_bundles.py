"""Bundles whose members share a trunk, from their files to their answers."""

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from onnx import TensorProto, helper, load_from_string, numpy_helper

from snapensemble.bom import bill_of_materials
from snapensemble.contracts.bundle import BUNDLE_FILE, read_bundle
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.signatures import sign_bundle
from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.admission import MemoryBudget
from snapensemble.serving.inference.engine import Engine, Limits, load_engine
from snapensemble.serving.inference.session import TOO_MANY
from snapensemble.serving.telemetry.metrics import Metrics
from tests.attacks.test_bundles import SPECIAL
from tests.contracts.test_manifest import change
from tests.factories import (
    CLASSES,
    CONTRACT,
    FEATURES,
    cascade_record,
    make_bundle,
    member_on_trunk,
    onnx_file,
    trunk_file,
    whole_network,
)
from tests.fakes import client
from tests.serving.conftest import LIMITS
from tests.serving.http.test_http import PNG, is_problem
from tests.waiting import wait_for

IMAGES = np.random.default_rng(5).integers(0, 256, (90, *CONTRACT.shape), dtype=np.uint8)


def make_whole(directory: Path) -> Path:
    """The networks of `trunk_dir`, each in one file."""
    networks = [whole_network(seed) for seed in range(3)]
    return make_bundle(directory, networks, cascade=cascade_record((0.8, 0.5), (0.9, 0.7)))


class Counted:
    """A trunk that counts what it is asked, and fails when it is told to."""

    def __init__(self, engine: Engine) -> None:
        self.trunk: Any = engine.scheduler._trunk
        self.batches: list[int] = []
        self.fails = False
        engine.scheduler._trunk = self

    def __call__(self, images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images_BCHW))
        if self.fails:
            raise RuntimeError("no memory")
        features: NDArray[np.float32] = self.trunk(images_BCHW)
        return features


@pytest.mark.parametrize("mode", ["full", "cascade"])
@pytest.mark.parametrize("max_batch_size", [1, 7, 32])
def test_trunk_and_members_answer_as_the_same_networks_do_whole(
    trunk_dir: Path, tmp_path: Path, mode: Mode, max_batch_size: int
) -> None:
    whole_dir = make_whole(tmp_path / "whole")
    limits = Limits(threads=2, max_batch_size=max_batch_size)
    with load_engine(trunk_dir, limits) as shared, load_engine(whole_dir, limits) as whole:
        trunk = Counted(shared)
        found, wanted = shared.ask(IMAGES, mode), whole.ask(IMAGES, mode)
        held = shared.admission.memory.held
    depths = {len(probs_dK) for probs_dK in wanted}
    assert depths == ({3} if mode == "full" else {1, 2, 3})
    for probs_dK, wanted_dK in zip(found, wanted, strict=True):
        np.testing.assert_allclose(probs_dK, wanted_dK, atol=1e-6)
    assert sum(trunk.batches) == len(IMAGES) and max(trunk.batches) <= max_batch_size
    assert held == 0


def test_features_are_counted_in_the_memory_of_requests(
    trunk_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    real = MemoryBudget.count

    def count(memory: MemoryBudget, size: int) -> None:
        counted.append(size)
        real(memory, size)

    monkeypatch.setattr(MemoryBudget, "count", count)
    with load_engine(trunk_dir, Limits(threads=1)) as engine:
        engine.ask(IMAGES)
    size = len(IMAGES) * int(np.prod(FEATURES)) * 4
    assert sum(each for each in counted if each > 0) == size
    assert engine.admission.memory.held == 0


@pytest.mark.extra
def test_one_changed_byte_of_the_trunk_stops_the_start(trunk_dir: Path) -> None:
    file = trunk_dir / "trunk.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    uses: list[Any] = [load_engine, bill_of_materials]
    if find_spec("model_signing") is not None:
        uses.append(partial(sign_bundle, key=Path("private.pem")))
    for use in uses:
        with pytest.raises(InvalidManifest, match=r"trunk\.onnx: sha256 is .* was changed"):
            use(trunk_dir)


def test_an_absent_trunk_stops_the_start(trunk_dir: Path) -> None:
    (trunk_dir / "trunk.onnx").unlink()
    with pytest.raises(InvalidManifest, match=r"trunk\.onnx: No such file"):
        load_engine(trunk_dir)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("special", SPECIAL, ids=lambda special: special.__name__)
def test_a_trunk_that_is_no_file_is_refused_without_waiting_or_reading(
    trunk_dir: Path, special: Any
) -> None:
    (trunk_dir / "trunk.onnx").unlink()
    special(trunk_dir / "trunk.onnx")
    with pytest.raises(InvalidManifest, match=r"trunk\.onnx"):
        load_engine(trunk_dir)


def test_a_trunk_with_weights_in_another_file_is_not_followed(tmp_path: Path) -> None:
    proto = load_from_string(trunk_file())
    (tensor,) = proto.graph.initializer
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    bundle_dir = make_bundle(tmp_path / "bundle", trunk=proto.SerializeToString())
    with pytest.raises(InvalidManifest, match=r"trunk\.onnx: cannot load: .*in another file"):
        load_engine(bundle_dir)


@pytest.mark.parametrize(
    ("trunk", "member", "features", "message"),
    [
        (whole_network(0), member_on_trunk(0), FEATURES, r"trunk.onnx: .*logits.* says .*features"),
        (trunk_file(), whole_network(0), FEATURES, r"cycle-00.onnx: .*images.* says .*features"),
        (trunk_file(), member_on_trunk(0), (4, 5, 5), r"trunk.onnx: .*4, 5, 4.* says .*4, 5, 5"),
        (
            trunk_file(),
            member_on_trunk(0, (4, 5, 5)),
            FEATURES,
            r"cycle-00.onnx: .*4, 5, 5.* says .*4, 5, 4",
        ),
    ],
    ids=["whole network as trunk", "whole network as member", "other trunk", "other member"],
)
def test_parts_that_do_not_fit_each_other_stop_the_start(
    tmp_path: Path, trunk: bytes, member: bytes, features: Any, message: str
) -> None:
    bundle_dir = make_bundle(tmp_path / "bundle", [member], trunk=trunk, features=features)
    with pytest.raises(InvalidManifest, match=message):
        load_engine(bundle_dir)


def test_a_trunk_that_gives_no_numbers_stops_the_start(tmp_path: Path) -> None:
    proto = load_from_string(trunk_file())
    (tensor,) = proto.graph.initializer
    nan = np.full(list(tensor.dims), np.nan, np.float32)
    tensor.CopyFrom(numpy_helper.from_array(nan, tensor.name))
    bundle_dir = make_bundle(tmp_path / "bundle", trunk=proto.SerializeToString())
    with pytest.raises(InvalidManifest, match="the trunk gives shape .* expected finite"):
        load_engine(bundle_dir)


def test_features_may_be_a_row_of_numbers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["means"], keepdims=0, noop_with_empty_axes=0),
    ]
    nodes[1].input.append("axes")
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", *CONTRACT.shape])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["b", 3])
    nodes[1].output[0] = "features"
    axes: Any = np.array([2, 3])
    trunk = onnx_file(nodes, images, features, {"axes": axes})
    files = [member_on_trunk(seed, (3,)) for seed in range(2)]
    bundle_dir = make_bundle(tmp_path / "bundle", files, trunk=trunk, features=(3,))
    with load_engine(bundle_dir) as engine:
        assert engine.predict(IMAGES[:4]).shape == (2, 4, len(CLASSES))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 1, "knows no trunk"),
        ("format_version", 3, "later snapensemble.*install a newer"),
    ],
)
def test_a_trunk_belongs_to_version_2(
    trunk_dir: Path, key: str, value: object, message: str
) -> None:
    change(trunk_dir, key, to=value)
    with pytest.raises(InvalidManifest, match=message):
        read_bundle(trunk_dir)


def test_a_bundle_of_version_1_is_served(bundle_dir: Path) -> None:
    file = bundle_dir / BUNDLE_FILE
    content = json.loads(file.read_text())
    del content["trunk"], content["price"]
    file.write_text(json.dumps({**content, "format_version": 1}))
    with load_engine(bundle_dir) as engine:
        assert engine.predict(IMAGES[:4]).shape == (3, 4, len(CLASSES))
    assert engine.bundle.parts == engine.bundle.members


def test_no_member_is_called_trunk_beside_one(trunk_dir: Path) -> None:
    change(trunk_dir, "members", 1, "name", to="trunk")
    with pytest.raises(InvalidManifest, match="or one has the trunk's"):
        read_bundle(trunk_dir)


@pytest.fixture
def engine(trunk_dir: Path) -> Any:
    with load_engine(trunk_dir, LIMITS.limits()) as engine:
        yield engine


async def test_the_model_page_shows_trunk_price_and_what_runs_it(http: httpx.AsyncClient) -> None:
    model = (await http.get("/model")).json()
    assert model["trunk"]["features"] == list(FEATURES)
    assert model["price"] == {"trunk": 900, "members": [100, 100, 100]}
    assert model["providers"]["trunk"] == ["CPUExecutionProvider"]


async def test_a_trunk_that_fails_again_and_again_takes_the_server_out_of_service(
    http: httpx.AsyncClient, engine: Engine
) -> None:
    trunk = Counted(engine)
    trunk.fails = True
    for _ in range(TOO_MANY):
        is_problem(await http.post("/predict", content=PNG), 500, "inference_failed")
    wait_for(lambda: bool(engine.health.failing))  # it is told just after the answer
    detail = is_problem(await http.get("/health/ready"), 503, "member_failing")
    assert "more: trunk;" in detail
    trunk.fails = False
    assert (await http.post("/predict", content=PNG)).status_code == 200
    assert (await http.get("/health/ready")).status_code == 200


def test_time_and_failures_of_the_trunk_are_counted_beside_those_of_members(
    trunk_dir: Path,
) -> None:
    metrics = Metrics()
    with load_engine(trunk_dir, on_batch=partial(metrics.batch, "insects")) as engine:
        metrics.served("insects", engine.bundle.version, engine.bundle, is_served=True)
        engine.ask(IMAGES[:4])
        Counted(engine).fails = True
        (answer,) = engine.submit([IMAGES[0]])
        assert answer.exception(30) is not None
    samples = {
        (sample.name, sample.labels.get("member")): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    for member in ("trunk", "cycle-00", "cycle-01", "cycle-02"):
        assert samples["snapensemble_member_busy_seconds_total", member] > 0
        failures = samples["snapensemble_member_failures_total", member]
        assert failures == (1 if member == "trunk" else 0)
    assert samples["snapensemble_members_used_sum", None] == 4 * 3
    assert samples["snapensemble_members_used_count", None] == 4


async def test_an_answer_over_http_is_that_of_the_members_on_the_trunk(
    trunk_dir: Path, tmp_path: Path, app: FastAPI
) -> None:
    whole_dir = make_whole(tmp_path / "whole")
    with load_engine(whole_dir, LIMITS.limits()) as whole:
        for mode in ("full", "cascade"):
            replies = []
            for one in (app, create_app(LIMITS, whole)):
                async with client(one) as http:
                    reply = await http.post(f"/predict?mode={mode}&members=true", content=PNG)
                    replies.append(reply.json()["predictions"][0])
            found, wanted = replies
            assert found["members_used"] == wanted["members_used"]
            np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=1e-6)

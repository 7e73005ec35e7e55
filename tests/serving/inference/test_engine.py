from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import snapensemble.serving.inference.session
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.metrics import softmax
from snapensemble.contracts.sessions import open_session, session_options
from snapensemble.serving.inference.engine import Limits, load_engine
from snapensemble.serving.settings import Settings
from tests.factories import CONTRACT, linear_logits, linear_member, make_bundle

IMAGES = np.random.default_rng(5).integers(0, 256, (300, *CONTRACT.shape), dtype=np.uint8)


def test_the_members_distributions_come_out_in_their_order(bundle_dir: Path) -> None:
    with load_engine(bundle_dir) as engine:
        probs_MNK = engine.predict(IMAGES)
    for seed in range(3):
        exact_NK = softmax(linear_logits(seed, IMAGES))
        np.testing.assert_allclose(probs_MNK[seed], exact_NK, atol=1e-5)


def test_answers_do_not_depend_on_the_company(bundle_dir: Path) -> None:
    with load_engine(bundle_dir, Limits(max_batch_size=1)) as alone:
        one = alone.predict(IMAGES[:40])
    with load_engine(bundle_dir, Limits(max_batch_size=32)) as together:
        many = together.predict(IMAGES[:40])
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_in_process_no_number_of_images_is_too_much(bundle_dir: Path) -> None:
    with load_engine(bundle_dir, Limits(max_queue=7)) as engine:
        assert engine.predict(IMAGES[:50]).shape == (3, 50, 3)


def test_one_changed_byte_stops_the_start(bundle_dir: Path) -> None:
    file = bundle_dir / "members" / "cycle-01.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InvalidManifest, match=r"cycle-01\.onnx: sha256"):
        load_engine(bundle_dir)


def test_an_absent_member_stops_the_start(bundle_dir: Path) -> None:
    (bundle_dir / "members" / "cycle-02.onnx").unlink()
    with pytest.raises(InvalidManifest, match=r"cycle-02\.onnx: No such file"):
        load_engine(bundle_dir)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no ONNX at all", "cannot load"),
        (linear_member(0, batch=2), "batch dimension of any size"),
        (linear_member(0, output="scores"), "scores"),
    ],
)
def test_a_member_that_is_not_what_the_bundle_says_stops_the_start(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        load_engine(make_bundle(tmp_path / "bundle", [data]))


def test_a_member_that_gives_no_numbers_stops_the_start(tmp_path: Path) -> None:
    proto = onnx.load_from_string(linear_member(0))
    (tensor,) = proto.graph.initializer
    nan = np.full(list(tensor.dims), np.nan, np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(nan, tensor.name))
    with pytest.raises(InvalidManifest, match="cycle-00 gives shape .* expected finite"):
        load_engine(make_bundle(tmp_path / "bundle", [proto.SerializeToString()]))


def test_the_limits_reach_the_scheduler_and_admission(bundle_dir: Path) -> None:
    limits = Limits(threads=3, max_batch_size=5, max_queue=7, max_wait_s=1.5)
    engine = load_engine(bundle_dir, limits)
    scheduler, admission = engine.scheduler, engine.admission
    assert (scheduler.threads, scheduler._max_batch_size) == (3, 5)
    assert (admission._max_images, admission._max_wait_s) == (7, 1.5)
    assert Settings(max_wait_ms=1500, max_queue=100).limits().max_wait_s == 1.5


def test_a_session_has_one_thread_and_does_not_spin() -> None:
    options = session_options()
    assert options.intra_op_num_threads == options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_weights_in_another_file_are_not_followed(tmp_path: Path) -> None:
    proto = onnx.load_from_string(linear_member(0))
    (tensor,) = proto.graph.initializer
    (tmp_path / "outside").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(tmp_path / "outside"))
    with pytest.raises(InvalidManifest, match="cannot load"):
        load_engine(make_bundle(tmp_path / "bundle", [proto.SerializeToString()]))


def test_a_provider_that_is_not_installed_stops_the_start_with_those_that_are(
    bundle_dir: Path,
) -> None:
    with pytest.raises(InvalidConfig, match="has no cuda and no tensorrt, only cpu; another"):
        load_engine(bundle_dir, Limits(providers=("cuda", "tensorrt", "cpu")))


def test_a_provider_that_finds_no_device_stops_the_start(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime itself would go on with the processor and warn.
    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)
    monkeypatch.setattr(
        snapensemble.serving.inference.session, "open_session", lambda data, _: open_session(data)
    )
    with pytest.raises(InvalidConfig, match="cuda cannot be used here"):
        load_engine(bundle_dir, Limits(providers=("cuda", "cpu")))


def test_the_order_of_providers_reaches_the_sessions(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    class Session:
        def __init__(self, *_: object, providers: list[str]) -> None:
            asked.append(providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    open_session(linear_member(0), Settings(providers="tensorrt, cuda,cpu").limits().providers)
    assert asked == [["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]]

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from torch import Tensor, nn

import snapensemble.export.parity
from snapensemble.contracts.bundle import ParityRecord
from snapensemble.contracts.metrics import softmax
from snapensemble.export.parity import (
    BATCH_SIZES,
    IMAGES_AT_A_TIME,
    Compared,
    ParityFailed,
    ensemble_parity,
    extremes,
    parity,
    parity_images,
    run_file,
)
from tests.factories import CONTRACT, linear_logits, linear_member
from tests.networks import exported, image_of, noise_NCHW, trained

IMAGE, PIXELS = image_of(16), noise_NCHW(16)[:10]
IMAGES = np.random.default_rng(0).integers(0, 256, (75, *CONTRACT.shape), dtype=np.uint8)


@pytest.fixture
def small() -> tuple[nn.Module, bytes]:
    return trained("tiny", 16), exported("tiny", 16)


def test_a_residual_network_answers_as_torch_does_at_every_batch_size() -> None:
    # Two folded batch-norms that read the same input once shared a bias in the exporter.
    model = trained("resnet20", 16)
    record = parity(model, [exported("resnet20", 16)], PIXELS, what="resnet20").record
    assert record.batch_sizes == BATCH_SIZES == (1, 2, 7, 32)
    assert record.max_probability_difference < 1e-5


def test_a_file_with_one_weight_changed_is_refused(small: tuple[nn.Module, bytes]) -> None:
    model, data = small
    proto = onnx.load_from_string(data)
    bias = next(t for t in proto.graph.initializer if list(t.dims) == [4])
    changed = numpy_helper.to_array(bias) + np.array([0.01, 0, 0, 0], np.float32)
    bias.CopyFrom(numpy_helper.from_array(changed, bias.name))
    with pytest.raises(ParityFailed, match="cycle-00: at batch size 1 .* nothing was published"):
        parity(model, [proto.SerializeToString()], PIXELS, what="cycle-00")


def test_a_file_that_answers_nan_is_refused(small: tuple[nn.Module, bytes]) -> None:
    model, data = small
    proto = onnx.load_from_string(data)
    bias = next(t for t in proto.graph.initializer if list(t.dims) == [4])
    nan = numpy_helper.from_array(np.full(4, np.nan, np.float32), bias.name)
    bias.CopyFrom(nan)
    with pytest.raises(ParityFailed):
        parity(model, [proto.SerializeToString()], PIXELS, what="x")


def test_a_file_that_fails_only_for_larger_batches_is_refused() -> None:
    class FirstImageOnly(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float().mean(dim=(2, 3))

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
            helper.make_node("Slice", ["means", "zero", "one", "zero"], ["first"]),
            helper.make_node("Shape", ["means"], ["shape"]),
            helper.make_node("Expand", ["first", "shape"], ["logits"]),
        ],
        "first-only",
        [helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["b", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["b", 3])],
        [
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(np.array([0]), "zero"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    data = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    with pytest.raises(ParityFailed, match="at batch size 2"):
        parity(FirstImageOnly().eval(), [data], PIXELS, what="x")


def test_an_ensembles_average_is_compared_too() -> None:
    compared = []
    for seed in (0, 1):
        model, onnx_file = trained("tiny", 16, seed), exported("tiny", 16, seed)
        compared.append(parity(model, [onnx_file], PIXELS, what=f"member {seed}"))
    record = ensemble_parity(compared, [0.75, 0.25])
    gaps = [member.record.max_probability_difference for member in compared]
    assert max(gaps) <= record.max_probability_difference < 1e-5
    assert record.max_logit_difference == max(m.record.max_logit_difference for m in compared)
    assert record.batch_sizes == BATCH_SIZES


def answers(gap: float) -> Compared:
    """Answers of a member that passed by itself; ONNX Runtime's differ by `gap`."""
    rng = np.random.default_rng(0)
    expected = [softmax(rng.normal(size=(size, 3))) for size in BATCH_SIZES]
    found = [probs_BK + np.array([gap, -gap, 0.0]) for probs_BK in expected]
    record = ParityRecord(
        batch_sizes=BATCH_SIZES, max_logit_difference=0, max_probability_difference=0
    )
    return Compared(record, expected, found)


@pytest.mark.parametrize("gap", [1e-3, np.nan])
def test_an_ensemble_whose_average_differs_is_refused(gap: float) -> None:
    assert ensemble_parity([answers(0.0), answers(1e-7)], [0.5, 0.5]).max_probability_difference > 0
    with pytest.raises(
        ParityFailed, match="the ensemble: at batch size 1 .* nothing was published"
    ):
        ensemble_parity([answers(0.0), answers(gap)], [0.5, 0.5])


def test_the_average_counts_each_member_with_its_weight() -> None:
    record = ensemble_parity([answers(0.0), answers(1e-5)], [0.75, 0.25])
    assert record.max_probability_difference == pytest.approx(0.25e-5, rel=1e-6)


def test_black_white_noise_and_single_colours_are_among_the_images_compared() -> None:
    black, white, noise, *colours = extremes(IMAGE.shape)
    assert not black.any() and (white == 255).all() and len(np.unique(noise)) > 200
    assert [[int(channel.max()) for channel in colour] for colour in colours] == [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
    ]
    for size in (7, 32):
        batch = parity_images(PIXELS, size)
        assert (batch[-6:] == extremes(IMAGE.shape)).all()
        assert (batch[: size - 6] == PIXELS[np.arange(size - 6) % len(PIXELS)]).all()
    assert (parity_images(PIXELS, 2) == PIXELS[:2]).all()


def test_each_image_gets_its_own_answer_in_order() -> None:
    logits_NK = run_file(linear_member(3), IMAGES)
    assert logits_NK.dtype == np.float32
    np.testing.assert_allclose(logits_NK, linear_logits(3, IMAGES), atol=1e-4)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapensemble.export.parity, "cpu_budget", lambda: 4)
    one, four = (run_file(linear_member(3), IMAGES, threads) for threads in (1, 4))
    assert one.tobytes() == four.tobytes()


class Session:
    """Remembers how many images came together."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="logits")]

    def run(self, _: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(len(feed["images"]))
        return [np.zeros((len(feed["images"]), 3), np.float32)]


def test_never_more_than_a_bounded_number_of_images_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session()
    monkeypatch.setattr(snapensemble.export.parity, "open_session", lambda _: session)
    assert run_file(b"", IMAGES).shape == (75, 3)
    assert sorted(session.sizes) == [75 - 2 * IMAGES_AT_A_TIME, IMAGES_AT_A_TIME, IMAGES_AT_A_TIME]


@pytest.mark.parametrize(("asked", "budget", "used"), [(None, 3, 3), (2, 3, 2), (8, 3, 3)])
def test_no_more_threads_than_processors(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, budget: int, used: int
) -> None:
    started: list[int] = []

    def pool(workers: int) -> ThreadPoolExecutor:
        started.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(snapensemble.export.parity, "cpu_budget", lambda: budget)
    monkeypatch.setattr(snapensemble.export.parity, "ThreadPoolExecutor", pool)
    run_file(linear_member(0), IMAGES[:2], asked)
    assert started == [used]

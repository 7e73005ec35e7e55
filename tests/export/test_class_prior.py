"""Bundles that answer as if all classes were equally frequent (`export --class-prior uniform`)."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from snapensemble.contracts.bundle import BUNDLE_FILE, BundleManifest, read_bundle
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import (
    Answers,
    Floats,
    macro_accuracy,
    mean_probabilities,
    nll,
    rank,
    reweighted,
    softmax,
    tempered,
)
from snapensemble.contracts.options import build
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import Balance, RunManifest, read_run, read_validation, write_run
from snapensemble.export.bundle import build_bundle
from snapensemble.export.calibration import gains_over_singles, split_validation
from snapensemble.export.candidates import UniformPrior, pooled
from snapensemble.export.cli import describe
from snapensemble.export.config import ExportConfig
from snapensemble.export.onnx_export import Converter
from snapensemble.export.parity import ParityFailed, parity, run_members
from snapensemble.export.selection import Bag, Chosen
from snapensemble.export.temperature import fit_temperature
from snapensemble.report.bundle.page import read_bundle_report
from snapensemble.report.bundle.words import summary
from snapensemble.trainer.data.dataset import load_dataset
from tests.export.runs import CLASSES, SIDE, staged_run

COUNTS = {"train": (300, 15, 150), "val": (200, 10, 100), "test": (300, 300, 300)}
pytestmark = pytest.mark.usefixtures("staged")


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Greys of three kinds that overlap; the middle one is rare, but not in the test part."""
    rng, parts = np.random.default_rng(0), dict[str, Any](classes=np.array(CLASSES))
    for part, counts in COUNTS.items():
        labels_N = rng.permutation(np.repeat(np.arange(len(CLASSES)), counts))
        greys_N = 128 + 40 * (labels_N - 1) + rng.normal(0, 20, len(labels_N))
        noise_NHWC = rng.normal(0, 10, (len(labels_N), SIDE, SIDE, 3))
        images = np.clip(greys_N[:, None, None, None] + noise_NHWC, 0, 255)
        parts |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels_N}
    file = tmp_path_factory.mktemp("unequal") / "images.npz"
    np.savez(file, **parts)
    return file


@pytest.fixture(scope="module")
def run_dir(staged: None, unequal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three members of three last stages behind one trunk."""
    return staged_run(tmp_path_factory.mktemp("unequal-run") / "run", unequal)


def exported(runs: Path | list[Path], out: Path, **settings: Any) -> BundleManifest:
    config = build(ExportConfig, {"report": False, "select": "all", **settings})
    return build_bundle(runs, out, config)


def answers(bundle_dir: Path, images_NCHW: np.ndarray) -> Floats:
    """probs_MNK of a bundle's files."""
    bundle = read_bundle(bundle_dir)
    trunk = None if bundle.trunk is None else (bundle_dir / bundle.trunk.file).read_bytes()
    members = [(bundle_dir / member.file).read_bytes() for member in bundle.members]
    return softmax(run_members(members, images_NCHW, trunk))


def images_of(file: Path) -> tuple[np.ndarray, np.ndarray]:
    test = load_dataset(f"npz:{file}", val_fraction=0.1, split_seed=0).part("test")
    return test.images_NCHW, test.labels_N


def changed(run_dir: Path, out: Path, **changes: Any) -> Path:
    """A copy of a run that differs in its manifest."""
    shutil.copytree(run_dir, out)
    write_run(out, read_run(run_dir).model_copy(update=changes))
    return out


def balanced(run: RunManifest, balance: Balance) -> dict[str, Any]:
    return {"training": run.training.model_copy(update={"class_balance": balance})}


def temperatures(run_dir: Path) -> list[float]:
    """Of each snapshot's answers to the images that choose."""
    logits_SNK, labels_N = read_validation(run_dir, read_run(run_dir))
    chosen_by = split_validation(labels_N).selection_N
    return [fit_temperature(softmax(one[chosen_by]), labels_N[chosen_by]) for one in logits_SNK]


@pytest.mark.parametrize("members", [1, 3])
def test_each_member_answers_as_before_divided_by_the_shares_of_the_classes(
    members: int, run_dir: Path, unequal: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"select": "last", "members": members}
    before = exported(run_dir, tmp_path / "before", **settings)
    after = exported(run_dir, tmp_path / "after", class_prior="uniform", **settings)
    assert [m.name for m in after.members] == [m.name for m in before.members]
    assert (after.trunk is None) == (members == 1)  # alone it is a whole network
    images_NCHW, _ = images_of(unequal)
    before_MNK = answers(tmp_path / "before", images_NCHW)
    found_MNK = answers(tmp_path / "after", images_NCHW)
    shares_K = np.array(COUNTS["train"]) / sum(COUNTS["train"])
    own = dict(
        zip([s.name for s in read_run(run_dir).snapshots], temperatures(run_dir), strict=True)
    )
    for member, before_NK, found_NK in zip(after.members, before_MNK, found_MNK, strict=True):
        # Calibrated, then divided, in units of the temperature that comes after the average.
        divided_NK = before_NK / shares_K ** own[member.name]
        expected_NK = divided_NK / divided_NK.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found_NK, expected_NK, atol=1e-4)
        assert np.abs(found_NK - before_NK).max() > 0.3


def test_temperatures_are_fitted_to_what_is_served_with_the_shares_put_back(
    run_dir: Path, tmp_path: Path
) -> None:
    bundle = exported(run_dir, tmp_path / "bundle", class_prior="uniform", cascade=True)
    pool = pooled([run_dir], "uniform")
    assert pool.prior is not None and bundle.cascade is not None
    order = [[c.name for c in pool.candidates].index(member.name) for member in bundle.members]
    chosen_by = split_validation(pool.labels_N).selection_N
    for depth, found in ((1, bundle.cascade.temperatures[0]), (3, bundle.temperature)):
        mean_NK = pool.probs_SNK[order[:depth]].mean(axis=0)[chosen_by]
        labels_N = pool.labels_N[chosen_by]
        assert found == fit_temperature(mean_NK, labels_N, pool.prior.log_shares_K)
        assert found != fit_temperature(mean_NK, labels_N)


def test_equally_frequent_classes_are_told_apart_better(
    run_dir: Path, unequal: Path, tmp_path: Path
) -> None:
    images_NCHW, labels_N = images_of(unequal)
    found = {}
    for prior in ("training", "uniform"):
        bundle = exported(run_dir, tmp_path / prior, class_prior=prior)
        probs_MNK = answers(tmp_path / prior, images_NCHW)
        probs_NK = mean_probabilities(probs_MNK, bundle.weights_M, bundle.temperature)
        found[prior] = macro_accuracy(probs_NK, labels_N), bundle
    assert found["uniform"][0] > found["training"][0] + 0.1
    before, after = found["training"][1], found["uniform"][1]
    assert (after.val.macro_accuracy or 0) > (before.val.macro_accuracy or 0)
    for member, same in zip(after.members, before.members, strict=True):
        assert (member.val.macro_accuracy or 0) > (same.val.macro_accuracy or 0)


def test_an_nll_chooses_as_it_would_without_for_it_puts_the_shares_back(
    run_dir: Path, tmp_path: Path
) -> None:
    before, after = (
        exported(run_dir, tmp_path / prior, class_prior=prior, select="best", members=2)
        for prior in ("training", "uniform")
    )
    assert [m.name for m in after.members] == [m.name for m in before.members]
    for gain, same in zip(after.selection.gains, before.selection.gains, strict=True):
        assert gain.nll == pytest.approx(same.nll, abs=0.02)
    pool = pooled([run_dir], "uniform")  # by the NLL of what is served it would be others
    served = [nll(probs_NK, pool.labels_N) for probs_NK in pool.probs_SNK]
    others = {pool.candidates[s].name for s in rank(served)[:2]}
    assert others != {member.name for member in after.members}


def test_the_manifest_says_it_only_where_it_is_another_one(run_dir: Path, tmp_path: Path) -> None:
    exported(run_dir, tmp_path / "before")
    exported(run_dir, tmp_path / "after", class_prior="uniform")
    before, after = (
        json.loads((tmp_path / name / BUNDLE_FILE).read_text()) for name in ("before", "after")
    )
    assert "class_prior" not in before  # earlier versions refuse fields that they do not know
    assert after["class_prior"] == "uniform"
    assert read_bundle(tmp_path / "before").class_prior == "training"
    assert read_bundle(tmp_path / "after").class_prior == "uniform"


def test_the_command_and_the_page_say_it(run_dir: Path, tmp_path: Path) -> None:
    said = "as if all classes were equally frequent"
    for prior, is_said in (("training", False), ("uniform", True)):
        manifest = exported(run_dir, tmp_path / prior, class_prior=prior, report=True)
        bundle, figures, page = read_bundle_report(tmp_path / prior)
        assert ("class prior uniform" in describe(manifest)) == is_said
        assert (said in " ".join(summary(bundle, figures))) == is_said
        assert ("<td>Class prior</td>" in page.read_text()) == is_said
        assert ("not for equally frequent ones" in page.read_text()) == is_said


def test_int8_and_novelty_keep_the_prior(run_dir: Path, unequal: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"class_prior": "uniform", "novelty": True}
    exported(run_dir, tmp_path / "fp32", **settings)
    int8 = exported(
        run_dir, tmp_path / "int8", quantize="int8", int8_gate="estimate",
        max_int8_nll_rise=0.5, max_int8_accuracy_drop=0.05, min_int8_agreement=0.9, **settings,
    )  # fmt: skip
    assert int8.quantization is not None and int8.novelty is not None
    images_NCHW, labels_N = images_of(unequal)
    exact, rounded = (
        answers(tmp_path / name, images_NCHW).mean(axis=0) for name in ("fp32", "int8")
    )
    assert (exact.argmax(axis=1) == rounded.argmax(axis=1)).mean() > 0.9
    assert macro_accuracy(rounded, labels_N) > macro_accuracy(exact, labels_N) - 0.05


def of_all(ranked: Iterable[int], badness: Callable[[Bag], tuple[float, ...]]) -> Bag:
    """Instead of the greedy soup: of all ingredients."""
    bag = tuple(ranked)
    badness(bag)
    return bag


@pytest.mark.parametrize("metric", ["nll", "macro"])
def test_a_soup_answers_as_it_was_judged(
    metric: str, run_dir: Path, unequal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapensemble.export.soup.greedy_soup", of_all)
    val, found = load_dataset(f"npz:{unequal}", val_fraction=0.1, split_seed=0).part("val"), {}
    for prior in ("training", "uniform"):
        bundle = exported(
            run_dir, tmp_path / prior, select="soup", class_prior=prior, metric=metric
        )
        (found[prior],) = answers(tmp_path / prior, val.images_NCHW)
        (member,) = bundle.members
        assert member.name == "soup-of-3"
        assert nll(found[prior], val.labels_N) == pytest.approx(member.val.nll, rel=1e-3)
    assert np.abs(found["uniform"] - found["training"]).max() > 0.3


def test_what_training_has_balanced_is_not_divided_twice(run_dir: Path, tmp_path: Path) -> None:
    run, offsets = read_run(run_dir), {}
    for balance in ("none", "sqrt", "inverse"):
        same = changed(run_dir, tmp_path / balance, **balanced(run, balance))
        candidate = pooled([same], "uniform").candidates[0]
        assert candidate.offsets_K is not None
        offsets[balance] = candidate.offsets_K
    assert offsets["none"][1] / offsets["none"][2] == pytest.approx(
        np.log(15 / 300) / np.log(150 / 300)
    )
    assert offsets["sqrt"][1] / offsets["sqrt"][2] == pytest.approx(
        np.log(15 / 300) / np.log(150 / 300)
    )
    assert 0.3 < offsets["sqrt"][1] / offsets["none"][1] < 0.7  # temperatures differ
    assert not offsets["inverse"].any()


def test_runs_of_different_balance_are_each_divided_by_their_own_shares_but_make_no_soup(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = changed(run_dir, tmp_path / "other", **balanced(read_run(run_dir), "inverse"))
    runs = [run_dir, other]
    monkeypatch.setattr("snapensemble.export.candidates._refuse_copies", lambda *_: None)
    offsets = {c.run_number: c.offsets_K for c in pooled(runs, "uniform").candidates}
    assert offsets[0] is not None and offsets[0].any()
    assert offsets[1] is not None and not offsets[1].any()
    assert len(exported(runs, tmp_path / "bundle", class_prior="uniform").members) == 6
    with pytest.raises(InvalidConfig, match="--class-balance inverse and none"):
        exported(runs, tmp_path / "soup", select="soup", class_prior="uniform")
    monkeypatch.setattr("snapensemble.export.soup.FEW", 1)
    monkeypatch.setattr("snapensemble.export.soup.greedy_soup", of_all)
    for prior, soups in (("training", 1), ("uniform", 0)):
        bundle = exported(runs, tmp_path / prior, select="auto", class_prior=prior)
        assert bundle.selection.candidates == 6 + soups


def test_a_run_that_has_not_counted_its_classes_is_refused(run_dir: Path, tmp_path: Path) -> None:
    data = read_run(run_dir).data.model_copy(update={"class_counts": ()})
    earlier = changed(run_dir, tmp_path / "earlier", data=data)
    with pytest.raises(InvalidConfig, match="does not say how many training images each class has"):
        exported(earlier, tmp_path / "bundle", class_prior="uniform")
    assert exported(earlier, tmp_path / "bundle").class_prior == "training"


def test_plain_accuracy_does_not_choose_for_equally_frequent_classes() -> None:
    with pytest.raises(InvalidConfig, match="--class-prior uniform answers as if"):
        build(ExportConfig, {"class_prior": "uniform", "metric": "accuracy"})


class Ends(nn.Module):
    """A mean over height and width, and a last layer of some kind, by whose name it is known."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end, self.conv = end, nn.Conv2d(3, 4, 3)
        last = nn.Conv2d(4, 3, 1) if end == "pixels" else nn.Linear(4, 3, bias=end != "unbiased")
        self.last = nn.ModuleDict({end: last})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means_BC11 = self.conv(images.to(torch.float32)).mean(dim=(2, 3), keepdim=True)
        last = self.last[self.end]
        if self.end == "pixels":
            return cast(torch.Tensor, last(means_BC11)).flatten(1)
        logits_BK = cast(torch.Tensor, last(means_BC11.flatten(1)))
        return logits_BK * 0.5 if self.end == "scaled" else logits_BK


@pytest.mark.parametrize("end", ["linear", "unbiased", "pixels", "scaled"])
def test_logits_are_lower_whatever_a_network_ends_in(end: str) -> None:
    torch.manual_seed(0)
    network, offsets_K = Ends(end).eval(), np.array([0.0, -3.0, -1.5])
    contract = ImageContract(channels=3, height=SIDE, width=SIDE, mean=(0.5,) * 3, std=(0.3,) * 3)
    onnx_file = Converter(contract).convert(network, {}, offsets_K=offsets_K)
    images_NCHW = np.random.default_rng(0).integers(0, 256, (9, 3, SIDE, SIDE), dtype=np.uint8)
    # This compares the means of the maps as well.
    parity(network, [onnx_file], images_NCHW, what=end, offsets_K=offsets_K)
    with pytest.raises(ParityFailed):
        parity(network, [onnx_file], images_NCHW, what=end)
    maps = {value.name for value in onnx.load_from_string(onnx_file).graph.output} - {"logits"}
    assert bool(maps) == (end in ("linear", "unbiased"))


shares = st.lists(st.integers(1, 1_000), min_size=2, max_size=8)


@given(st.data(), shares)
def test_subtracting_from_logits_is_dividing_probabilities(data: Any, counts_K: list[int]) -> None:
    logits_NK = data.draw(arrays(np.float64, (3, len(counts_K)), elements=st.floats(-8, 8)))
    log_shares_K = np.log(np.array(counts_K) / sum(counts_K))
    divided_NK = softmax(logits_NK) / np.exp(log_shares_K)
    expected_NK = divided_NK / divided_NK.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(logits_NK - log_shares_K), expected_NK, atol=1e-12)
    np.testing.assert_allclose(
        reweighted(softmax(logits_NK), -log_shares_K), expected_NK, atol=1e-9
    )


@given(st.integers(1, 500), st.integers(2, 6), st.integers(0, 100))
def test_equal_shares_change_nothing(count: int, classes: int, seed: int) -> None:
    logits_NK = np.random.default_rng(seed).normal(size=(12, classes))
    run = read_run_of([count] * classes)
    labels_N = np.arange(12) % classes
    found = UniformPrior.of(labels_N, run.data.class_counts).judged(logits_NK, run)
    assert found.offsets_K is not None and not found.offsets_K.any()
    assert np.array_equal(found.probs_NK, softmax(logits_NK))


def read_run_of(counts: list[int]) -> Any:
    """As much of a run as says which classes were how frequent."""

    class Run:
        class_prior = tuple(count / sum(counts) for count in counts)

        class data:  # noqa: N801
            class_counts = tuple(counts)

    return Run


def world(images: int, temperature: float, seed: int) -> tuple[Floats, np.ndarray, Floats]:
    """Answers for equally frequent classes, too sure by T; labels as frequent as shares_K."""
    rng, shares_K = np.random.default_rng(seed), np.array([0.7, 0.2, 0.07, 0.03])
    truth_NK = softmax(rng.normal(size=(40 * images, 4)) * 2)  # for equally frequent classes
    here_NK = reweighted(truth_NK, np.log(shares_K))
    labels_N = (here_NK.cumsum(axis=1) > rng.random((len(here_NK), 1))).argmax(axis=1)
    kept = np.arange(images)
    return tempered(truth_NK, 1 / temperature)[kept], labels_N[kept], shares_K


@pytest.mark.parametrize("truth", [0.7, 1.0, 2.0])
def test_a_temperature_is_found_with_the_shares_put_back(truth: float) -> None:
    probs_NK, labels_N, shares_K = world(20_000, truth, seed=0)
    assert fit_temperature(probs_NK, labels_N, np.log(shares_K)) == pytest.approx(truth, rel=0.05)
    assert fit_temperature(probs_NK, labels_N) > 1.2 * truth  # it would take shares for doubt


def test_validation_with_classes_of_equal_size_judges_answers_as_they_are_served() -> None:
    rng = np.random.default_rng(0)
    logits_NK = rng.normal(size=(3_000, 3))
    labels_N, run = np.arange(3_000) % 3, read_run_of([900, 90, 10])
    found = UniformPrior.of(labels_N, run.data.class_counts).judged(logits_NK, run)
    np.testing.assert_allclose(found.judged_NK, found.probs_NK, atol=0.01)
    assert np.abs(found.probs_NK - softmax(logits_NK)).max() > 0.2


def test_validation_as_frequent_as_training_judges_answers_as_they_were() -> None:
    rng, run = np.random.default_rng(0), read_run_of([900, 90, 10])
    labels_N = np.repeat(np.arange(3), (450, 45, 5))
    logits_NK = rng.normal(size=(500, 3))
    found = UniformPrior.of(labels_N, run.data.class_counts).judged(logits_NK, run)
    np.testing.assert_allclose(found.judged_NK, softmax(logits_NK), atol=1e-12)


def test_a_class_without_validation_images_keeps_a_share() -> None:
    prior = UniformPrior.of(np.zeros(50, int), (40, 10))
    assert np.isfinite(prior.log_shares_K).all()


def test_nothing_is_gained_over_the_same_answers_divided() -> None:
    probs_NK, labels_N, shares_K = world(800, 1.0, seed=1)
    log_shares_K = np.log(shares_K)
    here_NK = reweighted(probs_NK, log_shares_K)  # as the snapshots answer
    everyone = Answers(np.stack([here_NK]), labels_N)
    half = np.arange(400)
    temperature = fit_temperature(here_NK[half], labels_N[half])
    served_NK = reweighted(tempered(here_NK, temperature), -log_shares_K)[400:]
    (gain,) = gains_over_singles(
        everyone.only(half), everyone.only(half + 400), served_NK,
        Chosen((0, 1), (0.5, 0.5)), ["alone"], last=0, log_shares_K=log_shares_K,
    )  # fmt: skip
    assert gain.nll == pytest.approx((0, 0, 0), abs=1e-9)
    middle, low, high = gain.accuracy
    assert middle == 0 and low == -high  # no answer differs

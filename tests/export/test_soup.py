"""One network with the mean weights of several snapshots."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.metrics import nll
from snapensemble.contracts.options import build
from snapensemble.contracts.run import read_run, write_run
from snapensemble.export.bundle import build_bundle
from snapensemble.export.calibration import split_validation
from snapensemble.export.candidates import Pool, judged, pooled
from snapensemble.export.config import ExportConfig
from snapensemble.export.members import convert
from snapensemble.export.selection import Bag
from snapensemble.export.soup import (
    STATISTICS_IMAGES,
    Inputs,
    Kitchen,
    greedy_soup,
    mean_state,
    soup_candidate,
    statistics_images,
    with_soups,
)
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.validation import predict_logits
from tests.export.runs import staged_run

pytestmark = pytest.mark.usefixtures("staged")


def souped(runs: Path | list[Path], **settings: Any) -> tuple[Pool, Any, list[str]]:
    config = build(ExportConfig, {"select": "soup", **settings})
    said: list[str] = []
    pool = pooled([runs] if isinstance(runs, Path) else runs)
    return *with_soups(pool, split_validation(pool.labels_N), config, said.append), said


def exported(runs: Path | list[Path], out: Path, **settings: Any) -> BundleManifest:
    config = build(ExportConfig, {"report": False, "select": "soup", **settings})
    return build_bundle(runs, out, config)


def part_of(images: Path, name: str) -> Any:
    return load_dataset(f"npz:{images}", val_fraction=0.1, split_seed=0).part(name).images_NCHW


losses = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=6)


@given(losses, st.randoms(use_true_random=False))
def test_no_snapshot_that_makes_the_mean_worse_stays_in_it(alone: list[float], random: Any) -> None:
    known: dict[Bag, tuple[float, ...]] = {(s,): (loss,) for s, loss in enumerate(alone)}

    def badness(bag: Bag) -> tuple[float, ...]:
        return known.setdefault(bag, (float(random.randint(0, 5)),))

    ranked = sorted(range(len(alone)), key=lambda s: alone[s])
    bag = greedy_soup(ranked, badness)
    assert bag[0] == ranked[0] and len(set(bag)) == len(bag)
    assert known[bag] <= min(known[(s,)] for s in range(len(alone)))
    for size in range(1, len(bag)):
        assert known[bag[: size + 1]] <= known[bag[:size]]


def test_the_mean_of_equal_tensors_is_that_tensor_to_the_bit() -> None:
    torch.manual_seed(0)
    state = {"weight": torch.randn(50), "count": torch.tensor(7)}
    for count in (2, 3, 7):
        mean = mean_state([state] * count)
        assert all(torch.equal(mean[name], state[name]) for name in state)
    assert mean_state([{"w": torch.tensor([1.0])}, {"w": torch.tensor([4.0])}])["w"].item() == 2.5


@pytest.mark.parametrize("tune", ["all", "last"])
def test_a_soup_is_never_worse_than_its_best_ingredient_where_it_was_chosen(
    images: Path, tmp_path: Path, tune: str
) -> None:
    run_dir = staged_run(tmp_path / "run", images, tune=tune, cycles=4)
    pool, chosen, _ = souped(run_dir)
    (taken,) = chosen.indices
    chosen_by = split_validation(pool.labels_N).selection_N
    found = [nll(probs_NK[chosen_by], pool.labels_N[chosen_by]) for probs_NK in pool.probs_SNK]
    assert found[taken] <= min(found)
    assert chosen.weights == (1.0,) and "at the price of one network" in chosen.reason


def test_a_soup_is_exported_as_one_whole_network_that_answers_as_it_was_judged(
    star: Path, tmp_path: Path
) -> None:
    bundle = exported(star, tmp_path / "bundle")
    (member,) = bundle.members
    assert member.weights == "soup" and member.name.startswith("soup-of-")
    assert bundle.trunk is None and bundle.price is not None
    assert bundle.price.in_single_networks == 1
    pool, chosen, _ = souped(star)
    ensemble, _ = convert(pool, chosen, pool.calibration_images(), lambda _: None)
    with np.load(read_run(star).data.spec.removeprefix("npz:")) as arrays:
        val_NCHW = np.ascontiguousarray(arrays["x_val"].transpose(0, 3, 1, 2))
    np.testing.assert_allclose(ensemble.answers(val_NCHW), ensemble.probs_MNK, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_statistics_are_measured_anew_but_not_in_a_trunk_nor_where_they_were_frozen(
    star: Path, images: Path, tmp_path: Path, frozen: bool
) -> None:
    run = read_run(Path(shutil.copytree(star, tmp_path / "run")))
    training = run.training.model_copy(update={"frozen_statistics": frozen})
    write_run(tmp_path / "run", run.model_copy(update={"training": training}))
    pool, read = pooled([tmp_path / "run"]), list[str]()

    def part(name: str) -> Any:
        read.append(name)
        return part_of(images, name)

    bag = (0, 1, 2)
    soup, _ = Kitchen(pool, bag, part).soup(bag)
    mean = mean_state([pool.candidates[s].network().state_dict() for s in bag])
    statistics = [name for name in mean if "running" in name]
    changed = {name for name in statistics if not torch.equal(soup[name], mean[name])}
    members = {name for name in statistics if name.startswith("features.3.")}  # the last stage
    assert changed == (set() if frozen else members) and len(members) == 2
    assert all(torch.equal(soup[name], mean[name]) for name in mean if "weight" in name)
    assert read == (["val"] if frozen else ["train", "val"])


def test_statistics_are_of_images_of_every_class_in_whole_batches() -> None:
    images = np.repeat(np.arange(250, dtype=np.uint8), 10)[:, None, None, None]
    chosen = statistics_images(images)
    assert len(chosen) == STATISTICS_IMAGES // 128 * 128
    assert chosen[:128].min() < 25 and chosen[:128].max() > 225
    assert len(statistics_images(images[:60])) == 60


@pytest.mark.parametrize("most", [2**30, 1])
def test_features_are_the_same_whether_they_are_kept_or_computed_again(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapensemble.export.soup.MAX_KEPT_BYTES", most)

    class Trunk(nn.Module):
        runs = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.runs += 1
            return images.float() * 2

    trunk = Trunk()
    images = np.arange(300, dtype=np.uint8).reshape(300, 1, 1, 1)
    inputs = Inputs(trunk, images)
    for _ in range(2):
        assert torch.equal(torch.cat(list(inputs)), torch.from_numpy(images).float() * 2)
    assert trunk.runs == (3 if most > 1 else 6)


def test_auto_considers_a_soup_of_the_cycles_that_pay(star: Path, images: Path) -> None:
    pool, chosen, said = souped(star, select="auto")
    assert chosen is None and any("weights" in line for line in said)
    assert len(pool.candidates) >= len(pooled([star]).candidates)


def test_auto_makes_no_soup_where_several_members_are_asked_for(star: Path) -> None:
    pool, chosen, said = souped(star, select="auto", members=2)
    assert (len(pool.candidates), chosen, said) == (3, None, [])


def test_auto_makes_no_soup_of_cycles_that_are_too_short(images: Path, tmp_path: Path) -> None:
    run_dir = staged_run(tmp_path / "run", images, restart_from="previous")
    pool, chosen, said = souped(run_dir, select="auto")
    assert (len(pool.candidates), chosen, said) == (3, None, [])


def test_snapshots_of_several_runs_of_a_star_go_into_one_soup(
    star: Path, images: Path, tmp_path: Path
) -> None:
    other = staged_run(tmp_path / "other", images, seed=5, cycles=2)
    _, chosen, said = souped([star, other])
    assert chosen is not None and any("5 snapshots" in line for line in said)


def test_a_soup_of_several_runs_is_a_network_whichever_of_them_has_the_best_and_the_latest(
    star: Path, images: Path, tmp_path: Path
) -> None:
    longer = staged_run(tmp_path / "longer", images, seed=5, cycles=4, restart_from="previous")
    pool = pooled([star, longer])
    first, last = 0, len(pool.candidates) - 1
    assert [pool.candidates[s].run_dir for s in (first, last)] == [star, longer]
    kitchen = Kitchen(pool, [first, last], lambda part: part_of(images, part))
    for bag in ((first, last), (last, first)):
        state, logits_NK = kitchen.soup(bag)
        answers = judged(logits_NK, pool.first_run, None)
        soup = soup_candidate(pool, bag, state, answers)
        whole = pool.with_candidate(soup, answers)
        assert (len(whole.pays_S), whole.trusted) == (len(pool.candidates) + 1, "last")
        found_NK = predict_logits(soup.network(), torch.from_numpy(part_of(images, "val")))
        np.testing.assert_allclose(found_NK, logits_NK, atol=1e-5)


def test_runs_of_different_architectures_make_no_soup(
    star: Path, images: Path, tmp_path: Path
) -> None:
    other = staged_run(tmp_path / "other", images, tune="all", model="tiny")
    with pytest.raises(InvalidConfig, match="averages weights, and these are of staged and tiny"):
        souped([star, other])
    assert souped([star, other], select="auto")[1:] == (None, [])


@pytest.mark.parametrize(
    ("spec", "error"), [("npz:gone.npz", InvalidData), ("parquet:no.parquet", InvalidConfig)]
)
def test_images_that_are_not_at_hand_are_missed_with_what_to_do(
    spec: str, error: type[Exception], star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # not installed
    shutil.copytree(star, tmp_path / "run")
    run = read_run(star)
    data = run.data.model_copy(update={"spec": spec})
    write_run(tmp_path / "run", run.model_copy(update={"data": data}))
    with pytest.raises(error) as missed:
        exported(tmp_path / "run", tmp_path / "bundle")
    assert "a soup is measured on the run's images" in " ".join(missed.value.__notes__)
    pool, _, said = souped(tmp_path / "run", select="auto")
    assert len(pool.candidates) == 3 and said[-1].startswith("no greedy soup: ")


def test_a_damaged_snapshot_is_missed_before_images_are_read(star: Path, tmp_path: Path) -> None:
    shutil.copytree(star, tmp_path / "run")
    (tmp_path / "run" / read_run(star).snapshots[1].file).write_bytes(b"")
    said: list[str] = []
    with pytest.raises(Exception, match=r"cycle-01.safetensors"):
        build_bundle(
            tmp_path / "run", tmp_path / "bundle", ExportConfig(select="soup"), say=said.append
        )
    assert not any("reading" in line for line in said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": 2}, "--select soup makes one member"),
        ({"weights": "soup"}, "averages snapshots, not soups"),
    ],
)
def test_what_makes_no_sense_with_a_soup_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        build(ExportConfig, {"select": "soup", **settings})

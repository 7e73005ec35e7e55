from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.contracts.run import Balance
from snapensemble.trainer.data import readers
from snapensemble.trainer.data.balance import (
    about_classes,
    alike_names,
    class_counts,
    class_weights,
)
from snapensemble.trainer.data.dataset import Dataset, load_dataset
from snapensemble.trainer.data.readers import RawData, Split
from tests.trainer.folders import make_folder

counts = st.lists(st.integers(1, 2_000), min_size=2, max_size=40)


@given(counts_K=counts, balance=st.sampled_from(["none", "sqrt", "inverse"]))
def test_weights_have_a_mean_of_1_over_the_images(counts_K: list[int], balance: Balance) -> None:
    weights_K = class_weights(counts_K, balance)
    assert np.average(weights_K, weights=counts_K) == pytest.approx(1, rel=1e-5)
    totals_K = weights_K * counts_K
    power = {"none": 1.0, "sqrt": 0.5, "inverse": 0.0}[balance]
    expected_K = (np.array(counts_K) / counts_K[0]) ** power
    np.testing.assert_allclose(totals_K / totals_K[0], expected_K, rtol=1e-5)


def split(*counts_K: int) -> Split:
    labels_N = np.repeat(np.arange(len(counts_K)), counts_K)
    return Split(np.zeros((len(labels_N), 1, 1, 1), np.uint8), labels_N)


def lines(
    train: tuple[int, ...],
    val: tuple[int, ...] | None = None,
    test: tuple[int, ...] | None = None,
    balance: Balance = "none",
) -> list[str]:
    names = tuple(f"kind{index}" for index in range(len(train)))
    dataset = Dataset(
        names,
        split(*train),
        split(*(val or [1] * len(train))),
        None if test is None else split(*test),
        mirror_keeps_class=True,
        brings_test=True,
    )
    return list(about_classes(dataset, balance))


def test_counts_of_few_classes_are_all_shown_and_of_many_the_ends() -> None:
    assert lines((30, 1_200, 40), balance="sqrt") == [
        "training images per class: kind0 30, kind1 1,200, kind2 40"
    ]
    assert lines((*range(50, 70), 40, 100)) == [
        "training images per class: 40 (kind20) to 100 (kind21), 2.5 to 1, 22 classes"
    ]


@pytest.mark.parametrize(("most", "warned"), [(199, False), (200, True), (1_000, True)])
def test_from_ten_to_one_on_there_is_a_warning(most: int, warned: bool) -> None:
    found = [line for line in lines((20, most)) if "times as many" in line]
    assert bool(found) == warned
    assert all("'kind1' has" in line and "--class-prior uniform" in line for line in found)
    assert not any("times as many" in line for line in lines((20, most), balance="inverse"))


@pytest.mark.parametrize(("least", "warned"), [(10, False), (9, True), (1, True)])
def test_classes_of_fewer_than_ten_images_are_named(least: int, warned: bool) -> None:
    found = [line for line in lines((least, 40, least), balance="sqrt") if "fewer than" in line]
    assert bool(found) == warned
    assert all(f"in 2 of 3 classes (kind0 {least}, kind2 {least});" in line for line in found)
    (many,) = (line for line in lines((9,) * 20) if "fewer than" in line)
    assert "(kind0 9, kind1 9, kind10 9, kind11 9, kind12 9 and 15 more)" in many


def test_names_that_may_mean_one_class_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"Daisy": 3, "daisy": 3, "red rose": 3, "Red_rose ": 3, "tulip": 3})
    dataset = load_dataset(str(tmp_path), val_fraction=0.1, split_seed=0)
    assert (
        "warning: 'Daisy' and 'daisy', 'Red_rose ' and 'red rose' differ in case, spaces or dashes "
        "only; if they are one class, give them one name"
    ) in about_classes(dataset, "none")
    assert not alike_names(["C", "C++", "a b", "ab", "1", "-1", "1 1"])


def test_parts_that_lack_classes_are_named() -> None:
    found = lines((20, 20, 20), val=(3, 0, 0), test=(0, 1, 1))[1:]
    assert [line.partition(";")[0] for line in found] == [
        "warning: the validation part has no image of 2 of 3 classes (kind1, kind2), and its "
        "figures say nothing of them",
        "warning: the test part has no image of 1 of 3 classes (kind0), and its figures say "
        "nothing of them",
    ]


@given(
    counts_K=st.lists(st.integers(3, 60), min_size=2, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1_000),
)
@settings(deadline=None, max_examples=60)
def test_parts_that_are_drawn_hold_each_class(
    counts_K: list[int], fraction: float, seed: int
) -> None:
    names = tuple(f"kind{index}" for index in range(len(counts_K)))
    raw = RawData(names, mirror_keeps_class=False, everything=split(*counts_K))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "digits", lambda: raw)
        found = load_dataset("digits", val_fraction=fraction, split_seed=seed)
    for part in (found.train, found.val, found.part("test")):
        assert min(class_counts(part.labels_N, len(counts_K))) >= 1
    assert not [line for line in about_classes(found, "sqrt") if "part has no image" in line]


def test_a_folder_is_described_before_training(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "data.npz",
        x_train=np.random.default_rng(0).integers(0, 256, (33, 8, 8), np.uint8),
        y_train=np.repeat([0, 1], [30, 3]),
        classes=["common", "rare"],
    )
    dataset = load_dataset(f"npz:{tmp_path / 'data.npz'}", val_fraction=0.1, split_seed=0)
    assert list(about_classes(dataset, "none")) == [
        "training images per class: common 27, rare 2",
        "warning: 'common' has 14 times as many training images as 'rare'; if all classes count "
        "the same, export with --class-prior uniform, or train with --class-balance sqrt or "
        "inverse",
        "warning: fewer than 10 training images in 1 of 2 classes (rare 2); the network learns "
        "little of them, and their figures say little",
    ]

"""The rule `auto`: the cheapest contender that is not worse than the best."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.bundle import Gain
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import Answers, Floats, nll, softmax, tempered
from snapensemble.contracts.run import Weights
from snapensemble.export.calibration import gains_over_singles
from snapensemble.export.cli import describe_gains
from snapensemble.export.confidence import paired_interval
from snapensemble.export.selection import (
    FEW,
    Chosen,
    Contender,
    cheapest_not_worse,
    comparable,
    contending_bags,
    cross_fitted,
    select,
)
from snapensemble.export.temperature import fit_temperature

K = 5
CYCLES = 3
# What a run of three cycles leaves, in the order of a pool.
OF_A_CYCLE: list[Weights] = ["last", "ema", "tail"]
KINDS: list[Weights] = [*(OF_A_CYCLE * CYCLES), "soup", "soup"]
EMAS, LAST = [1, 4, 7], 6
seeds = st.integers(0, 10_000)


def networks(
    qualities: list[float], images: int, seed: int = 0, sharpness: float = 1.0
) -> tuple[Floats, np.ndarray]:
    """probs_SNK of networks that err on their own, and labels_N."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, K, images)
    logits_SNK = np.stack(
        [q * np.eye(K)[labels_N] + rng.normal(size=(images, K)) for q in qualities]
    )
    return softmax(sharpness * logits_SNK), labels_N


def run_of(images: int, seed: int = 0) -> tuple[Floats, np.ndarray]:
    """A run whose cycles are of like quality."""
    return networks([2.0] * len(KINDS), images, seed)


def pays(first: int) -> list[bool]:
    """Whether snapshots are of a cycle that pays, if all from `first` on do."""
    cycles = [cycle for cycle in range(CYCLES) for _ in range(3)] + [CYCLES - 1] * 2
    return [cycle >= first for cycle in cycles]


def test_contenders_are_the_latest_of_a_kind_and_other_averages_alone() -> None:
    bags = contending_bags(KINDS)
    assert bags[:3] == [(7,), (7, 4), (7, 4, 1)]
    assert set(bags[3:-2]) == {(6,), (6, 3), (6, 3, 0), (8,), (9,), (10,)}
    assert bags[-2:] == [(4,), (1,)]


@pytest.mark.parametrize(("first", "members"), [(0, {7, 4, 1}), (1, {7, 4}), (2, {7})])
def test_few_images_choose_nothing_and_the_cycles_that_pay_are_averaged(
    first: int, members: set[int]
) -> None:
    probs_SNK, labels_N = run_of(FEW - 1)
    chosen = select(probs_SNK, labels_N, KINDS, pays(first))
    assert set(chosen.indices) == members
    assert chosen.reason is not None and f"{FEW - 1} selection images are too few" in chosen.reason


@pytest.mark.parametrize(("trusted", "kept"), [("ema", "ema"), ("last", "last")])
def test_where_nothing_speaks_for_one_the_trusted_weights_are_taken(
    trusted: Weights, kept: Weights
) -> None:
    for images in (FEW - 1, 4 * FEW):
        probs_SNK, labels_N = networks([1.0], images)
        same_SNK = np.repeat(probs_SNK, 2, axis=0)
        kinds: list[Weights] = ["last", "ema"]
        chosen = select(same_SNK, labels_N, kinds, trusted=trusted)
        assert [kinds[index] for index in chosen.indices] == [kept]


def test_few_images_and_no_averages_of_weights_leave_the_last_snapshot() -> None:
    probs_SNK, labels_N = networks([1.0, 1.5, 2.0], FEW - 1)
    assert select(probs_SNK, labels_N).indices == (2,)


def test_a_number_of_members_is_obeyed_however_few_images_there_are() -> None:
    for images in (40, 400):
        probs_SNK, labels_N = run_of(images)
        for members in (1, 2, 3):
            for first in range(CYCLES):
                chosen = select(probs_SNK, labels_N, KINDS, pays(first), members=members)
                assert len(chosen.indices) == members and chosen.reason is not None
                assert ("so many members are asked for" in chosen.reason) == (images < FEW)
                assert "long enough" not in chosen.reason and "cheaper ones" not in chosen.reason
    with pytest.raises(InvalidConfig, match="--members 4: the run has 3 snapshots"):
        select(probs_SNK, labels_N, KINDS, members=4)


@given(seeds, st.integers(FEW, 400))
def test_nothing_cheaper_passes_the_test_and_what_is_taken_passes_it(
    seed: int, images: int
) -> None:
    probs_SNK, labels_N = networks([1.5, 2.0, 1.7, 2.2], images, seed)
    kinds: list[Weights] = ["last"] * 4
    contenders = [cross_fitted(probs_SNK, labels_N, bag, "nll") for bag in contending_bags(kinds)]
    taken = cheapest_not_worse(contenders)
    best = min(contenders, key=lambda each: each.loss)
    assert taken is best or not taken.is_worse_than(best)
    for cheaper in contenders:
        if len(cheaper.bag) < len(taken.bag):
            assert cheaper.is_worse_than(best)
    assert set(select(probs_SNK, labels_N, kinds).indices) == set(taken.bag)


def test_members_that_err_on_their_own_are_averaged_where_enough_images_show_it() -> None:
    chosen = select(*run_of(4_000), KINDS, pays(0))
    assert len(chosen.indices) == CYCLES
    assert chosen.reason is not None and "contenders on 4,000 selection images" in chosen.reason


def test_an_earlier_cycle_is_taken_alone_where_later_ones_have_only_become_surer() -> None:
    qualities = [0.3] * len(KINDS)
    qualities[EMAS[0]] = 3.0
    chosen = select(*networks(qualities, 1_000), KINDS, pays(1))
    assert chosen.indices == (EMAS[0],)
    assert chosen.reason is not None and chosen.reason.startswith("another cycle's moving average")


def test_the_first_that_passes_is_taken_and_not_the_luckiest_of_its_price() -> None:
    rng = np.random.default_rng(0)
    losses_N = rng.gamma(1.0, size=500)
    lucky = Contender((1,), losses_N)
    trusted = Contender((0,), losses_N + rng.normal(0.001, 0.1, 500))
    dear = Contender((2, 3), losses_N - 0.5)
    assert cheapest_not_worse([trusted, lucky]) is trusted
    assert cheapest_not_worse([trusted, lucky, dear]) is dear


def test_copies_of_one_network_cost_one_member() -> None:
    probs_SNK, labels_N = networks([2.0], 1_000)
    assert len(select(np.repeat(probs_SNK, 3, axis=0), labels_N).indices) == 1


def test_an_equal_is_called_worse_no_more_often_than_the_test_says() -> None:
    wrong = 0
    for seed in range(200):
        probs_SNK, labels_N = networks([2.0, 2.0], 300, seed)
        first, second = (cross_fitted(probs_SNK, labels_N, (s,), "nll") for s in range(2))
        wrong += first.is_worse_than(second)
    assert wrong / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_a_network_that_is_only_too_sure_does_not_lose_for_it() -> None:
    """The better network has the higher NLL before its temperature, and the lower one after it."""
    sure_SNK, labels_N = networks([2.2], 2_000, sharpness=9.0)
    modest_SNK, _ = networks([1.8], 2_000)
    probs_SNK = np.concatenate([sure_SNK, modest_SNK])
    assert nll(probs_SNK[0], labels_N) > nll(probs_SNK[1], labels_N)
    assert select(probs_SNK, labels_N, ["soup", "last"], members=1).indices == (0,)


def test_no_image_is_measured_with_a_temperature_that_it_helped_to_fit() -> None:
    probs_SNK, labels_N = networks([2.0], 100)
    changed_N = labels_N.copy()
    changed_N[17] = (labels_N[17] + 1) % K
    before = cross_fitted(probs_SNK, labels_N, (0,), "nll").losses_N
    after = cross_fitted(probs_SNK, changed_N, (0,), "nll").losses_N
    same = before == after
    assert not same[17]
    # Its own fold was measured with a temperature from the others: nothing else changes in it.
    assert same.sum() == 19 and (~same).sum() == 81


def test_accuracy_compares_wrong_answers() -> None:
    probs_SNK, labels_N = networks([2.0], 50)
    wrong_N = cross_fitted(probs_SNK, labels_N, (0,), "accuracy").losses_N
    assert wrong_N.mean() == pytest.approx(np.mean(probs_SNK[0].argmax(axis=1) != labels_N))


def of_a_rare_class(images: int, rare: int) -> tuple[Floats, np.ndarray]:
    """Two networks: the first is better at a class of `rare` images, the second at the other."""
    labels_N = np.array([1] * rare + [0] * (images - rare))
    answers_SN = np.stack([labels_N, np.zeros_like(labels_N)])
    answers_SN[0, rare : rare + 2 * rare] = 1
    return 0.2 + 0.6 * np.eye(2)[answers_SN], labels_N


def test_macro_takes_what_is_right_about_a_rare_class_and_accuracy_what_is_right_more_often() -> (
    None
):
    probs_SNK, labels_N = of_a_rare_class(2_000, rare=80)
    kinds: list[Weights] = ["soup", "soup"]
    assert select(probs_SNK, labels_N, kinds, metric="accuracy").indices == (1,)
    assert select(probs_SNK, labels_N, kinds, metric="macro").indices == (0,)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_images_of_unequal_classes_tell_macro_as_much_as_fewer_do(sizes: list[int]) -> None:
    labels_N = np.repeat(np.arange(len(sizes)), sizes)
    assert comparable(labels_N, "nll") == comparable(labels_N, "accuracy") == len(labels_N)
    # Without a difference within classes: K^2 / sum over classes of 1 / images.
    expected = len(sizes) ** 2 / sum(1 / size for size in sizes)
    assert comparable(labels_N, "macro") == pytest.approx(expected, abs=1)
    assert comparable(labels_N, "macro") <= len(labels_N)


def test_hundreds_of_images_with_three_of_a_class_compare_no_macro_accuracy() -> None:
    probs_SNK, labels_N = of_a_rare_class(1_000, rare=3)
    chosen = select(probs_SNK, labels_N, ["last", "last"], metric="macro")
    assert chosen.reason is not None
    assert "1,000 selection images, worth 12 where each class counts the same" in chosen.reason
    assert "are too few to compare" in chosen.reason
    chosen = select(probs_SNK, labels_N, ["last", "last"], metric="accuracy")
    assert chosen.reason is not None and "too few" not in chosen.reason


def test_the_other_rules_choose_from_one_kind_of_weights() -> None:
    probs_SNK, labels_N = run_of(60)
    assert set(select(probs_SNK, labels_N, KINDS, rule="all").indices) == {0, 3, 6}
    chosen = select(probs_SNK, labels_N, KINDS, rule="last", members=2, weights="ema")
    assert set(chosen.indices) == {4, 7} and chosen.reason is None


def gains(chosen: Chosen, images: int = 2_000, seed: int = 0) -> dict[str, tuple[float, ...]]:
    probs_SNK, labels_N = run_of(2 * images, seed)
    everyone = Answers(probs_SNK, labels_N)
    selection, held_out = (everyone.only(np.arange(start, start + images)) for start in (0, images))
    mean_NK = selection.probs_MNK[list(chosen.indices)].mean(axis=0)
    served_NK = tempered(
        held_out.probs_MNK[list(chosen.indices)].mean(axis=0),
        fit_temperature(mean_NK, selection.labels_N),
    )
    names = [f"s{s}" for s in range(len(KINDS))]
    found = gains_over_singles(selection, held_out, served_NK, chosen, names, LAST)
    return {gain.over: (*gain.nll, *gain.accuracy) for gain in found}


def test_an_ensembles_gain_is_shown_over_the_last_snapshot_and_over_the_best_network() -> None:
    found = gains(Chosen((7, 4, 1), (1 / 3,) * 3))
    assert found.keys() == {"last", "best_single"}
    for nll_gain, low, high, right, *_ in found.values():
        assert 0 < low < nll_gain < high and right > 0


def test_nothing_is_gained_over_what_is_served_alone() -> None:
    assert "last" not in gains(Chosen((LAST,), (1.0,)))


def test_intervals_of_a_gain_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, low, high = paired_interval(rng.normal(0.1, 1.0, 60))
        held += low <= 0.1 <= high
    assert held / 200 >= 0.95 - 3 * (0.05 * 0.95 / 200) ** 0.5


@pytest.mark.parametrize(("images", "rare"), [(45, 0.02), (300, 0.005), (300, 0.05)])
def test_an_accuracy_that_few_images_gain_is_in_its_interval_as_often_as_it_says(
    images: int, rare: float
) -> None:
    """Also where no answer differs, of which Student's interval would be a point."""
    rng = np.random.default_rng(0)
    kinds = rng.choice([1.0, -1.0, 0.0], size=(1_000, images), p=[rare, rare / 4, 1 - 1.25 * rare])
    found = [paired_interval(gains_N, largest=1.0) for gains_N in kinds]
    held = [low <= 0.75 * rare <= high for _, low, high in found]
    assert np.mean(held) >= 0.95 - 2 * (0.05 * 0.95 / 1_000) ** 0.5


UNTOLD = 0.001, -0.002, 0.004


def gain(low: float, high: float, accuracy: tuple[float, float, float] = UNTOLD) -> Gain:
    return Gain(
        over="last",
        member="cycle-02",
        images=500,
        nll=((low + high) / 2, low, high),
        accuracy=accuracy,
    )


@pytest.mark.parametrize(
    ("low", "high", "accuracy", "verdict"),
    [
        (0.01, 0.03, UNTOLD, "gained over the last snapshot (cycle-02): NLL -0.0200 (-0.0300 to "),
        (-0.01, 0.03, UNTOLD, "nothing that chance could not give is gained over the last snapsh"),
        (-0.03, -0.01, UNTOLD, "lost against the last snapshot (cycle-02): NLL +0.0200"),
        (0.01, 0.03, (-0.02, -0.03, -0.01), "in one figure gained over, in the other lost against"),
    ],
)
def test_the_export_says_in_a_sentence_what_was_gained(
    low: float, high: float, accuracy: tuple[float, float, float], verdict: str
) -> None:
    (sentence,) = describe_gains([gain(low, high, accuracy)], 500)
    assert sentence.startswith(verdict)
    assert sentence.endswith("95% intervals on the 500 images that chose nothing")


def test_a_last_snapshot_that_is_served_alone_gains_nothing_and_says_so() -> None:
    alone = "nothing is gained over the last snapshot: it is served alone"
    assert describe_gains([], 2) == [alone]


def test_a_gain_that_one_image_cannot_tell_is_not_called_none() -> None:
    assert describe_gains([], 1) == [
        "one image that chose nothing cannot say what is gained over the last snapshot"
    ]

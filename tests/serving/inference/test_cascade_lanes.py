"""Cascades in the lanes. Image `v` leaves after 1 + v % 3 members unless a test says otherwise.

Shapes: M members, d members asked, B images, K classes.
"""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from snapensemble.contracts.cascade import Cascade, Mode, run_cascade
from snapensemble.contracts.metrics import mean_probabilities, softmax
from snapensemble.serving.errors import InferenceFailed
from snapensemble.serving.inference.batch import BatchReport, Clock, Load, MemberCall
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import Answer
from snapensemble.serving.inference.scheduler import Scheduler
from tests.fakes import GatedMember, next_task, submit
from tests.serving.inference.test_scheduler import expected, image
from tests.waiting import wait_for

M = 3


def leaves(probs_dBK: NDArray[np.float64]) -> NDArray[np.bool_]:
    values_B = np.rint(np.log(probs_dBK[-1, :, 0] / probs_dBK[-1, :, 1]) * 25).astype(int)
    return np.asarray(1 + values_B % 3 <= len(probs_dBK))


@contextmanager
def cascade(*members: GatedMember, **options: Any) -> Iterator[Scheduler]:
    values: dict[str, Any] = {
        "lanes": Lanes(2),
        "max_batch_size": 4,
        "split_above_s": math.inf,
        **options,
    }
    with Scheduler(members, **{"leaves": leaves, **values, **options}) as running:
        try:
            yield running
        finally:  # a failed assertion must not leave a lane at a closed gate
            for member in members:
                member.gate.set()


def members(*, closed: int | None = None) -> list[GatedMember]:
    """Three members, one of them behind a closed gate."""
    return [GatedMember(is_open=index != closed) for index in range(M)]


def unanswered(lanes: Scheduler) -> int:
    return sum(stage.load.unanswered for stage in lanes._entries.values())


def linear(seed: int) -> MemberCall:
    weights = np.random.default_rng(seed).normal(size=(12, 4)) / 200

    def logits_BK(images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        return (images_BCHW.reshape(len(images_BCHW), -1) @ weights).astype(np.float32)

    return logits_BK


@given(
    requests=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    threads=st.integers(1, 3),
    max_batch_size=st.integers(1, 8),
    thresholds=st.tuples(*[st.none() | st.floats(0.05, 0.95)] * (M - 1)),
    rule=st.sampled_from(["threshold", "interval"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_answers_and_depths_are_those_of_the_reference_whatever_the_batches(
    requests: list[int], threads: int, max_batch_size: int, thresholds: Any, rule: Any, seed: int
) -> None:
    if rule == "interval":
        thresholds = (None, *thresholds[1:])  # one member has no spread
    chosen = Cascade(
        rule=rule, thresholds=thresholds, temperatures=(1.3, 0.7), weights_M=(0.5, 0.3, 0.2)
    )
    fakes = [linear(seed) for seed in range(M)]
    shape = (sum(requests), 3, 2, 2)
    images_BCHW = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    with Scheduler(
        fakes, lanes=Lanes(threads), max_batch_size=max_batch_size, leaves=chosen.leaves
    ) as lanes:
        futures: list[Answer] = []
        for count in requests:
            start = len(futures)
            futures += submit(lanes, list(images_BCHW[start : start + count]), "cascade")
        probs_BdK = [future.result(30) for future in futures]
    probs_MBK = softmax(np.stack([fake(images_BCHW) for fake in fakes]))
    answers_BK, used_B = run_cascade(probs_MBK, chosen, temperature=2.0)
    for row, probs_dK in enumerate(probs_BdK):
        depth = len(probs_dK)
        assert depth == used_B[row]
        np.testing.assert_allclose(probs_dK, probs_MBK[:depth, row], atol=1e-6)
        weights_d = np.array(chosen.weights_M[:depth]) / sum(chosen.weights_M[:depth])
        temperature = (1.3, 0.7, 2.0)[depth - 1]
        answer_K = mean_probabilities(probs_dK, list(weights_d), temperature)
        np.testing.assert_allclose(answer_K, answers_BK[row], atol=1e-6)


@given(
    images=st.lists(
        st.tuples(st.integers(0, 255), st.sampled_from(["full", "cascade"]), st.booleans()),
        max_size=30,
    ),
    threads=st.integers(1, 3),
)
@settings(max_examples=40)
def test_in_mixed_modes_every_image_gets_its_own_answer_or_has_left(
    images: list[tuple[int, Mode, bool]], threads: int
) -> None:
    fakes = members(closed=0)
    with cascade(*fakes, lanes=Lanes(threads)) as lanes:
        futures = [submit(lanes, [image(value)], mode)[0] for value, mode, _ in images]
        for future, (_, _, leaves_early) in zip(futures, images, strict=True):
            if leaves_early:
                future.cancel()
        fakes[0].gate.set()
    for future, (value, mode, leaves_early) in zip(futures, images, strict=True):
        assert future.cancelled() == leaves_early
        if not leaves_early:
            depth = M if mode == "full" else 1 + value % 3
            np.testing.assert_allclose(future.result(0), expected(value, depth))
    assert unanswered(lanes) == lanes.queued == 0


def test_a_safe_answer_does_not_wait_for_its_batch_mates() -> None:
    fakes = members(closed=1)
    with cascade(*fakes, lanes=Lanes(1)) as lanes:
        easy, hard = submit(lanes, [image(0), image(2)], "cascade")
        np.testing.assert_allclose(easy.result(30), expected(0))
        assert fakes[1].entered.acquire(timeout=30) and not hard.done()
        fakes[1].gate.set()
        np.testing.assert_allclose(hard.result(30), expected(2, 3))
    assert [fake.batches for fake in fakes] == [[2], [1], [1]]


def test_images_that_go_on_from_two_batches_run_together() -> None:
    fakes = members()
    lanes = Scheduler(
        fakes, lanes=Lanes(1), max_batch_size=4, split_above_s=math.inf, leaves=leaves
    )  # not started
    tasks = []
    for value in (2, 5):
        submit(lanes, [image(value)], "cascade")
        tasks.append(next_task(lanes))
    for task in tasks:
        task(Clock())
    next_task(lanes)(Clock())
    assert fakes[0].batches == [1, 1] and fakes[1].batches == [2]


@pytest.mark.parametrize("later", ["full", "cascade"])
def test_an_image_that_goes_on_does_not_wait_for_those_that_came_later(later: Mode) -> None:
    fakes = members(closed=0)
    order: list[str] = []

    def note(name: str, _: object) -> None:
        order.append(name)

    with cascade(*fakes, lanes=Lanes(1), max_batch_size=1) as lanes:
        (hard,) = submit(lanes, [image(2)], "cascade")
        assert fakes[0].entered.acquire(timeout=30)
        others = submit(lanes, [image(0), image(3)], later)
        for name, future in (("hard", hard), *(("later", other) for other in others)):
            future.add_done_callback(partial(note, name))
        fakes[0].gate.set()
    assert order == ["hard", "later", "later"]


def test_full_images_that_came_first_do_not_wait_for_a_cascade() -> None:
    fakes = members(closed=0)
    order: list[str] = []
    with cascade(*fakes, lanes=Lanes(1)) as lanes:
        submit(lanes, [image(0)], "cascade")
        assert fakes[0].entered.acquire(timeout=30)
        (full,) = submit(lanes, [image(1)], "full")
        (quick,) = submit(lanes, [image(0)], "cascade")
        full.add_done_callback(lambda _: order.append("full"))
        quick.add_done_callback(lambda _: order.append("quick"))
        fakes[0].gate.set()
    assert order == ["full", "quick"]


def test_an_image_whose_client_leaves_between_stages_does_not_go_on() -> None:
    fakes = members(closed=0)
    with cascade(*fakes, lanes=Lanes(1)) as lanes:
        leaving, staying = submit(lanes, [image(2), image(5)], "cascade")
        assert fakes[0].entered.acquire(timeout=30)
        assert leaving.cancel()
        fakes[0].gate.set()
        np.testing.assert_allclose(staying.result(30), expected(5, 3))
    assert [fake.batches for fake in fakes] == [[2], [1], [1]]
    assert leaving.cancelled() and unanswered(lanes) == 0


def test_a_stage_of_which_everyone_left_is_skipped() -> None:
    fakes = members(closed=0)
    with cascade(*fakes, lanes=Lanes(1)) as lanes:
        futures = submit(lanes, [image(2), image(5)], "cascade")
        assert fakes[0].entered.acquire(timeout=30)
        assert all(future.cancel() for future in futures)
        fakes[0].gate.set()
        np.testing.assert_allclose(submit(lanes, [image(0)], "cascade")[0].result(30), expected(0))
    assert fakes[1].batches == [] and unanswered(lanes) == 0


def test_a_failure_of_the_second_member_fails_the_images_that_it_was_asked_about() -> None:
    fakes = members(closed=1)
    fakes[1].failure = RuntimeError("no memory")
    with cascade(*fakes, lanes=Lanes(1)) as lanes:
        easy, hard, harder = submit(lanes, [image(0), image(1), image(2)], "cascade")
        assert fakes[1].entered.acquire(timeout=30)
        other, full = *submit(lanes, [image(3)], "cascade"), *submit(lanes, [image(4)], "full")
        fakes[1].gate.set()
        for future in (hard, harder, full):
            with pytest.raises(InferenceFailed) as caught:
                future.result(30)
            assert "no memory" in str(caught.value.__cause__)
        np.testing.assert_allclose(easy.result(30), expected(0))
        np.testing.assert_allclose(other.result(30), expected(3))
        fakes[1].failure = None
        (after,) = submit(lanes, [image(5)], "cascade")
        np.testing.assert_allclose(after.result(30), expected(5, 3))
    assert unanswered(lanes) == 0


def test_a_batch_that_failed_at_one_stage_does_not_fail_another_there() -> None:
    fakes = members(closed=1)
    with cascade(*fakes, lanes=Lanes(1), max_batch_size=1) as lanes:
        first, second = submit(lanes, [image(1), image(4)], "cascade")
        assert fakes[1].entered.acquire(timeout=30)
        fakes[1].failure = RuntimeError("no memory")
        first.add_done_callback(lambda _: setattr(fakes[1], "failure", None))
        fakes[1].gate.set()
        with pytest.raises(InferenceFailed):
            first.result(30)
        np.testing.assert_allclose(second.result(30), expected(4, 2))


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_member_that_gives_no_number_fails_that_image_only(broken: int) -> None:
    good = GatedMember()

    def no_number_for_five(images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits_BK = good(images_BCHW)
        logits_BK[images_BCHW[:, 0, 0, 0] == 5] = np.nan
        return logits_BK

    fakes = [no_number_for_five if index == broken else good for index in range(M)]
    with Scheduler(
        fakes, lanes=Lanes(1), max_batch_size=4, split_above_s=math.inf, leaves=leaves
    ) as lanes:
        bad, mate = submit(lanes, [image(5), image(8)], "cascade")
        with pytest.raises(InferenceFailed, match="gave no number"):
            bad.result(30)
        np.testing.assert_allclose(mate.result(30), expected(8, 3))


def test_a_rule_that_fails_is_an_answer_too() -> None:
    with cascade(*members(), leaves=lambda probs_dBK: np.ones(9, dtype=bool)) as lanes:
        with pytest.raises(InferenceFailed):
            submit(lanes, [image(2)], "cascade")[0].result(30)
        np.testing.assert_allclose(submit(lanes, [image(2)])[0].result(30), expected(2, 3))


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closing_answers_images_that_are_between_stages(closed: int) -> None:
    fakes = members(closed=closed)
    lanes = Scheduler(
        fakes, lanes=Lanes(2), max_batch_size=2, split_above_s=math.inf, leaves=leaves
    )
    lanes.__enter__()
    futures = submit(lanes, [image(value) for value in range(12)], "cascade")
    assert fakes[closed].entered.acquire(timeout=30)
    closing = threading.Thread(target=lanes.__exit__, args=(None, None, None))
    closing.start()
    wait_for(lambda: lanes.closed)
    fakes[closed].gate.set()
    closing.join(30)
    for value, future in enumerate(futures):
        np.testing.assert_allclose(future.result(0), expected(value, 1 + value % 3))


def test_images_between_stages_count_as_unanswered_but_not_as_queued() -> None:
    fakes = members(closed=2)
    with cascade(*fakes, lanes=Lanes(1), max_batch_size=2) as lanes:
        wait(submit(lanes, [image(0), image(1)], "cascade"), 30)  # measures the rate
        hard = submit(lanes, [image(2), image(5)], "cascade")
        assert fakes[2].entered.acquire(timeout=30)
        assert lanes.queued == 0 and unanswered(lanes) == 2
        before = lanes.predicted_wait_s
        assert before > 0
        waiting = submit(lanes, [image(0), image(3)], "cascade")
        assert lanes.queued == 2 and lanes.predicted_wait_s == pytest.approx(2 * before)
        fakes[2].gate.set()
        wait([*hard, *waiting], 30)
        assert lanes.queued == lanes.predicted_wait_s == 0


def test_the_wait_is_predicted_from_what_each_mode_costs() -> None:
    lanes = Scheduler(
        members(), lanes=Lanes(1), max_batch_size=4, split_above_s=math.inf, leaves=leaves
    )
    full, first, second, _ = lanes._stages
    full.load.measured(5.0, 1)
    first.load.measured(1.0, 1)
    assert second.load is first.load
    submit(lanes, [image(0)] * 2, "full")
    submit(lanes, [image(0)] * 3, "cascade")
    assert lanes.predicted_wait_s == pytest.approx(2 * 5.0 + 3 * 1.0)


@pytest.mark.parametrize("depth", [1, 2, 20])
def test_later_stages_count_as_work_for_images_that_began_before(depth: int) -> None:
    load = Load(unanswered=3)
    assert load.wait_s == 0
    for _ in range(50):  # an image that takes a second at each of its stages
        load.measured(1.0, 1)
        for _ in range(depth - 1):
            load.measured(1.0, 0)
    assert load.wait_s == pytest.approx(3 * depth)


def test_reports_say_how_many_members_each_image_took() -> None:
    reports: list[BatchReport] = []
    with cascade(*members(), lanes=Lanes(1), on_batch=[reports.append]) as lanes:
        wait(submit(lanes, [image(value) for value in (0, 1, 2, 3)], "cascade"), 30)
    told = [(r.images, r.answered, r.members_used, len(r.waits_s)) for r in reports]
    assert told == [(4, 2, 1, 4), (2, 1, 2, 0), (1, 1, 3, 0)]
    assert all(len(report.members_s) == 1 for report in reports)

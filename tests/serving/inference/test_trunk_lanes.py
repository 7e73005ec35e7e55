"""Members that share a trunk, in the lanes.

The trunk doubles each pixel, so image `v` is answered as `2 * v` is without one, and leaves a
cascade after 1 + 2 * v % 3 of the three members.
"""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from snapensemble.contracts.cascade import Mode
from snapensemble.serving.errors import DeadlineExceeded, InferenceFailed, Overloaded
from snapensemble.serving.inference.admission import MemoryBudget
from snapensemble.serving.inference.batch import TRUNK, BatchReport, Clock
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import PendingImage
from snapensemble.serving.inference.scheduler import Scheduler
from tests.fakes import GatedMember, GatedTrunk, next_task, submit
from tests.serving.inference.test_cascade_lanes import M, cascade, leaves, members, unanswered
from tests.serving.inference.test_scheduler import expected, image
from tests.waiting import wait_for

MODES: list[Mode] = ["full", "cascade"]
FEATURES_BYTES = 4 * 4  # of an image: four numbers of four bytes


@contextmanager
def on_trunk(trunk: GatedTrunk, *fakes: GatedMember, **options: Any) -> Iterator[Scheduler]:
    """Lanes whose members share a trunk."""
    with cascade(*fakes, trunk=trunk, **options) as lanes:
        try:
            yield lanes
        finally:  # a failed assertion must not leave a lane at a closed gate
            trunk.gate.set()
            for fake in fakes:
                fake.gate.set()


def answer_of(value: int, mode: Mode) -> NDArray[np.float64]:
    return expected(2 * value, M if mode == "full" else 1 + 2 * value % 3)


def do_next(lanes: Scheduler) -> None:
    """What a lane of a scheduler that is not started would do next."""
    next_task(lanes)(Clock())


@given(
    images=st.lists(
        st.tuples(st.integers(0, 127), st.sampled_from(MODES), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    threads=st.integers(1, 3),
    max_batch_size=st.integers(1, 8),
)
@settings(max_examples=60)
def test_every_image_has_its_own_answer_and_meets_the_trunk_once(
    images: list[tuple[int, Mode, bool]], threads: int, max_batch_size: int
) -> None:
    trunk, fakes, memory = GatedTrunk(is_open=False), members(), MemoryBudget(10**9)
    reports: list[BatchReport] = []
    options = {"lanes": Lanes(threads), "max_batch_size": max_batch_size}
    with on_trunk(
        trunk, *fakes, on_batch=[reports.append], count_bytes=memory.count, **options
    ) as lanes:
        futures = [submit(lanes, [image(value)], mode)[0] for value, mode, _ in images]
        for future, (_, _, leaves_early) in zip(futures, images, strict=True):
            if leaves_early:
                future.cancel()
        trunk.gate.set()
    for future, (value, mode, leaves_early) in zip(futures, images, strict=True):
        assert future.cancelled() == leaves_early
        if not leaves_early:
            np.testing.assert_allclose(future.result(0), answer_of(value, mode))
    by_trunk = [report.images for report in reports if report.members_answered == (TRUNK,)]
    assert sorted(by_trunk) == sorted(trunk.batches)
    assert max(trunk.batches, default=0) <= max_batch_size
    staying = sum(not leaves_early for _, _, leaves_early in images)
    assert staying <= sum(trunk.batches) <= len(images)
    assert unanswered(lanes) == lanes.queued == memory.held == 0


def test_a_micro_batch_asks_the_trunk_once_and_then_every_member() -> None:
    trunk, fakes = GatedTrunk(), members()
    with on_trunk(trunk, *fakes, lanes=Lanes(1)) as lanes:
        wait(submit(lanes, [image(v) for v in range(4)]), 30)
    assert trunk.batches == [4]
    assert [fake.batches for fake in fakes] == [[4], [4], [4]]


def test_in_a_cascade_later_members_are_asked_about_the_same_features() -> None:
    trunk, fakes = GatedTrunk(), members()
    with on_trunk(trunk, *fakes, lanes=Lanes(1)) as lanes:
        futures = submit(lanes, [image(v) for v in (0, 1, 2, 4)], "cascade")
        for value, future in zip((0, 1, 2, 4), futures, strict=True):
            np.testing.assert_allclose(future.result(30), answer_of(value, "cascade"))
    assert trunk.batches == [4]
    assert [fake.batches for fake in fakes] == [[4], [3], [2]]


def test_images_of_two_trunk_batches_meet_the_members_together() -> None:
    trunk, fakes = GatedTrunk(), members()
    lanes = Scheduler(
        fakes, trunk=trunk, lanes=Lanes(1), max_batch_size=4, split_above_s=math.inf, leaves=leaves
    )
    tasks = []
    for value in (1, 4):
        submit(lanes, [image(value)], "cascade")
        tasks.append(next_task(lanes))
    for task in tasks:
        task(Clock())
    do_next(lanes)
    assert trunk.batches == [1, 1] and fakes[0].batches == [2]


def test_the_members_of_a_lone_image_run_side_by_side() -> None:
    trunk, first, second = GatedTrunk(), GatedMember(is_open=False), GatedMember(is_open=False)
    with on_trunk(trunk, first, second, lanes=Lanes(2)) as lanes:
        (future,) = submit(lanes, [image(1)])
        assert first.entered.acquire(timeout=30)
        assert second.entered.acquire(timeout=30)  # while the first still runs
        assert not future.done()


@pytest.mark.parametrize("mode", MODES)
def test_at_the_trunk_and_right_after_it_there_is_no_answer_to_cut_short(mode: Mode) -> None:
    trunk, fakes, memory = GatedTrunk(), members(), MemoryBudget(10**9)
    lanes = Scheduler(
        fakes,
        trunk=trunk,
        lanes=Lanes(1),
        max_batch_size=2,
        leaves=leaves,
        count_bytes=memory.count,
    )
    hasty, patient = submit(lanes, [image(1), image(2)], mode)
    at_trunk = next_task(lanes)
    at_trunk(Clock())
    assert memory.held == 2 * FEATURES_BYTES
    with pytest.raises(DeadlineExceeded):
        hasty.cut_short()
    with lanes:
        np.testing.assert_allclose(patient.result(30), answer_of(2, mode))
    assert fakes[0].batches == [1] and memory.held == 0


def test_the_members_heard_after_the_trunk_are_an_answer() -> None:
    trunk, slow = GatedTrunk(), GatedMember(is_open=False)
    with on_trunk(trunk, GatedMember(), slow, GatedMember(), lanes=Lanes(1)) as lanes:
        (hasty,) = submit(lanes, [image(3)])
        assert slow.entered.acquire(timeout=30)
        heard = hasty.cut_short()
    assert heard.partial_of == (0,)
    np.testing.assert_allclose(heard.probs_dK, expected(6))


@pytest.mark.parametrize("mode", MODES)
def test_an_image_whose_client_leaves_at_the_trunk_meets_no_member(mode: Mode) -> None:
    trunk, fakes, memory = GatedTrunk(is_open=False), members(), MemoryBudget(10**9)
    with on_trunk(trunk, *fakes, lanes=Lanes(1), count_bytes=memory.count) as lanes:
        leaving, staying = submit(lanes, [image(2), image(5)], mode)
        assert trunk.entered.acquire(timeout=30)
        assert leaving.cancel()
        trunk.gate.set()
        np.testing.assert_allclose(staying.result(30), answer_of(5, mode))
    assert trunk.batches == [2] and fakes[0].batches == [1]
    assert unanswered(lanes) == memory.held == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_trunk_that_fails_fails_its_micro_batch_and_no_other(mode: Mode) -> None:
    trunk, fakes, memory = GatedTrunk(is_open=False), members(), MemoryBudget(10**9)
    reports: list[BatchReport] = []
    trunk.failure = RuntimeError("no memory")
    options: dict[str, Any] = {"on_batch": [reports.append], "count_bytes": memory.count}
    with on_trunk(trunk, *fakes, lanes=Lanes(1), max_batch_size=2, **options) as lanes:
        bad = submit(lanes, [image(1), image(2)], mode)
        assert trunk.entered.acquire(timeout=30)
        (good,) = submit(lanes, [image(4)], mode)
        bad[1].add_done_callback(lambda _: setattr(trunk, "failure", None))
        trunk.gate.set()
        for future in bad:
            with pytest.raises(InferenceFailed, match="the trunk") as caught:
                future.result(30)
            assert "no memory" in str(caught.value.__cause__)
        np.testing.assert_allclose(good.result(30), answer_of(4, mode))
    assert fakes[0].batches == [1]
    first = reports[0]
    assert (first.members_failed, first.members_answered, first.failed) == ((TRUNK,), (), True)
    assert unanswered(lanes) == memory.held == 0


def test_a_trunk_that_gives_another_number_of_features_fails() -> None:
    fakes = members()
    with Scheduler(
        fakes, trunk=lambda images: np.zeros((1, 4), np.float32), lanes=Lanes(1), max_batch_size=4
    ) as lanes:
        for future in submit(lanes, [image(1), image(2)]):
            with pytest.raises(InferenceFailed) as caught:
                future.result(30)
            assert "features of shape (1, 4) for 2 images" in str(caught.value.__cause__)
    assert fakes[0].batches == []


def test_features_count_as_held_while_they_are_needed_and_no_longer() -> None:
    trunk, fakes, memory = GatedTrunk(), members(closed=1), MemoryBudget(3 * FEATURES_BYTES)
    with on_trunk(trunk, *fakes, lanes=Lanes(1), count_bytes=memory.count) as lanes:
        easy, hard = submit(lanes, [image(0), image(1)], "cascade")
        easy.result(30)
        assert fakes[1].entered.acquire(timeout=30)
        assert memory.held == FEATURES_BYTES  # of the one that needs another member
        fakes[1].gate.set()
        hard.result(30)
    assert memory.held == 0


def test_features_are_counted_beyond_the_limit_and_then_others_are_refused() -> None:
    trunk, fakes, memory = GatedTrunk(), members(closed=0), MemoryBudget(FEATURES_BYTES)
    with on_trunk(trunk, *fakes, lanes=Lanes(1), count_bytes=memory.count) as lanes:
        futures = submit(lanes, [image(v) for v in range(3)])
        assert fakes[0].entered.acquire(timeout=30)
        assert memory.held == 3 * FEATURES_BYTES
        with pytest.raises(Overloaded):
            memory.hold(1)
        fakes[0].gate.set()
        wait(futures, 30)
    assert all(future.exception(0) is None for future in futures) and memory.held == 0
    memory.hold(1)


def test_an_image_has_features_in_place_of_its_pixels() -> None:
    pending = PendingImage(image(7))
    lanes = Scheduler([GatedMember()], trunk=GatedTrunk(), lanes=Lanes(1), max_batch_size=1)
    lanes.submit([pending])
    do_next(lanes)
    np.testing.assert_array_equal(pending.inputs, 2 * image(7))
    assert isinstance(pending.picture, np.ndarray) and pending.picture.nbytes == 0
    do_next(lanes)
    assert pending.features is None and pending.answer.done()


@pytest.mark.parametrize("mode", MODES)
def test_closing_answers_images_that_are_between_trunk_and_members(mode: Mode) -> None:
    trunk, fakes = GatedTrunk(is_open=False), members()
    lanes = Scheduler(
        fakes, trunk=trunk, lanes=Lanes(2), max_batch_size=2, split_above_s=math.inf, leaves=leaves
    )
    lanes.__enter__()
    futures = submit(lanes, [image(value) for value in range(12)], mode)
    assert trunk.entered.acquire(timeout=30)
    closing = threading.Thread(target=lanes.__exit__, args=(None, None, None))
    closing.start()
    wait_for(lambda: lanes.closed)
    trunk.gate.set()
    closing.join(30)
    for value, future in enumerate(futures):
        np.testing.assert_allclose(future.result(0), answer_of(value, mode))


@pytest.mark.parametrize("mode", MODES)
def test_what_an_image_takes_is_the_trunks_time_and_the_members(mode: Mode) -> None:
    trunk, fakes = GatedTrunk(), members()
    lanes = Scheduler(
        fakes, trunk=trunk, lanes=Lanes(1), max_batch_size=4, split_above_s=math.inf, leaves=leaves
    )
    load = lanes._entries[mode].load
    measured: list[tuple[float, int]] = []
    count = load.measured

    def note(seconds: float, begun: int) -> None:
        measured.append((seconds, begun))
        count(seconds, begun)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(load), "measured", lambda _, seconds, begun: note(seconds, begun))
        with lanes:
            wait(submit(lanes, [image(1), image(4)], mode), 30)
    (_, at_trunk), *later = measured
    assert at_trunk == 2 and all(begun == 0 for _, begun in later)
    assert len(later) == (1 if mode == "full" else M)
    assert load.image_s == pytest.approx(sum(seconds for seconds, _ in measured) / 2)


def test_images_at_the_trunk_are_queued_and_those_behind_it_are_not() -> None:
    trunk, fakes = GatedTrunk(), members(closed=0)
    with on_trunk(trunk, *fakes, lanes=Lanes(1), max_batch_size=2) as lanes:
        begun = submit(lanes, [image(0), image(1)])
        assert fakes[0].entered.acquire(timeout=30)
        waiting = submit(lanes, [image(2)])
        assert lanes.queued == 1 and unanswered(lanes) == 3
        fakes[0].gate.set()
        wait([*begun, *waiting], 30)


def test_reports_say_what_the_trunk_took_and_no_image_waits_twice() -> None:
    reports: list[BatchReport] = []
    with on_trunk(GatedTrunk(), *members(), lanes=Lanes(1), on_batch=[reports.append]) as lanes:
        wait(submit(lanes, [image(value) for value in (0, 1, 2)], "cascade"), 30)
    found = [(r.images, r.answered, r.members_used, len(r.waits_s)) for r in reports]
    assert found == [(3, 0, 0, 3), (3, 1, 1, 0), (2, 1, 2, 0), (1, 1, 3, 0)]
    assert [report.members_answered for report in reports] == [(TRUNK,), (0,), (1,), (2,)]

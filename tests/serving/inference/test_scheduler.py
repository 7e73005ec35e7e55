import math
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from snapensemble.contracts.metrics import softmax
from snapensemble.serving.errors import InferenceFailed, Stopping
from snapensemble.serving.inference.batch import BatchReport, MemberCall
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import PendingImage
from snapensemble.serving.inference.scheduler import Scheduler
from tests.fakes import GatedMember, submit
from tests.waiting import wait_for


def image(value: int) -> NDArray[np.uint8]:
    return np.full((1, 2, 2), value, dtype=np.uint8)


def expected(value: int, members: int = 1) -> NDArray[np.float64]:
    return np.repeat(softmax(np.array([[4 * value / 100, 0]], dtype=np.float32)), members, axis=0)


@contextmanager
def lanes(*members: GatedMember, **options: Any) -> Iterator[Scheduler]:
    values: dict[str, Any] = {
        "lanes": Lanes(2),
        "max_batch_size": 4,
        "split_above_s": math.inf,
        **options,
    }
    with Scheduler(members, **{**values, **options}) as running:
        try:
            yield running
        finally:  # a failed assertion must not leave a lane at a closed gate
            for member in members:
                member.gate.set()


def test_every_image_gets_its_own_answer_from_every_member() -> None:
    with lanes(GatedMember(), GatedMember(), GatedMember()) as running:
        futures = submit(running, [image(v) for v in range(50)])
        for value, future in enumerate(futures):
            np.testing.assert_allclose(future.result(30), expected(value, 3))


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    threads=st.integers(1, 4),
    members=st.integers(1, 4),
    max_batch_size=st.integers(1, 8),
)
@settings(max_examples=40)
def test_no_answer_reaches_another_image(
    counts: list[int], threads: int, members: int, max_batch_size: int
) -> None:
    fakes = [GatedMember() for _ in range(members)]
    with lanes(*fakes, lanes=Lanes(threads), max_batch_size=max_batch_size) as running:
        futures = [submit(running, [image(v % 256) for v in range(count)]) for count in counts]
        for group in futures:
            for value, future in enumerate(group):
                np.testing.assert_allclose(future.result(30), expected(value % 256, members))
    assert max(max(fake.batches) for fake in fakes) <= max_batch_size


def test_a_lone_image_starts_at_once_and_its_members_run_side_by_side() -> None:
    first, second = GatedMember(is_open=False), GatedMember(is_open=False)
    with lanes(first, second, lanes=Lanes(2)) as running:
        (future,) = submit(running, [image(1)])
        assert first.entered.acquire(timeout=30)
        assert second.entered.acquire(timeout=30)  # while the first still runs
        assert not future.done()


def test_a_batch_grows_while_the_lanes_are_busy() -> None:
    member = GatedMember(is_open=False)
    with lanes(member, lanes=Lanes(1), max_batch_size=4) as running:
        futures = submit(running, [image(0)])
        assert member.entered.acquire(timeout=30)
        for value in range(1, 7):
            futures += submit(running, [image(value)])
        member.gate.set()
        wait(futures, 30)
    assert member.batches == [1, 4, 2]


def test_with_fewer_members_than_lanes_the_queue_is_shared_among_them() -> None:
    member = GatedMember(is_open=False)
    with lanes(member, lanes=Lanes(2), max_batch_size=8) as running:
        futures = submit(running, [image(v) for v in range(6)])
        assert member.entered.acquire(timeout=30) and member.entered.acquire(timeout=30)
        member.gate.set()
        wait(futures, 30)
    assert member.batches[0] == 3  # and not all six on one lane


def test_a_long_queue_is_cut_so_that_lanes_run_while_answers_are_written() -> None:
    member = GatedMember(is_open=False)
    running = Scheduler([member], lanes=Lanes(1), max_batch_size=8, split_above_s=0.0)
    running._stages[0].load.measured(1.0, 1)
    futures = submit(running, [image(v) for v in range(10)])
    member.gate.set()
    with running:
        wait(futures, 30)
    assert member.batches[0] == 5


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is one of processes there")
def test_lanes_let_the_thread_go_first_that_answers_clients() -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found: list[int] = []

    def member(images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return np.zeros((len(images_BCHW), 2), np.float32)

    with Scheduler([member], lanes=Lanes(1), max_batch_size=1) as running:
        submit(running, [image(0)])[0].result(30)
    assert found == [min(19, own + 5)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_an_image_whose_client_left_is_not_run() -> None:
    member = GatedMember(is_open=False)
    with lanes(member, lanes=Lanes(1)) as running:
        submit(running, [image(0)])
        assert member.entered.acquire(timeout=30)
        left, stays = submit(running, [image(1), image(2)])
        assert left.cancel()
        member.gate.set()
        np.testing.assert_allclose(stays.result(30), expected(2))
        with pytest.raises(CancelledError):
            left.result(0)
    assert member.batches == [1, 1]


def test_a_batch_of_which_everyone_left_is_skipped() -> None:
    member = GatedMember(is_open=False)
    with lanes(member, lanes=Lanes(1)) as running:
        submit(running, [image(0)])
        assert member.entered.acquire(timeout=30)
        for future in submit(running, [image(v) for v in range(4)]):
            future.cancel()
        (last,) = submit(running, [image(9)])
        member.gate.set()
        np.testing.assert_allclose(last.result(30), expected(9))
    assert member.batches == [1, 1]


def test_a_client_that_leaves_during_the_run_does_not_hurt_its_batch_mates() -> None:
    member = GatedMember(is_open=False)
    with lanes(member, lanes=Lanes(1)) as running:
        futures = submit(running, [image(v) for v in range(3)])
        assert member.entered.acquire(timeout=30)
        assert futures[1].cancel()
        member.gate.set()
        for value in (0, 2):
            np.testing.assert_allclose(futures[value].result(30), expected(value))
    assert futures[1].cancelled()


def test_a_failing_member_fails_its_batch_and_no_other() -> None:
    good, bad = GatedMember(), GatedMember()
    bad.failure = RuntimeError("no memory")
    with lanes(good, bad) as running:
        futures = submit(running, [image(v) for v in range(3)])
        for future in futures:
            with pytest.raises(InferenceFailed) as caught:
                future.result(30)
            assert "no memory" in str(caught.value.__cause__)
        bad.failure = None
        (after,) = submit(running, [image(5)])
        np.testing.assert_allclose(after.result(30), expected(5, 2))


def test_a_result_that_is_no_number_fails_its_image_only() -> None:
    def broken_for_black(images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        sums_B = images_BCHW.reshape(len(images_BCHW), -1).sum(axis=1)
        logits_B = np.where(sums_B == 0, np.nan, sums_B / 100)
        return np.stack([logits_B, np.zeros_like(logits_B)], axis=1).astype(np.float32)

    with Scheduler(
        [broken_for_black], lanes=Lanes(1), max_batch_size=4, split_above_s=math.inf
    ) as running:
        black, grey = submit(running, [image(0), image(3)])
        with pytest.raises(InferenceFailed, match="gave no number"):
            black.result(30)
        np.testing.assert_allclose(grey.result(30), expected(3))


def test_answers_that_do_not_fit_fail_their_batch_and_the_lane_goes_on() -> None:
    good = GatedMember()
    answers_M: list[MemberCall] = [lambda images: good(images)[:1], good]

    def first(images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        return answers_M[0](images_BCHW)

    with Scheduler([first], lanes=Lanes(1), max_batch_size=4, split_above_s=math.inf) as running:
        for future in submit(running, [image(v) for v in range(3)]):
            with pytest.raises(InferenceFailed):
                future.result(30)
        answers_M.pop(0)
        np.testing.assert_allclose(submit(running, [image(5)])[0].result(30), expected(5))


def test_a_report_that_fails_does_not_end_its_lane() -> None:
    def broken(_: BatchReport) -> None:
        raise RuntimeError("no metrics today")

    with lanes(GatedMember(), lanes=Lanes(1), on_batch=[broken]) as running:
        for value in (1, 2):
            (future,) = submit(running, [image(value)])
            np.testing.assert_allclose(future.result(30), expected(value))


def test_what_images_waited_is_told_beside_what_was_predicted() -> None:
    waits: list[tuple[float, float]] = []
    with lanes(GatedMember(), lanes=Lanes(1), on_wait=lambda *wait: waits.append(wait)) as running:
        image_1, image_2 = PendingImage(image(1)), PendingImage(image(2))
        image_1.times.predicted_s = 0.3
        running.submit([image_1, image_2])
        wait([image_1.answer, image_2.answer], 30)
    ((predicted_s, waited_s),) = waits  # one says it for the whole micro-batch
    assert predicted_s == 0.3 and 0 < waited_s < 30


def test_the_rate_is_measured() -> None:
    member = GatedMember()
    with lanes(member) as running:
        wait(submit(running, [image(v) for v in range(10)]), 30)
        assert running.predicted_wait_s == 0
        member.gate.clear()
        submit(running, [image(0)])
        assert 0 < running.predicted_wait_s < 30


def test_leaving_answers_everything_that_was_accepted_and_refuses_the_rest() -> None:
    member = GatedMember(is_open=False)
    running = Scheduler([member], lanes=Lanes(1), max_batch_size=2, split_above_s=math.inf)
    running.__enter__()
    futures = submit(running, [image(v) for v in range(7)])
    assert member.entered.acquire(timeout=30)
    closing = threading.Thread(target=running.__exit__, args=(None, None, None))
    closing.start()
    wait_for(lambda: running.closed)
    with pytest.raises(Stopping):
        submit(running, [image(0)])
    member.gate.set()
    closing.join(30)
    for value, future in enumerate(futures):
        np.testing.assert_allclose(future.result(0), expected(value))
    assert not any(t.name.startswith("lane-") for t in threading.enumerate())


def test_each_batch_is_reported_once() -> None:
    reports: list[BatchReport] = []
    with lanes(GatedMember(), GatedMember(), lanes=Lanes(1), on_batch=[reports.append]) as running:
        wait(submit(running, [image(v) for v in range(4)]), 30)
    assert [(report.images, report.answered, report.members_used) for report in reports] == [
        (4, 4, 2)
    ]
    assert len(reports[0].waits_s) == 4
    assert len(reports[0].members_s) == 2 and not reports[0].failed
    assert reports[0].inference_s >= max(reports[0].members_s)


def test_many_threads_may_submit_at_once() -> None:
    results: dict[int, list[Future[NDArray[np.float64]]]] = {}
    with lanes(GatedMember(), GatedMember()) as running:

        def submit_many(value: int) -> None:
            results[value] = [submit(running, [image(value)])[0] for _ in range(25)]

        threads = [threading.Thread(target=submit_many, args=(value,)) for value in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for value, futures in results.items():
            for future in futures:
                np.testing.assert_allclose(future.result(30), expected(value, 2))

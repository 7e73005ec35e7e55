"""What a request holds, and that it gives all of it back."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.serving.errors import Overloaded, Stopping
from snapensemble.serving.inference.admission import Admission
from snapensemble.serving.inference.memory import Encoded, MemoryBudget
from snapensemble.serving.inference.request import Answer
from snapensemble.serving.stages import Mode


class Queue:
    """Takes everything, until it has a reason not to."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.taken: list[Encoded] = []

    def refuse_overload(self, count: int, within_s: float = math.inf) -> None:
        if self.refusal is not None:
            raise self.refusal

    def submit(
        self, pictures: Sequence[Encoded], mode: Mode, callback: Callable[[Answer], None]
    ) -> list[Answer]:
        if self.refusal is not None:
            raise self.refusal
        self.taken += pictures
        return [Answer() for _ in pictures]


def admission(queue: Queue, *, images: int = 10, limit: int = 1000) -> Admission:
    return Admission(queue, max_images=images, memory=MemoryBudget(limit))


def holds(admission: Admission) -> tuple[int, int, int]:
    return admission.memory.held, admission.images, admission.requests


def nothing(_: Answer) -> None:
    pass


@pytest.mark.parametrize("ending", [None, ZeroDivisionError, KeyboardInterrupt, Overloaded])
def test_all_is_given_back_whatever_ends_a_request(ending: type[BaseException] | None) -> None:
    queue = Queue()
    one = admission(queue)
    futures: list[Answer] = []

    def live() -> None:
        with one.request() as held:
            held.hold(30)
            futures.extend(held.submit([b"a" * 10, b"b" * 5], "full", queue.submit, nothing))
            assert holds(one) == (15, 2, 1)  # what was around the pictures is free
            if ending is not None:
                raise ending("", 1.0) if ending is Overloaded else ending

    if ending is None:
        live()
    else:
        with pytest.raises(ending):
            live()
    assert holds(one) == (0, 0, 0)
    assert all(future.cancelled() for future in futures)


def test_bytes_that_a_lane_has_taken_count_until_it_is_done() -> None:
    queue = Queue()
    one = admission(queue)
    with one.request() as held:
        held.hold(10)
        held.submit([b"a" * 10], "full", queue.submit, nothing)
        assert queue.taken[0].take() == b"a" * 10
    assert holds(one) == (10, 0, 0)
    queue.taken[0].done()
    assert holds(one) == (0, 0, 0)


def test_a_request_that_is_refused_at_the_queue_has_held_nothing() -> None:
    queue = Queue()
    one = admission(queue)
    queue.refusal = Stopping("the server is shutting down")
    with pytest.raises(Stopping):
        one.request()
    assert holds(one) == (0, 0, 0)


def test_pictures_that_the_queue_does_not_take_are_given_back() -> None:
    queue = Queue()
    one = admission(queue)
    with pytest.raises(Overloaded), one.request() as held:
        held.hold(10)
        queue.refusal = Overloaded("full", 1.0)
        held.submit([b"a" * 10], "full", queue.submit, nothing)
    assert holds(one) == (0, 0, 0)


def test_no_more_images_are_under_way_than_may_be() -> None:
    queue = Queue()
    one = admission(queue, images=3)
    with one.request() as first, one.request() as second:
        first.hold(2)
        first.submit([b"a", b"b"], "full", queue.submit, nothing)
        second.hold(2)
        with pytest.raises(Overloaded, match="2 images are under way, at most 3"):
            second.submit([b"c", b"d"], "full", queue.submit, nothing)
        assert one.images == 2


def test_pictures_are_nowhere_but_where_they_count() -> None:
    """A frame or a traceback that lives on must not keep them."""
    queue = Queue()
    pictures = [b"a" * 10]
    with admission(queue).request() as held:
        held.hold(10)
        held.submit(pictures, "full", queue.submit, nothing)
        assert pictures == []


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=20))
def test_any_number_of_requests_in_any_order_leaves_nothing(sizes: list[tuple[int, int]]) -> None:
    queue = Queue()
    one = admission(queue, images=12, limit=300)
    under_way = []
    for size, count in sizes:
        held = one.request().__enter__()
        under_way.append(held)
        try:
            held.hold(size * count)
            held.submit([bytes(size)] * count, "full", queue.submit, nothing)
        except Overloaded:
            under_way.remove(held)
            held.__exit__(None, None, None)
        assert one.memory.held <= 300 and one.images <= 12
    for held in under_way[::-1]:
        held.__exit__(None, None, None)
    assert holds(one) == (0, 0, 0)

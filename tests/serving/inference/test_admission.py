"""Who is let in, what a request holds, and that it gives all of it back."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from snapensemble.serving.errors import Overloaded, Stopping
from snapensemble.serving.inference.admission import Admission, Forecast, MemoryBudget
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import Answer, Encoded, PendingImage
from tests.fakes import GatedMember, submit
from tests.serving.inference.test_scheduler import lanes


class Fake:
    """A scheduler that takes everything and answers nothing."""

    def __init__(self) -> None:
        self.closed = False
        self.unclaimed = 0
        self.predicted_wait_s = 0.0
        self.disowned: list[PendingImage] = []

    def disown(self, images: Iterable[PendingImage]) -> None:
        self.disowned += images


def admission(
    scheduler: Fake | None = None,
    *,
    images: int = 10,
    limit: int = 1000,
    wait_s: float = math.inf,
    forecast: Forecast | None = None,
) -> Admission:
    return Admission(
        scheduler or Fake(),
        max_images=images,
        max_wait_s=wait_s,
        memory=MemoryBudget(limit),
        forecast=forecast or Forecast(wait_s),
    )


def holds(admission: Admission) -> tuple[int, int, int]:
    return admission.memory.held, admission.images, admission.requests


def encoded(image: PendingImage) -> Encoded:
    assert isinstance(image.picture, Encoded)
    return image.picture


@pytest.mark.parametrize("ending", [None, ZeroDivisionError, KeyboardInterrupt, Overloaded])
def test_all_is_given_back_whatever_ends_a_request(ending: type[BaseException] | None) -> None:
    one = admission()
    futures: list[Answer] = []

    def live() -> None:
        with one.request() as request:
            request.hold(30)
            futures.extend(image.answer for image in request.accept([b"a" * 10, b"b" * 5]))
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
    one = admission()
    with one.request() as request:
        request.hold(10)
        (image,) = request.accept([b"a" * 10])
        assert encoded(image).take() == b"a" * 10
    assert holds(one) == (10, 0, 0)
    encoded(image).done()
    assert holds(one) == (0, 0, 0)


def test_of_a_request_that_is_answered_nothing_is_cancelled() -> None:
    scheduler = Fake()
    one = admission(scheduler)
    with one.request() as request:
        request.hold(1)
        (image,) = request.accept([b"a"])
        assert encoded(image).take() == b"a"
        encoded(image).done()
        request.all_answered()
    assert holds(one) == (0, 0, 0)
    assert not image.answer.cancelled() and scheduler.disowned == []


def test_a_request_that_is_refused_at_its_head_has_held_nothing() -> None:
    scheduler = Fake()
    one = admission(scheduler)
    scheduler.closed = True
    with pytest.raises(Stopping):
        one.request()
    assert holds(one) == (0, 0, 0)


def test_pictures_that_are_not_accepted_are_given_back() -> None:
    scheduler = Fake()
    one = admission(scheduler)
    with pytest.raises(Stopping), one.request() as request:
        request.hold(10)
        scheduler.closed = True
        request.accept([b"a" * 10])
    assert holds(one) == (0, 0, 0)


def test_no_more_images_are_under_way_than_may_be() -> None:
    one = admission(images=3)
    with one.request() as first, one.request() as second:
        first.hold(2)
        first.accept([b"a", b"b"])
        second.hold(2)
        with pytest.raises(Overloaded, match="2 images are under way, at most 3 may be"):
            second.accept([b"c", b"d"])
        assert one.images == 2


def test_it_is_one_order_in_which_reasons_to_refuse_are_looked_at() -> None:
    """Each reason is there until the one before it is taken away."""
    scheduler = Fake()
    one = admission(scheduler, images=1, wait_s=1.0)
    scheduler.closed, scheduler.unclaimed, scheduler.predicted_wait_s = True, 1, 2.0
    with pytest.raises(Overloaded, match="too many connections"):
        one.request(is_crowded=True)
    with pytest.raises(Stopping):
        one.request()
    scheduler.closed = False
    with pytest.raises(Overloaded, match="1 images are under way"):
        one.request()
    scheduler.unclaimed = 0
    with pytest.raises(Overloaded, match=r"would be 2\.0 s, at most 1\.0 s"):
        one.request()
    scheduler.predicted_wait_s = 0.6
    with pytest.raises(Overloaded, match=r"would be 0\.6 s, at most 0\.5 s") as caught:
        one.request(within_s=0.5)
    assert caught.value.retry_after_s == pytest.approx(0.1)
    with one.request():
        pass


def test_a_wait_that_came_out_longer_is_refused_earlier() -> None:
    scheduler, forecast = Fake(), Forecast(1.0)
    one = admission(scheduler, wait_s=1.0, forecast=forecast)
    scheduler.predicted_wait_s = 0.8
    with one.request():
        pass
    for _ in range(200):
        forecast.came_out(1.0, 1.5)
    with pytest.raises(Overloaded, match=r"would be 1\.2 s"):
        one.request()


def test_a_request_remembers_what_it_was_to_wait() -> None:
    scheduler = Fake()
    scheduler.predicted_wait_s = 0.7
    with admission(scheduler).request() as request:
        request.hold(2)
        first, second = request.accept([b"a", b"b"])
    assert (first.times.predicted_s, second.times.predicted_s) == (0.7, 0.0)


def test_pictures_are_nowhere_but_where_they_count() -> None:
    """A frame or a traceback that lives on must not keep them."""
    pictures = [b"a" * 10]
    with admission().request() as request:
        request.hold(10)
        request.accept(pictures)
        assert pictures == []


def test_images_of_clients_that_left_count_until_the_scheduler_has_put_them_out() -> None:
    """Or else a client that asks and leaves, again and again, could fill the queue."""
    member = GatedMember(is_open=False)
    with lanes(member, lanes=Lanes(1), decode=lambda _: member_image()) as scheduler:
        one = Admission(scheduler, max_images=3, memory=MemoryBudget(99), forecast=Forecast(9.0))
        (busy,) = submit(scheduler, [member_image()])
        assert member.entered.acquire(timeout=30)
        assert (one.images, scheduler.unclaimed) == (0, 1)
        with one.request() as request:
            request.hold(2)
            images = request.accept([b"a", b"b"])
            scheduler.submit(images)
            assert (one.images, scheduler.unclaimed) == (2, 1)
        assert (one.images, scheduler.unclaimed, scheduler.queued) == (0, 3, 2)
        with pytest.raises(Overloaded, match="3 images are under way, at most 3 may be"):
            one.request()
        member.gate.set()
        busy.result(30)
    assert scheduler.unclaimed == 0 and holds(one) == (0, 0, 0)
    assert member.batches == [1]


def member_image() -> NDArray[np.uint8]:
    """What `GatedMember` takes for an image."""
    return np.zeros((1, 2, 2), np.uint8)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=20))
def test_any_number_of_requests_in_any_order_leaves_nothing(sizes: list[tuple[int, int]]) -> None:
    one = admission(images=12, limit=300)
    under_way = []
    for size, count in sizes:
        if one.images == 12:
            with pytest.raises(Overloaded):
                one.request()
            continue
        request = one.request().__enter__()
        under_way.append(request)
        try:
            request.hold(size * count)
            request.accept([bytes(size)] * count)
        except Overloaded:
            under_way.remove(request)
            request.__exit__(None, None, None)
        assert one.memory.held <= 300 and one.images <= 12
    for request in under_way[::-1]:
        request.__exit__(None, None, None)
    assert holds(one) == (0, 0, 0)

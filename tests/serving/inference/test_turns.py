"""Who is decoded next: whoever waited longest, unless it has had much of the lanes already."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.serving.inference.batch import full_stage
from snapensemble.serving.inference.request import Answer, Encoded, PendingImage
from snapensemble.serving.inference.scheduler import PATIENCE, Turn, Turns

STAGE = full_stage(1)


def request(name: str, *, at: float, pictures: int = 1) -> Turn:
    """A request of so many pictures, accepted at a time."""
    waiting = []
    for _ in range(pictures):
        answer = Answer()
        answer.times.accepted = at
        waiting.append(PendingImage(name.encode(), answer))
    return Turn(STAGE, waiting)


def name_of(image: PendingImage) -> str:
    assert isinstance(image.picture, Encoded)
    data = image.picture.take()
    assert data is not None
    return data.decode()


def names(turns: Turns, *, seconds_each: float = 0.0) -> list[str]:
    """The names in which order the pictures are taken, each of which takes so long."""
    order = []
    while turns:
        turn, waiting = turns.take()
        turn.used(seconds_each)
        order.append(name_of(waiting))
    return order


def test_the_request_that_has_waited_longest_comes_first() -> None:
    turns = Turns()
    for at, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (1.0, "a, too")):
        turns.add(request(name, at=at))
    assert len(turns) == 4
    assert names(turns) == ["a", "a, too", "b", "c"]


def test_pictures_that_cost_nothing_stay_together() -> None:
    turns = Turns()
    turns.add(request("form", at=0.0, pictures=3))
    turns.add(request("one", at=0.1))
    assert names(turns) == ["form", "form", "form", "one"]


def test_a_request_that_has_had_much_lets_others_go_first() -> None:
    turns = Turns()
    turns.add(request("form", at=0.0, pictures=3))
    for at in (0.1, 3.9, 4.1):
        turns.add(request(f"{at}", at=at))
    assert names(turns, seconds_each=1.0) == ["form", "0.1", "3.9", "form", "4.1", "form"]


def test_taking_from_nobody_is_an_error() -> None:
    with pytest.raises(IndexError):
        Turns().take()


@given(pictures=st.integers(1, 12), form_s=st.floats(0.01, 1), other_s=st.floats(0.01, 0.2))
def test_newcomers_without_end_do_not_keep_a_form_waiting_without_end(
    pictures: int, form_s: float, other_s: float
) -> None:
    """The lane is always busy: whenever a picture is done, another request has come."""
    turns, now = Turns(), 0.0
    turns.add(request("form", at=0.0, pictures=pictures))
    for number in itertools.count():
        turn, waiting = turns.take()
        is_form = name_of(waiting) == "form"
        seconds = form_s if is_form else other_s
        turn.used(seconds)
        now += seconds
        if not turn.pictures and is_form:
            break
        turns.add(request(f"{number}", at=now))
    # What it took itself, and the others for as long as it stood back.
    assert now <= (1 + PATIENCE) * pictures * form_s + pictures * other_s + 1e-6


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 5)), max_size=20), st.floats(0, 1))
def test_every_picture_is_taken_once(requests: list[tuple[float, int]], seconds: float) -> None:
    turns = Turns()
    for number, (at, pictures) in enumerate(requests):
        turns.add(request(f"{number}", at=at, pictures=pictures))
    taken = names(turns, seconds_each=seconds)
    assert sorted(taken) == sorted(
        f"{number}" for number, (_, pictures) in enumerate(requests) for _ in range(pictures)
    )

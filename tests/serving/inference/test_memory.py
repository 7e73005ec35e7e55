"""Bytes that are held, and who frees them."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.serving.errors import Overloaded
from snapensemble.serving.inference.admission import MemoryBudget
from snapensemble.serving.inference.request import Encoded


@given(st.lists(st.integers(0, 100), max_size=30))
def test_no_more_is_held_than_the_limit_and_what_is_refused_does_not_count(
    sizes: list[int],
) -> None:
    memory, held = MemoryBudget(250), 0
    for size in sizes:
        if held + size <= 250:
            memory.hold(size)
            held += size
        else:
            with pytest.raises(Overloaded, match=f"{held} bytes and {size} more"):
                memory.hold(size)
        assert memory.held == held


def test_who_needs_more_waits_until_others_have_freed_it() -> None:
    memory, begun, done = MemoryBudget(100), threading.Event(), threading.Event()
    memory.hold(60)

    def need() -> None:
        begun.set()
        with memory.held_when_free(80, within_s=30):
            assert memory.held == 80
        done.set()

    thread = threading.Thread(target=need)
    thread.start()
    assert begun.wait(30)
    assert not done.is_set()
    memory.let_go(60)
    thread.join(30)
    assert done.is_set() and memory.held == 0


def test_who_waits_in_vain_is_refused() -> None:
    memory = MemoryBudget(100)
    memory.hold(60)
    with (
        pytest.raises(Overloaded, match="80 bytes are needed"),
        memory.held_when_free(80, within_s=0.01),
    ):
        raise AssertionError("it was let in")
    assert memory.held == 60


def test_more_than_there_can_be_is_refused_at_once() -> None:
    memory = MemoryBudget(100)
    with (
        pytest.raises(Overloaded, match="at most 100"),
        memory.held_when_free(101, within_s=3600),
    ):
        raise AssertionError("it was let in")


def test_memory_is_free_again_after_a_failure() -> None:
    memory = MemoryBudget(100)
    with pytest.raises(ZeroDivisionError), memory.held_when_free(80, within_s=1):
        raise ZeroDivisionError
    assert memory.held == 0


def test_bytes_count_until_whoever_has_taken_them_is_done() -> None:
    memory = MemoryBudget(100)
    memory.hold(3)
    picture = Encoded(b"abc", memory.let_go)
    assert picture.take() == b"abc"
    picture.drop()  # its client has left meanwhile
    assert memory.held == 3
    picture.done()
    assert memory.held == 0


def test_bytes_that_are_dropped_are_free_at_once_and_nobody_gets_them() -> None:
    memory = MemoryBudget(100)
    memory.hold(3)
    picture = Encoded(b"abc", memory.let_go)
    picture.drop()
    assert memory.held == 0
    assert picture.take() is None
    picture.drop()
    assert memory.held == 0


@pytest.mark.parametrize("leaves_meanwhile", [False, True])
def test_bytes_that_are_put_back_are_there_for_the_next_unless_they_were_dropped(
    leaves_meanwhile: bool,
) -> None:
    memory = MemoryBudget(100)
    memory.hold(3)
    picture = Encoded(b"abc", memory.let_go)
    data = picture.take()
    assert data is not None
    if leaves_meanwhile:
        picture.drop()
    picture.put_back(data)
    assert memory.held == (0 if leaves_meanwhile else 3)
    assert picture.take() == (None if leaves_meanwhile else b"abc")


def test_of_two_who_want_the_bytes_only_one_frees_them() -> None:
    memory = MemoryBudget(10**9)
    pictures = [Encoded(bytes(size), memory.let_go) for size in range(2000)]
    memory.hold(sum(picture.size for picture in pictures))
    start = threading.Barrier(2)

    def take() -> None:
        start.wait(30)
        for picture in pictures:
            data = picture.take()
            if data == b"":
                picture.put_back(data)
                data = picture.take()
            if data is not None:
                picture.done()

    def drop() -> None:
        start.wait(30)
        for picture in pictures:
            picture.drop()

    threads = [threading.Thread(target=act) for act in (take, drop)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert memory.held == 0

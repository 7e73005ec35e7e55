"""Lanes that are given encoded pictures: a byte stands for an image, b"bad" for a damaged one."""

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidImage
from snapensemble.serving.errors import InferenceFailed
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import Answer, Encoded, Image, PendingImage
from snapensemble.serving.inference.scheduler import PATIENCE, Scheduler
from tests.fakes import GatedMember, submit
from tests.serving.inference.test_scheduler import expected, image


class GatedDecoder:
    """Decodes once its gate is open, and remembers in which order."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.order: list[bytes] = []
        if is_open:
            self.gate.set()

    def __call__(self, picture: bytes) -> Image:
        self.order.append(picture)
        self.entered.release()
        assert self.gate.wait(30)
        if picture == b"bad":
            raise InvalidImage("damaged")
        return image(picture[0])


def encoded(*values: int) -> list[bytes]:
    return [bytes([value]) for value in values]


@contextmanager
def lanes(*members: GatedMember, decode: Any, **options: Any) -> Iterator[Scheduler]:
    values: dict[str, Any] = {
        "lanes": Lanes(1),
        "max_batch_size": 4,
        "split_above_s": math.inf,
        **options,
    }
    with Scheduler(members, decode=decode, **{**values, **options}) as running:
        try:
            yield running
        finally:  # a failed assertion must not leave a lane at a closed gate
            for one in (*members, decode):
                getattr(one, "gate", threading.Event()).set()


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    threads=st.integers(1, 4),
    max_batch_size=st.integers(1, 8),
)
@settings(max_examples=30)
def test_every_encoded_picture_gets_its_own_answer(
    counts: list[int], threads: int, max_batch_size: int
) -> None:
    fakes, decode = [GatedMember(), GatedMember()], GatedDecoder()
    with lanes(
        *fakes, decode=decode, lanes=Lanes(threads), max_batch_size=max_batch_size
    ) as running:
        futures = [submit(running, encoded(*range(count))) for count in counts]
        for group in futures:
            for value, future in enumerate(group):
                np.testing.assert_allclose(future.result(30), expected(value, 2))
        assert running.queued == running.predicted_wait_s == 0


def test_a_damaged_picture_fails_alone() -> None:
    with lanes(GatedMember(), decode=GatedDecoder()) as running:
        good, bad, other = submit(running, [b"\x01", b"bad", b"\x02"])
        np.testing.assert_allclose(good.result(30), expected(1))
        np.testing.assert_allclose(other.result(30), expected(2))
        with pytest.raises(InvalidImage, match="damaged"):
            bad.result(30)


def test_a_defect_of_the_decoder_is_the_servers_fault_and_ends_no_lane() -> None:
    def broken(picture: bytes) -> Image:
        raise RuntimeError("a defect")

    with lanes(GatedMember(), decode=broken) as running:
        (failed,) = submit(running, encoded(1))
        with pytest.raises(InferenceFailed) as caught:
            failed.result(30)
        assert isinstance(caught.value.__cause__, RuntimeError)
        np.testing.assert_allclose(submit(running, [image(3)])[0].result(30), expected(3))


def test_requests_take_turns_so_that_many_pictures_do_not_hold_up_one() -> None:
    decode = GatedDecoder(is_open=False)
    with lanes(GatedMember(), decode=decode) as running:
        came = time.monotonic()
        futures = submit(running, encoded(1, 2, 3, 4))
        assert decode.entered.acquire(timeout=30)
        decoding = time.monotonic()
        futures += submit(running, encoded(9))
        later_s = time.monotonic() - came
        while PATIENCE * (time.monotonic() - decoding) <= later_s:
            pass  # until the first picture has taken what puts the others of its request behind
        decode.gate.set()
        wait(futures, 30)
    assert decode.order.index(b"\x09") == 1  # the other request has had its share


def test_a_lone_picture_is_decoded_while_another_lane_runs_members() -> None:
    member, decode = GatedMember(is_open=False), GatedDecoder()
    with lanes(member, decode=decode, lanes=Lanes(2)) as running:
        submit(running, encoded(1))
        assert member.entered.acquire(timeout=30)
        submit(running, encoded(2))
        assert decode.entered.acquire(timeout=30) and decode.entered.acquire(timeout=30)
        assert member.entered.acquire(timeout=30)  # and its own micro-batch has begun


def test_no_more_is_decoded_than_the_next_micro_batch_takes() -> None:
    member, decode = GatedMember(is_open=False), GatedDecoder()
    with lanes(member, decode=decode, max_batch_size=3) as running:
        futures = submit(running, [image(0)])
        assert member.entered.acquire(timeout=30)
        futures += submit(running, encoded(*range(1, 9)))
        assert decode.order == [] and running.queued == 8
        member.gate.set()
        assert member.entered.acquire(timeout=30)
        wait(futures, 30)
    assert member.batches == [1, 3, 3, 2]


def test_a_picture_whose_client_left_is_not_decoded() -> None:
    member, decode = GatedMember(is_open=False), GatedDecoder()
    with lanes(member, decode=decode) as running:
        submit(running, [image(0)])
        assert member.entered.acquire(timeout=30)
        left, stays = submit(running, encoded(1, 2))
        assert left.cancel()
        member.gate.set()
        np.testing.assert_allclose(stays.result(30), expected(2))
        assert running.predicted_wait_s == 0
    assert decode.order == [b"\x02"]


def test_pictures_that_wait_to_be_decoded_are_answered_on_leaving() -> None:
    member = GatedMember(is_open=False)
    with lanes(member, decode=GatedDecoder()) as running:
        futures = submit(running, [image(0)])
        assert member.entered.acquire(timeout=30)
        futures += submit(running, encoded(1, 2))
    assert [future.done() for future in futures] == [True] * 3


def test_what_damaged_pictures_cost_is_known_too() -> None:
    decode = GatedDecoder()
    told: list[float] = []
    with lanes(GatedMember(), decode=decode, on_decode=told.append) as running:
        wait(submit(running, [b"bad"] * 3), 30)
        decode.gate.clear()
        submit(running, [b"bad"])
        assert running.predicted_wait_s > 0
    assert len(told) == 4 and min(told) > 0


def test_lanes_without_a_decoder_say_so() -> None:
    with Scheduler([GatedMember()], lanes=Lanes(1), max_batch_size=1) as running:
        failure = submit(running, encoded(1))[0].exception(30)
    assert isinstance(failure, InferenceFailed)
    assert "decoded images only" in str(failure.__cause__)


def test_a_picture_knows_how_long_it_took_even_if_it_is_damaged() -> None:
    waiting = PendingImage(Encoded(b"bad"), Answer())
    assert isinstance(waiting.attempt(GatedDecoder()), InvalidImage)
    assert waiting.times.decode_s > 0

"""Lanes with pictures that take long: b"slow" stands for one, other bytes for cheap images."""

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage, TakesTime
from snapensemble.serving.errors import InferenceFailed, Overloaded
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import Image
from snapensemble.serving.inference.scheduler import Scheduler
from tests.fakes import GatedMember, submit
from tests.serving.inference.test_decoding_lanes import GatedDecoder, lanes
from tests.serving.inference.test_scheduler import expected, image


class Decode:
    """A lane's decoder, which hands slow pictures on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, picture: bytes) -> Image:
        if picture.startswith(b"slow"):
            raise TakesTime(self.seconds, memory=1_000)
        return image(picture[0])


class Patient(GatedDecoder):
    """Decodes `slow7` to 7, with a gate; remembers its thread."""

    def __call__(self, picture: bytes) -> Image:
        self.thread = threading.current_thread().name
        self.order.append(picture)
        self.entered.release()
        assert self.gate.wait(30)
        if picture == b"slowbad":
            raise InvalidImage("damaged")
        if picture == b"slownomemory":
            raise MemoryError
        if picture == b"slowdefect":
            raise RuntimeError("a defect")
        return image(int(picture[4:]))


@contextmanager
def running(patient: Patient, *, seconds: float = 0.5, **options: object) -> Iterator[Scheduler]:
    with lanes(GatedMember(), decode=Decode(seconds), decode_costly=patient, **options) as started:
        try:
            yield started
        finally:
            patient.gate.set()


@pytest.mark.parametrize("threads", [1, 2])
def test_cheap_pictures_are_answered_while_costly_ones_are_decoded(threads: int) -> None:
    patient = Patient(is_open=False)
    with running(patient, lanes=Lanes(threads)) as started:
        slow = submit(started, [b"slow7", b"slow8"])
        assert patient.entered.acquire(timeout=30)
        np.testing.assert_allclose(submit(started, [b"\x03"])[0].result(30), expected(3))
        assert patient.thread == "costly-pictures" and not slow[0].done()
        patient.gate.set()
        np.testing.assert_allclose(slow[0].result(30), expected(7))
        np.testing.assert_allclose(slow[1].result(30), expected(8))
        assert started.queued == started.predicted_wait_s == 0


def test_more_costly_pictures_than_can_be_decoded_in_time_are_refused() -> None:
    patient = Patient(is_open=False)
    with running(patient, seconds=0.9) as started:
        first = submit(started, [b"slow1"])
        assert patient.entered.acquire(timeout=30)
        more = [submit(started, [picture])[0] for picture in (b"slow2", b"slow3", b"slow4")]
        refused = more[1].exception(30)
        assert isinstance(refused, Overloaded) and refused.retry_after_s == pytest.approx(1.8)
        assert isinstance(more[2].exception(30), Overloaded)
        patient.gate.set()
        np.testing.assert_allclose(first[0].result(30), expected(1))
        np.testing.assert_allclose(more[0].result(30), expected(2))
        np.testing.assert_allclose(submit(started, [b"slow5"])[0].result(30), expected(5))


def test_one_costly_picture_is_taken_whatever_it_takes() -> None:
    with running(Patient(), seconds=100.0) as started:
        np.testing.assert_allclose(submit(started, [b"slow5"])[0].result(30), expected(5))


def test_what_is_wrong_with_a_costly_picture_or_with_the_server_is_told_apart() -> None:
    with running(Patient(), seconds=0.1) as started:
        bad, hungry, defect, good = submit(
            started, [b"slowbad", b"slownomemory", b"slowdefect", b"slow4"]
        )
        assert isinstance(bad.exception(30), InvalidImage)
        assert isinstance(hungry.exception(30), Overloaded)
        assert isinstance(defect.exception(30), InferenceFailed)
        np.testing.assert_allclose(good.result(30), expected(4))
        assert started.predicted_wait_s == 0


def test_no_memory_for_a_cheap_picture_is_overload_and_no_defect() -> None:
    def no_memory(_: bytes) -> Image:
        raise MemoryError

    with lanes(GatedMember(), decode=no_memory) as started:
        assert isinstance(submit(started, [b"\x01"])[0].exception(30), Overloaded)


def test_every_costly_picture_is_answered_on_leaving() -> None:
    patient = Patient(is_open=False)
    with running(patient) as started:
        futures = submit(started, [b"slow1", b"slow2", b"\x03"])
        assert patient.entered.acquire(timeout=30)
    assert [future.done() for future in futures] == [True] * 3
    np.testing.assert_allclose(futures[1].result(), expected(2))


def test_a_costly_picture_whose_client_left_is_not_decoded() -> None:
    patient = Patient(is_open=False)
    with running(patient) as started:
        first, left, stays = (
            submit(started, [picture])[0] for picture in (b"slow1", b"slow2", b"slow3")
        )
        assert patient.entered.acquire(timeout=30)
        assert first.cancel() and left.cancel()
        patient.gate.set()
        np.testing.assert_allclose(stays.result(30), expected(3))
        assert started.predicted_wait_s == 0
    assert patient.order == [b"slow1", b"slow3"]


def test_no_request_gets_more_decoding_than_one_may_have() -> None:
    with running(Patient(), seconds=0.6) as started:
        first, second, third, cheap = submit(started, [b"slow1", b"slow2", b"slow3", b"\x04"])
        np.testing.assert_allclose(first.result(30), expected(1))
        np.testing.assert_allclose(second.result(30), expected(2))
        for refused in (third, cheap):
            assert isinstance(refused.exception(30), ImageTooCostly)
        assert "took 1.2 s of processor time" in str(third.exception())
        np.testing.assert_allclose(submit(started, [b"\x04"])[0].result(30), expected(4))


def test_memory_is_held_while_a_costly_picture_is_decoded() -> None:
    held: list[int] = []

    @contextmanager
    def hold(memory: int) -> Iterator[None]:
        held.append(memory)
        try:
            yield
        finally:
            held.append(-memory)

    with running(Patient(), hold_memory=hold) as started:
        wait(submit(started, [b"slow1", b"slowbad"]), 30)
        assert held == [1_000, -1_000] * 2


def test_no_memory_to_hold_is_told_to_the_client() -> None:
    @contextmanager
    def hold(_: int) -> Iterator[None]:
        raise Overloaded("no memory", 1.0)
        yield

    with running(Patient(), hold_memory=hold) as started:
        assert isinstance(submit(started, [b"slow1"])[0].exception(30), Overloaded)
        np.testing.assert_allclose(submit(started, [b"\x03"])[0].result(30), expected(3))


@given(
    requests=st.lists(
        st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5),
        min_size=1, max_size=5,
    ),
    threads=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_every_picture_is_answered_once_whatever_the_mixture(
    requests: list[list[tuple[bool, bool]]], threads: int
) -> None:
    patient = Patient()
    with running(patient, lanes=Lanes(threads), seconds=0.01) as started:
        sent = []
        for request in requests:
            pictures = [b"slow7" if slow else b"\x03" for slow, _ in request]
            answers = submit(started, pictures)
            sent += [
                (picture, answer, leaves and answer.cancel())
                for picture, answer, (_, leaves) in zip(pictures, answers, request, strict=True)
            ]
        for picture, answer, has_left in sent:
            if not has_left:
                value = 7 if picture == b"slow7" else 3
                np.testing.assert_allclose(answer.result(30), expected(value))
    assert started.queued == started.predicted_wait_s == 0


def costly_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "costly-pictures"]


def test_the_first_costly_picture_starts_the_thread() -> None:
    before = costly_threads()
    with running(Patient()) as started:
        submit(started, [b"\x03"])[0].result(30)
        assert costly_threads() == before
        np.testing.assert_allclose(submit(started, [b"slow7"])[0].result(30), expected(7))
        assert len(costly_threads()) == len(before) + 1
    assert costly_threads() == before


def test_where_no_thread_can_be_started_a_costly_picture_is_refused_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(Patient()) as started:

        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        (refused,) = submit(started, [b"slow7"])
        assert isinstance(refused.exception(30), Overloaded)
        np.testing.assert_allclose(submit(started, [b"\x03"])[0].result(30), expected(3))
        monkeypatch.undo()
        np.testing.assert_allclose(submit(started, [b"slow7"])[0].result(30), expected(7))

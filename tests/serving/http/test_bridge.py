"""The event loop's bridge: many pictures wake the lanes once, many answers the loop once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from snapensemble.serving.http.bridge import Bridge
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.request import Answer, PendingImage
from tests.factories import encoded, picture
from tests.fakes import GatedMember
from tests.waiting import wait_for

PNG = encoded(picture(1))


def gate_of(engine: Engine) -> GatedMember:
    gate = GatedMember(is_open=False)
    engine.scheduler._members = [gate, GatedMember(), GatedMember()]
    return gate


def submit(bridge: Bridge, pictures: list[bytes], callback: Callable[[Any], None]) -> list[Answer]:
    images = [PendingImage(picture) for picture in pictures]
    bridge.submit(images, "full", callback)
    return [image.answer for image in images]


def counting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """The arguments of each call from now on."""
    calls: list[tuple[Any, ...]] = []
    original: Callable[..., Any] = getattr(owner, name)

    def counted(*args: Any) -> Any:
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(owner, name, counted)
    return calls


async def test_each_picture_is_told_once_when_it_is_answered(engine: Engine) -> None:
    bridge, told = Bridge(engine.scheduler), asyncio.Queue[Any]()
    answers = submit(bridge, [PNG, b"no picture", PNG], told.put_nowait)
    heard = [await asyncio.wait_for(told.get(), 30) for _ in answers]
    assert set(heard) == set(answers) and told.empty()
    assert answers[0].result(0).shape == (3, 3)
    assert answers[1].exception(0) is not None


async def test_pictures_of_one_turn_wake_the_lanes_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge, told = Bridge(engine.scheduler), asyncio.Queue[Any]()
    wakes = counting(monkeypatch, engine.scheduler, "wake")
    for _ in range(5):
        submit(bridge, [PNG, PNG], told.put_nowait)
    assert wakes == []
    for _ in range(10):
        await asyncio.wait_for(told.get(), 30)
    assert wakes == [(10,)]
    submit(bridge, [PNG], told.put_nowait)
    await asyncio.wait_for(told.get(), 30)
    assert wakes == [(10,), (1,)]


async def test_answers_that_are_there_together_wake_the_loop_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge, told = Bridge(engine.scheduler), asyncio.Queue[Any]()
    rings = counting(monkeypatch, asyncio.get_running_loop(), "call_soon_threadsafe")
    answers = submit(bridge, [PNG] * 20, told.put_nowait)
    await asyncio.sleep(0)  # the lanes are woken
    # This thread does not look before all are there.
    wait_for(lambda: len(bridge._answered) == len(answers))
    for _ in answers:
        await asyncio.wait_for(told.get(), 30)
    assert len(rings) == 1


async def test_one_who_cannot_be_told_does_not_keep_it_from_the_others(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    bridge, told = Bridge(engine.scheduler), asyncio.Queue[Any]()

    def broken(answer: Any) -> None:
        told.put_nowait(answer)
        raise ZeroDivisionError("oops")

    submit(bridge, [PNG], broken)
    submit(bridge, [PNG], told.put_nowait)
    for _ in range(2):
        await asyncio.wait_for(told.get(), 30)
    assert "oops" in caplog.text


async def test_a_cancelled_picture_is_told_too(engine: Engine) -> None:
    gate = gate_of(engine)
    bridge, told = Bridge(engine.scheduler), asyncio.Queue[Any]()
    try:
        answers = submit(bridge, [PNG] * 3, told.put_nowait)
        answers[2].cancel()
        assert await asyncio.wait_for(told.get(), 30) is answers[2]
    finally:
        gate.gate.set()


def test_answers_after_the_loop_has_ended_are_nobodys(engine: Engine) -> None:
    gate = gate_of(engine)

    async def submit_and_go() -> list[Any]:
        answers: list[Any] = submit(Bridge(engine.scheduler), [PNG], lambda _: None)
        while not gate.batches:
            await asyncio.sleep(0)
        return answers

    (answer,) = asyncio.run(submit_and_go())
    gate.gate.set()
    assert answer.result(30).shape == (3, 2)

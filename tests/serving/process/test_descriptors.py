"""Connections leave files for all else, whatever the limit of open files is."""

import resource

import pytest

from snapensemble.serving.process.descriptors import (
    ENOUGH,
    METRICS,
    SPARE,
    make_room_for_connections,
    room_for_connections,
    room_for_metrics,
)
from snapensemble.serving.settings import Settings

INFINITY = resource.RLIM_INFINITY
FEW = Settings(max_connections=1000)
GRPC = Settings(max_connections=1000, grpc_port=0)
WITH_METRICS = Settings(max_connections=1000, metrics_port=0)


class Limits:
    """The limits of a process, and what they may become."""

    def __init__(self, soft: int, hard: int, *, may_be: int) -> None:
        self.now = soft, hard
        self._may_be = may_be

    def get(self, _: int) -> tuple[int, int]:
        return self.now

    def set(self, _: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > self._may_be:
            raise ValueError("not allowed to raise maximum limit")
        self.now = wanted


def limits(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, *, may_be: int = INFINITY
) -> Limits:
    found = Limits(soft, hard, may_be=2**63 if may_be == INFINITY else may_be)
    monkeypatch.setattr(resource, "getrlimit", found.get)
    monkeypatch.setattr(resource, "setrlimit", found.set)
    return found


@pytest.mark.parametrize(
    ("settings", "soft", "hard", "becomes"),
    [
        (FEW, 1024, INFINITY, 2000 + SPARE),
        (FEW, 1024, 1_048_576, 2000 + SPARE),
        (GRPC, 1024, 1_048_576, 4000 + SPARE),
        (WITH_METRICS, 1024, 1_048_576, 2000 + SPARE + METRICS),
        (FEW, 20_000, 20_000, 20_000),
        (FEW, INFINITY, INFINITY, INFINITY),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_connections_need(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: Settings,
    soft: int,
    hard: int,
    becomes: int,
) -> None:
    found = limits(monkeypatch, soft, hard)
    make_room_for_connections(settings)
    assert found.now == (becomes, hard) and not caplog.messages
    assert room_for_connections(settings) >= 2 * settings.max_connections


@pytest.mark.parametrize(("soft", "hard", "may_be"), [(256, 1024, INFINITY), (1024, 4096, 1024)])
def test_where_it_cannot_be_raised_so_far_the_log_says_how_many_have_room(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    may_be: int,
) -> None:
    found = limits(monkeypatch, soft, hard, may_be=may_be)
    make_room_for_connections(FEW)
    assert found.now == (1024, hard)
    assert "there is room for 924 connections, --max-connections is 1000" in caplog.messages[-1]


@pytest.mark.parametrize(("soft", "room"), [(64, 32), (200, 100), (1024, 924)])
def test_files_are_left_for_all_else(monkeypatch: pytest.MonkeyPatch, soft: int, room: int) -> None:
    limits(monkeypatch, soft, soft)
    assert room_for_connections(FEW) == room
    assert room_for_connections(GRPC) == room // 2
    taken = room_for_connections(WITH_METRICS) + room_for_metrics(WITH_METRICS)
    assert 0 < taken <= soft - min(SPARE, soft // 4)


@pytest.mark.parametrize(
    ("settings", "hard", "warns"),
    [
        (Settings(grpc_port=0), 20_000, False),  # room for 9,950 at each port
        (Settings(grpc_port=0, max_connections=10_000), 20_000, True),
        (Settings(), ENOUGH + SPARE, False),
        (Settings(), ENOUGH + SPARE - 1, True),
        (Settings(max_connections=500), 600, False),
    ],
)
def test_a_number_that_nobody_has_asked_for_gives_way_without_a_word_while_there_are_enough(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: Settings,
    hard: int,
    warns: bool,
) -> None:
    limits(monkeypatch, hard, hard)
    make_room_for_connections(settings)
    assert ("there is room for" in caplog.text) is warns

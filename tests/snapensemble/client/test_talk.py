"""What a client says: requests, repeats, waits and divisions. No network, and no time passes."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.client.errors import (
    RefusedPicture,
    ServerProblem,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from snapensemble.client.talk import (
    FIRST_WAIT_S,
    MOST_WAIT_S,
    Answers,
    Batch,
    ClientOptions,
    Conversation,
    Failure,
    Reply,
    Request,
    Talk,
    query,
    retry_after_s,
    server_url,
)
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.pictures import BadPicture

URL = "http://server:8000"
BROKEN = Failure("connection refused", may_be_repeated=True)
Server = Callable[[Request], Reply | Failure]
T = TypeVar("T")


class Clock:
    """A clock that waiting and asking move on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Held:
    """A conversation with a server that a test makes, and all that happened in it."""

    def __init__(self, seconds_per_request: float = 0.0, **options: Any) -> None:
        self.clock = Clock()
        self.talk = Talk(URL, ClientOptions(**options), random.Random(0), self.clock)
        self.requests: list[Request] = []
        self.waits: list[float] = []
        self._seconds = seconds_per_request

    def hold(self, conversation: Conversation[T], server: Server) -> T:
        outcome: Reply | Failure | None = None
        while True:
            try:
                said = conversation.send(outcome)
            except StopIteration as end:
                found: T = end.value
                return found
            if isinstance(said, Request):
                self.requests.append(said)
                self.clock.now += self._seconds
                outcome = server(said)
            else:
                self.waits.append(said)
                self.clock.now += said
                outcome = None

    def ask(self, pictures: list[bytes], server: Server, **asked: Any) -> Answers:
        """Hold the conversations about all pictures, one after another."""
        found = Answers([], {})
        for batch in self.talk.batches(pictures):
            assert isinstance(batch, Batch)
            part = self.hold(self.talk.predictions(batch, asked), server)  # type: ignore[arg-type]
            found = Answers(found.predictions + part.predictions, part.model)
        return found


def answer(request: Request) -> Reply:
    """A server's answer, in which a prediction is its picture."""
    document = {
        "predictions": [{"class": picture.decode()} for picture in request.pictures],
        "model": {"name": "m", "version": "1"},
    }
    return Reply(200, {}, json.dumps(document).encode())


def problem(status: int, code: str | None, headers: dict[str, str] | None = None) -> Reply:
    document = {"title": "T", "detail": "why", "code": code, "request_id": "id-1"}
    return Reply(status, headers or {}, json.dumps(document).encode() if code else b"<html>")


def classes(found: Answers) -> list[bytes]:
    return [prediction["class"].encode() for prediction in found.predictions]


def in_turn(*outcomes: Reply | Failure) -> Server:
    """A server that gives these answers, and then answers."""
    left = list(outcomes)
    return lambda request: left.pop(0) if left else answer(request)


@given(
    sizes=st.lists(st.integers(1, 30), max_size=40),
    most_images=st.integers(1, 12),
    most_bytes=st.integers(1, 60),
    servers_images=st.integers(1, 12),
    servers_bytes=st.integers(30, 60),
)
def test_every_picture_is_answered_once_and_in_order_within_the_limits_of_both(
    sizes: list[int], most_images: int, most_bytes: int, servers_images: int, servers_bytes: int
) -> None:
    pictures = [bytes([97 + number % 26]) * size for number, size in enumerate(sizes)]

    def server(request: Request) -> Reply:
        if len(request.pictures) > servers_images:
            return problem(413, "too_many_images")
        if sum(map(len, request.pictures)) > servers_bytes:
            return problem(413, None)  # as a proxy in front says it
        return answer(request)

    held = Held(images_per_request=most_images, bytes_per_request=most_bytes)
    assert classes(held.ask(pictures, server)) == pictures
    for request in held.requests:
        assert len(request.pictures) <= most_images
        assert len(request.pictures) == 1 or sum(map(len, request.pictures)) <= most_bytes
    refused = [request for request in held.requests if server(request).status != 200]
    # What was refused is learned from: a limit is not run into again and again.
    assert len(refused) <= 8


@pytest.mark.parametrize("code", ["too_many_images", "body_too_large", None])
def test_a_request_that_is_too_large_is_halved_and_later_ones_are_small(code: str | None) -> None:
    held = Held(images_per_request=16)
    pictures = [b"%02d" % number for number in range(40)]

    def server(request: Request) -> Reply:
        return problem(413, code) if len(request.pictures) > 4 else answer(request)

    assert classes(held.ask(pictures, server)) == pictures
    sizes = [len(request.pictures) for request in held.requests]
    assert sizes == [16, 8, 4, 4, 8, 4, 4, *[4] * 6]


@given(
    count=st.integers(1, 20),
    bad=st.sets(st.integers(0, 19), min_size=1),
    code=st.sampled_from(["invalid_image", "image_too_large", "image_too_costly"]),
)
def test_the_first_picture_that_is_refused_is_named(count: int, bad: set[int], code: str) -> None:
    pictures = [b"%d" % number for number in range(count)]
    wrong = {b"%d" % number for number in bad}

    def server(request: Request) -> Reply:
        if wrong & set(request.pictures):
            return problem(413 if code == "image_too_large" else 422, code)
        return answer(request)

    held = Held(images_per_request=7)
    if min(bad) >= count:
        assert classes(held.ask(pictures, server)) == pictures
        return
    with pytest.raises(RefusedPicture) as raised:
        held.ask(pictures, server)
    assert (raised.value.index, raised.value.name) == (min(bad), f"picture {min(bad)}")
    assert raised.value.problem.code == code and raised.value.problem.request_id == "id-1"
    assert isinstance(raised.value, BadPicture) and isinstance(raised.value, ServerProblem)


def test_a_picture_that_is_too_large_for_the_server_is_named() -> None:
    for reply in (problem(413, "body_too_large"), problem(413, None)):
        with pytest.raises(RefusedPicture, match="^picture 0: http://server:8000 answered 413"):
            Held().ask([b"x"], in_turn(reply))


@pytest.mark.parametrize("outcome", [problem(503, "overloaded"), problem(503, None), BROKEN])
def test_what_may_be_repeated_is_repeated(outcome: Reply | Failure) -> None:
    held = Held(attempts=4)
    assert classes(held.ask([b"x"], in_turn(outcome, outcome, outcome))) == [b"x"]
    assert len(held.requests) == 4 and len(held.waits) == 3


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        *((problem(status, "c"), ServerProblem) for status in (400, 404, 408, 422, 429, 500, 504)),
        (problem(401, "unauthorized"), Unauthorized),
        (problem(403, None), Unauthorized),
        (Failure("read timeout", may_be_repeated=False), Unreachable),
        (Reply(200, {}, b"hello"), UnexpectedAnswer),
        (Reply(200, {}, b"[]"), UnexpectedAnswer),
        (Reply(200, {}, b'{"predictions": []}'), UnexpectedAnswer),
        (Reply(200, {}, b'{"predictions": 3}'), UnexpectedAnswer),
    ],
)
def test_nothing_else_is_repeated(outcome: Reply | Failure, error: type[Exception]) -> None:
    held = Held()
    with pytest.raises(error):
        held.ask([b"x"], in_turn(outcome))
    assert len(held.requests) == 1 and held.waits == []


def test_attempts_end_with_the_last_error() -> None:
    held = Held(attempts=3)
    with pytest.raises(Unavailable) as raised:
        held.ask([b"x"], lambda _: problem(503, "overloaded"))
    assert len(held.requests) == 3 and raised.value.problem.code == "overloaded"
    held = Held(attempts=1)
    with pytest.raises(Unreachable, match="connection refused; is the server running"):
        held.ask([b"x"], lambda _: BROKEN)
    assert len(held.requests) == 1 and held.waits == []


@given(asked=st.integers(0, 20), attempts=st.integers(1, 9), within=st.integers(1, 90))
def test_waits_respect_retry_after_grow_by_chance_and_end_in_time(
    asked: int, attempts: int, within: int
) -> None:
    held = Held(0.5, attempts=attempts, within_s=within)
    reply = problem(503, "overloaded", {"retry-after": str(asked)})
    with pytest.raises(Unavailable):
        held.ask([b"x"], lambda _: reply)
    for number, wait in enumerate(held.waits):
        assert asked <= wait <= asked + min(MOST_WAIT_S, FIRST_WAIT_S * 2**number)
    # The last request has begun in time, and may take what was left.
    assert held.clock.now <= 100 + within + 0.5
    for request in held.requests:
        assert 0 < request.timeout_s <= within
    assert len(held.requests) == len(held.waits) + 1 <= attempts


def test_waits_are_not_the_same_for_all() -> None:
    reply = problem(503, "overloaded", {"retry-after": "1"})
    waits = []
    for seed in range(20):
        held = Held(attempts=2)
        held.talk._chance = random.Random(seed)
        held.ask([b"x"], in_turn(reply))
        waits += held.waits
    assert len(set(waits)) == 20


def test_a_wait_that_ends_too_late_is_not_begun() -> None:
    held = Held(within_s=10)
    with pytest.raises(Unavailable):
        held.ask([b"x"], lambda _: problem(503, "stopping", {"retry-after": "3600"}))
    assert held.waits == [] and len(held.requests) == 1


def test_all_parts_of_a_request_share_its_time() -> None:
    held = Held(3.0, within_s=10, images_per_request=8)
    with pytest.raises(Unavailable):
        held.ask(
            [b"x"] * 8,
            lambda request: (
                problem(413, "too_many_images")
                if len(request.pictures) > 1
                else problem(503, "overloaded", {"retry-after": "1"})
            ),
        )
    assert held.clock.now <= 100 + 10 + 3.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3), (" 120 ", 120), ("", 0), ("soon", 0), ("-3", 0), ("1.5", 0)],
)
def test_retry_after_is_read(text: str, seconds: float) -> None:
    assert retry_after_s(text, 0) == seconds


def test_retry_after_may_be_a_date() -> None:
    moment = datetime(2026, 11, 27, 12, 0, 30, tzinfo=UTC)
    text = format_datetime(moment, usegmt=True)
    assert retry_after_s(text, moment.timestamp() - 30) == 30
    assert retry_after_s(text, moment.timestamp() + 30) == 0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ""),
        (
            {"top": 3, "members": True, "probabilities": False},
            "?top=3&members=true&probabilities=false",
        ),
        ({"coverage": 0.9, "abstain": None}, "?coverage=0.9"),
        ({"explain": True}, "?explain=true"),
        ({"explain": False}, ""),
        ({"explain": ["a b", "c&d"]}, "?explain=a+b&explain=c%26d"),
        ({"mode": "cascade", "deadline_ms": 50}, "?mode=cascade&deadline_ms=50"),
    ],
)
def test_what_is_asked_becomes_a_query(asked: Any, expected: str) -> None:
    assert query(asked) == expected


def test_an_unknown_parameter_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidConfig, match="there is no topp; expected some of abstain"):
        Held().ask([b"x"], answer, topp=3)


def test_a_bundle_is_asked_by_its_name_and_the_token_is_shown() -> None:
    held = Held(bundle="a b", token="secret")
    held.ask([b"x"], answer, top=1)
    assert held.requests[0].path == "/predict/a%20b?top=1"
    assert held.talk.headers["authorization"] == "Bearer secret"
    assert "secret" not in repr(held.talk.options)
    assert "authorization" not in Held().talk.headers


@pytest.mark.parametrize("url", ["server:8000", "ftp://server", "http://", "http://a:b", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidConfig, match="url"):
        server_url(url)


def test_pictures_are_read_when_they_are_needed() -> None:
    read = []

    def pictures() -> Any:
        for number in range(100):
            read.append(number)
            yield b"x"

    batches = Held(images_per_request=10).talk.batches(pictures())
    next(batches)
    assert len(read) == 11

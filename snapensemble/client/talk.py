"""What a client sends, repeats and divides, and what it makes of answers. It sends nothing itself.

A conversation is a generator: it yields a request or seconds to wait, and is sent what came back.
So the client that blocks and the one that does not obey the same rules, and tests need no network.
"""

import email.utils
import json
import random
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar, cast

from pydantic import Field, SecretStr, field_validator

from snapensemble.client.errors import (
    Problem,
    RefusedPicture,
    ServerProblem,
    UnexpectedAnswer,
    Unreachable,
    server_problem,
)
from snapensemble.contracts.errors import InvalidConfig, InvalidData, InvalidImage
from snapensemble.contracts.options import Options
from snapensemble.contracts.process import printable
from snapensemble.pictures import BadPicture, Picture, encoded, name_of
from snapensemble.predictions import AskedOfServer, explained_classes

FIRST_WAIT_S, MOST_WAIT_S = 0.25, 8.0
LEAST_TIMEOUT_S = 0.001
# A proxy in front has its own limit, and answers 413 in words of its own.
TOO_MUCH = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
OF_A_PICTURE = {"invalid_image", "image_too_large", "image_too_costly", "empty_body"}
T = TypeVar("T")


class ClientOptions(Options):
    """How a client behaves."""

    token: SecretStr | None = Field(None, description="a bearer token, if the server wants one")
    bundle: str | None = Field(
        None, description="the name of one of several bundles that the server has"
    )
    within_s: float = Field(
        60.0, gt=0, description="time for a request with all its repeats, seconds"
    )
    attempts: int = Field(6, ge=1, description="how often a request is sent at most")
    images_per_request: int = Field(16, ge=1, description="pictures in one request")
    bytes_per_request: int = Field(
        15 * 2**20, ge=1, description="bytes of pictures in one request, unless it has one only"
    )
    concurrency: int = Field(4, ge=1, le=1_000, description="requests at the same time")

    @field_validator("token")
    @classmethod
    def _a_header_can_carry_the_token(cls, token: SecretStr | None) -> SecretStr | None:
        text = "" if token is None else token.get_secret_value()
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError("expected printable ASCII characters without a space")
        return token


class ServerUrl(NamedTuple):
    """The parts of a server's URL."""

    scheme: str
    host: str
    port: int | None  # None: the scheme's own
    prefix: str  # the path in front of the server's own paths


class Batch(NamedTuple):
    """Pictures that go into one request."""

    first: int  # the place of its first picture among all
    names: tuple[str, ...]
    pictures: tuple[bytes, ...]

    def part(self, start: int, stop: int) -> "Batch":
        """Some of its pictures."""
        return Batch(self.first + start, self.names[start:stop], self.pictures[start:stop])


class Request(NamedTuple):
    """A request to send now, and the seconds that there are for it."""

    method: str
    path: str
    pictures: tuple[bytes, ...]  # one is the body; several are files of a form
    timeout_s: float = 0.0


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]  # in lower case
    body: bytes


class Failure(NamedTuple):
    """Nothing came back."""

    reason: str
    may_be_repeated: bool  # the connection was refused or broke


class Answers(NamedTuple):
    """Predictions as JSON, and which model made them."""

    predictions: list[dict[str, Any]]
    model: dict[str, Any]


Conversation = Generator[Request | float, Reply | Failure | None, T]


class Talk:
    """The conversations with one server.

    Args:
        url: for example `http://127.0.0.1:8000`.
        options: how to behave.
        chance: of the waits.
        clock: in seconds.

    Raises:
        InvalidConfig: it is no URL.
    """

    def __init__(
        self,
        url: str,
        options: ClientOptions,
        chance: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        server_url(url)
        self.url = url.rstrip("/")
        self.options = options
        self._chance = chance or random.Random()  # noqa: S311 # keeps nothing secret
        self._clock = clock
        self._most_images = options.images_per_request
        self._most_bytes = options.bytes_per_request

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        token = self.options.token
        found = {"accept": "application/json"}
        if token is not None:
            found["authorization"] = f"Bearer {token.get_secret_value()}"
        return found

    def batches(
        self, pictures: Iterable[Picture], names: Sequence[str] | None = None
    ) -> Iterator[Batch | BadPicture]:
        """Yield the pictures in requests, read as they are needed; an unreadable one ends it."""
        batch, size = Batch(0, (), ()), 0
        for index, picture in enumerate(pictures):
            name = name_of(picture, index) if names is None else names[index]
            try:
                data = encoded(picture)
            except (InvalidData, InvalidImage) as error:
                if batch.pictures:
                    yield batch
                yield BadPicture(index, name, error)
                return
            is_full = len(batch.pictures) >= self._most_images
            if batch.pictures and (is_full or size + len(data) > self._most_bytes):
                yield batch
                batch, size = Batch(index, (), ()), 0
            batch = Batch(batch.first, (*batch.names, name), (*batch.pictures, data))
            size += len(data)
        if batch.pictures:
            yield batch

    def predictions(self, batch: Batch, asked: AskedOfServer) -> Conversation[Answers]:
        """Ask about the pictures of a batch.

        A batch that is too large is divided. One of whose pictures one is refused is asked about
        picture by picture, since the others have answers, and the error shall say which one it is.

        Raises:
            RefusedPicture: the server cannot read one.
            ServerProblem, Unreachable, UnexpectedAnswer: it gives no answer.
        """
        name = self.options.bundle
        path = "/predict" if name is None else f"/predict/{urllib.parse.quote(name, safe='')}"
        return self._divided(batch, f"{path}{query(asked)}", self._clock() + self.options.within_s)

    def model(self) -> Conversation[dict[str, Any]]:
        """Ask what is served."""
        request = Request("GET", "/model", ())
        return (yield from self._answered(request, self._clock() + self.options.within_s))

    def _divided(self, batch: Batch, path: str, end: float) -> Conversation[Answers]:
        count = len(batch.pictures)
        try:
            document = yield from self._answered(Request("POST", path, batch.pictures), end)
        except ServerProblem as error:
            is_too_much = (
                error.problem.status == TOO_MUCH and error.problem.code not in OF_A_PICTURE
            )
            if not is_too_much and error.problem.code not in OF_A_PICTURE:
                raise
            if count == 1:
                raise RefusedPicture(batch.first, batch.names[0], error) from error
            step = count // 2 if is_too_much else 1
            # What is read from now on need not be refused first.
            if error.problem.code == "too_many_images":
                self._most_images = min(self._most_images, step)
            elif is_too_much:
                self._most_bytes = min(self._most_bytes, sum(map(len, batch.pictures)) // 2)
        else:
            return self._checked(document, count)
        predictions: list[dict[str, Any]] = []
        for start in range(0, count, step):
            part = batch.part(start, min(start + step, count))
            found = yield from self._divided(part, path, end)
            predictions += found.predictions
        return Answers(predictions, found.model)

    def _answered(self, request: Request, end: float) -> Conversation[dict[str, Any]]:
        """Send a request, again where that may help, until the time or the attempts are used up."""
        attempt = 0
        while True:
            attempt += 1
            rest_s = max(end - self._clock(), LEAST_TIMEOUT_S)
            outcome = yield request._replace(timeout_s=rest_s)
            assert outcome is not None
            wait_s = self._wait_s(attempt, outcome)
            if wait_s is None or attempt == self.options.attempts or self._clock() + wait_s >= end:
                break
            yield wait_s
        if isinstance(outcome, Failure):
            raise Unreachable(
                f"no answer from {self.url}: {outcome.reason}; is the server running?"
            )
        return self._document(outcome)

    def _wait_s(self, attempt: int, outcome: Reply | Failure) -> float | None:
        """How long to wait before the next attempt; None if it would not help.

        Waits grow from try to try and are drawn by chance, so that clients that were refused
        together do not come back together (exponential backoff with full jitter); what the server
        asks for comes on top.
        """
        most = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
        jitter_s = self._chance.uniform(0, most)
        if isinstance(outcome, Failure):
            return jitter_s if outcome.may_be_repeated else None
        if outcome.status != HTTPStatus.SERVICE_UNAVAILABLE:
            return None
        return retry_after_s(outcome.headers.get("retry-after", ""), time.time()) + jitter_s

    def _document(self, reply: Reply) -> dict[str, Any]:
        try:
            found = json.loads(reply.body)
        except (ValueError, RecursionError):
            found = None
        if reply.status != HTTPStatus.OK:
            problem = problem_of(reply, found if isinstance(found, dict) else {})
            raise server_problem(self.url, problem)
        if not isinstance(found, dict):
            raise UnexpectedAnswer(f"{self.url} does not answer as a snapensemble server does")
        return found

    def _checked(self, document: dict[str, Any], count: int) -> Answers:
        predictions, model = document.get("predictions"), document.get("model")
        if not isinstance(predictions, list) or len(predictions) != count:
            raise UnexpectedAnswer(f"{self.url} does not answer as a snapensemble server does")
        return Answers(predictions, model if isinstance(model, dict) else {})


def problem_of(reply: Reply, document: Mapping[str, Any]) -> Problem:
    """The problem document of an answer, or what its status says where it has none."""
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "unknown status"
    code, identity = document.get("code"), document.get("request_id")
    target = reply.headers.get("location")
    reason = "without a reason" if target is None else f"leads to {target}: give that URL"
    return Problem(
        reply.status,
        None if code is None else str(code),
        str(document.get("title", phrase)),
        printable(str(document.get("detail", f"{phrase}, {reason}"))),
        reply.headers.get("x-request-id") if identity is None else str(identity),
    )


def retry_after_s(text: str, now: float) -> float:
    """The seconds of a Retry-After (RFC 9110): a number, or a date; 0 if it is neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def query(asked: AskedOfServer) -> str:
    """The query of `POST /predict`, with its question mark; empty if nothing is asked.

    Raises:
        InvalidConfig: there is no such parameter.
    """
    values: dict[str, Any] = {**asked}
    known = AskedOfServer.__optional_keys__
    for name in values.keys() - known:
        raise InvalidConfig(f"there is no {name}; expected some of {', '.join(sorted(known))}")
    values["explain"] = explained_classes(values.get("explain", ()))
    pairs = [
        (name, str(each).lower() if isinstance(each, bool) else str(each))
        for name, value in values.items()
        for each in (cast("Iterable[object]", value) if isinstance(value, tuple) else [value])
        if each is not None
    ]
    return f"?{urllib.parse.urlencode(pairs)}" if pairs else ""


def server_url(url: str, schemes: Sequence[str] = ("http", "https")) -> ServerUrl:
    """The parts of a server's URL.

    Raises:
        InvalidConfig: it is no URL of one of the schemes.
    """
    if not isinstance(url, str):
        raise InvalidConfig(f"--url: expected a text, got {url!r}")
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidConfig(f"--url {url!r}: {error}") from error
    if parts.scheme not in schemes or not host:
        raise InvalidConfig(f"--url {url!r}: expected something like http://127.0.0.1:8000")
    return ServerUrl(parts.scheme, host, port, parts.path.rstrip("/"))
